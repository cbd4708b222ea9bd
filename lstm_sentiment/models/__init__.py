"""The networks: LSTM with embedding and linear head, and the n-gram branch."""
