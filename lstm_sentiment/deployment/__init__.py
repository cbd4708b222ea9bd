"""A run as an ONNX model with a runtime of one file (command `export`)."""
