"""The HTML report of a run (command `report`)."""
