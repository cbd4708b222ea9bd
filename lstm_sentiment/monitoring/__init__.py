"""Comparison of new texts with the validation rows of a run."""
