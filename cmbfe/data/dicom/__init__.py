"""DICOM series: slices, pixels, volumes."""
