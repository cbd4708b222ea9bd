"""Reading a text that comes in pieces, with constant memory (`SentimentClassifier.stream`)."""
