"""Compiled C kernels and their ctypes wrappers: LSTM layers, pooling, sparse AdamW for embeddings."""
