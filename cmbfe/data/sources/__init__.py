"""Data of others as images and labels: a file per format, and what all of them share (docs/own_data.md)."""
