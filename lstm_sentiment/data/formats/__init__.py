"""File formats: one module per input format, one for all output formats."""
