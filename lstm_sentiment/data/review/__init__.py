"""A reviewed table of suspect rows: reading it, leaving out its rows, writing a fixed copy."""
