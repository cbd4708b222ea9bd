"""Training that starts from a finished classifier, next to a linear model that it must not fall behind."""
