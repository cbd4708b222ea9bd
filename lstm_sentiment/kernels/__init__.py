"""Compiled C kernels, and the ctypes code that calls them: LSTM layers, pooling, AdamW for embedding rows."""
