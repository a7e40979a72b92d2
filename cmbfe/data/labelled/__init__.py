"""Labelled images as every other room reads them: COCO labels, images, splits, detections."""
