"""What is wrong with data, settings or model (command `doctor`)."""
