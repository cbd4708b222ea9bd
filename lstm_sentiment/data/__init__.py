"""From rows to batches: labels, splits, token store, corpus, dataset, pretrained word vectors."""
