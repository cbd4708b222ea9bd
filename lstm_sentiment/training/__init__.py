"""The training loop: trainer, objectives, regularizers, optimizer, schedule."""
