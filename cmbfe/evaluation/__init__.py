"""`cmbfe evaluate`: turns COCO files of any detector into metrics and a page."""
