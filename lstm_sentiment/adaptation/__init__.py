"""Training that starts from a finished classifier, beside a linear model that it must not fall behind."""
