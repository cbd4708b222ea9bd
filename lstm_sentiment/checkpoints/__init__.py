"""The run folder on disk: checkpoints, their manifest, and reading what anybody may have written."""
