"""One training run from configuration to metrics.json: start, resume, signals, final scores, seeds."""
