"""Explaining one prediction (command `explain`)."""
