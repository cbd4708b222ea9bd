"""What is wrong with data, settings or model: the rooms of the command `doctor`."""
