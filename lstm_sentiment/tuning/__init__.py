"""Search of settings with Optuna (command `search`)."""
