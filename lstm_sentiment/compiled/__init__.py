"""What is compiled from C: the room of `model`'s fastest parts, each of which PyTorch can replace."""
