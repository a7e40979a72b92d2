"""FE in detectors that are not ours: torchvision's, trained by one loop, with and without."""
