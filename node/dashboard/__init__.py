"""`paris-node dashboard`: a page on this machine with what `status` and `doctor` know, and what was drawn."""
