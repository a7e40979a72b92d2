"""Every drawing; the viewer and its gallery."""
