"""From text to token ids: tokenization, vocabulary, subwords."""
