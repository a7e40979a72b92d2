"""Other people's data as images and labels: a module per format, and what they share (docs/own_data.md)."""
