"""A run as an ONNX model and a runtime of one file: the rooms of the command `export`."""
