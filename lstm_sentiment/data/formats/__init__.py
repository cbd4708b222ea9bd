"""data.formats."""
