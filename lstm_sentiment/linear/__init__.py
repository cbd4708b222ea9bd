"""Linear models of words and word pairs: features, fit, and the baseline of every run."""
