"""Diagnostics of data, settings and model (command `doctor`)."""
