"""Transfer learning: training that starts from a trained classifier, compared with a linear model."""
