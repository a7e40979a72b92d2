"""Ways to show a detector its ground truth in training only: FE and its relatives, a file each (see `registry`)."""
