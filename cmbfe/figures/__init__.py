"""All figures, the viewer and its gallery."""
