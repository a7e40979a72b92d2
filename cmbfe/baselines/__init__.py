"""Detectors of other kinds to compare SSD with: candidates in a volume of slices, then a classifier of candidates.

Each names its method's paper, and is trained and tested on the same patients and scored by the same metrics as SSD.
"""
