"""Run folders on disk: checkpoints, manifests, and safe reading of untrusted files."""
