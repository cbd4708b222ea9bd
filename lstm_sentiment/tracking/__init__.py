"""Runs in the tracking tools that a team has: MLflow and Weights & Biases (`trainer.log_to`)."""
