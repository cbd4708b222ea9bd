"""Data sources: files, archives, installed packages, URLs."""
