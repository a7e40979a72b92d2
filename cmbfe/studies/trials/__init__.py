"""What the study trains and tests. Its stages depend on this folder, and not on what reads their results."""
