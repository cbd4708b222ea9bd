"""Data pipeline: labels, splits, token store, corpus, batches, pretrained word vectors."""
