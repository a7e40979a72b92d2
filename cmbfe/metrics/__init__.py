"""What detections are worth: matching, curves, intervals, lesions, subgroups, calibration, agreement."""
