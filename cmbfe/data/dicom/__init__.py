"""Read DICOM series: headers, pixel data, volumes."""
