"""HTML pages and their pictures: the rooms of the commands `report` and `explain`."""
