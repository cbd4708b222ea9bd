"""data.formats.arrow."""
