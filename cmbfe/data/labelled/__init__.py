"""Labelled images: COCO labels, image files, splits by patient, detections."""
