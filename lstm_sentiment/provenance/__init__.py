"""Which texts a run was trained on, and which rows were held out."""
