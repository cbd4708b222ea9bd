"""Finds rows that are likely wrong: labels, duplicates, foreign languages, empty texts."""
