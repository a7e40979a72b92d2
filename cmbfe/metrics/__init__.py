"""Evaluation of detections: matching, curves, intervals, lesions, subgroups, calibration and agreement."""
