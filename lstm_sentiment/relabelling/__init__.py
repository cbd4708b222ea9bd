"""Renaming and merging the classes of a finished run."""
