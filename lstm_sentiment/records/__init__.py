"""The JSON files of a run as dataclasses, and the conversion between the two."""
