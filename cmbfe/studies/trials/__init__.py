"""Training and tests of the study. Its stages depend on this folder, not on the modules that read the results."""
