"""`cmbfe evaluate`: COCO files of any detector to metrics and a page."""
