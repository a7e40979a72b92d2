"""Classical and 3-D baselines to compare with SSD. Each finds candidates in a volume and then classifies them.

Each baseline names the paper of its method, and uses the same patients and metrics as SSD.
"""

from enum import StrEnum


class Baseline(StrEnum):
    """Name of a baseline on the command line and in results/, kept here so that `cmbfe --help` loads no other code."""

    RADIAL_SYMMETRY = "radial-symmetry"
    THRESHOLDING = "thresholding"
    CASCADE = "cascade"
