"""An HTTP server of predictions (extra ``serve``); the command is `lstm_sentiment.serve`."""
