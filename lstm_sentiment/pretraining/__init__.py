"""Language models on unlabelled text, and classifiers that start from them."""
