"""Import data of other formats as images and labels: one module per format, and shared modules (docs/own_data.md)."""
