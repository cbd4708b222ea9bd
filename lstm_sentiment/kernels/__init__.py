"""What is compiled from C, and PyTorch does elsewhere: LSTM layers, pooling, AdamW for rows of embeddings."""
