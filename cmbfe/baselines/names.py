"""The detectors of other kinds by name; apart from their code, so that `cmbfe --help` need not load it."""

from enum import StrEnum


class Baseline(StrEnum):
    """A detector of another kind, as the command line and results/ call it."""

    RADIAL_SYMMETRY = "radial-symmetry"
    THRESHOLDING = "thresholding"
    CASCADE = "cascade"
