"""Parquet and Feather readers with bounded memory."""
