"""Parquet and Feather, read in bounded memory."""
