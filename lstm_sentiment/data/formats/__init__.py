"""File formats: one module per format that is read, one for all that are written."""
