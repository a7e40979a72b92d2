"""Classical and 3-D baselines to compare SSD with: candidates in a volume of slices, then a classifier of candidates.

Each names its method's paper, is trained and tested on the same patients, and is scored by the same metrics as SSD.
"""

from enum import StrEnum


class Baseline(StrEnum):
    """A baseline, as the command line and results/ call it; here, so that `cmbfe --help` need not load its code."""

    RADIAL_SYMMETRY = "radial-symmetry"
    THRESHOLDING = "thresholding"
    CASCADE = "cascade"
