"""Comparison of systems on the same rows: runs, seeds, branches and files of predictions; scores by slice."""
