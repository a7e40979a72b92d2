"""Small worlds for the tests of the phantom: uniform tissue with one lesion, and a few simulated patients."""

from functools import lru_cache

import numpy as np

from cmbfe.data.lesions import Lesion
from cmbfe.data.patient import SimulatedPatient
from cmbfe.data.physics import FLIP_ANGLE_DEGREES, REPETITION_TIME_MS, Scene
from cmbfe.data.scan import Scan
from cmbfe.data.simulate import simulate_patient
from cmbfe.data.tissue import WHITE_MATTER, spoiled_amplitude


def small_scan(matrix: int = 64, slices: int = 24, pixel_mm: float = 0.46875) -> Scan:
    """A block of `slices` 2 mm slices, 1 mm apart, around the origin, across the static field."""
    return Scan(matrix, slices, matrix * pixel_mm, 2.0, 1.0, -(slices - 1) / 2, 0.0, 0.0)


def uniform_scene(scan: Scan) -> Scene:
    """White matter everywhere, no veins, a perfect field and coil."""
    shape = tuple(len(axis) for axis in scan.fine_axes_mm)
    amplitude = spoiled_amplitude(WHITE_MATTER, REPETITION_TIME_MS, FLIP_ANGLE_DEGREES)
    nothing = np.zeros(shape, np.float32)
    return Scene(
        amplitude=np.full(shape, amplitude, np.float32),
        r2star=np.full(shape, WHITE_MATTER.r2star_per_s, np.float32),
        field=nothing,
        spread=nothing,
        blood=nothing,
        along=nothing,
        coil=np.ones(shape, np.float32),
        blood_chi=0.5,
    )


def ball(diameter_mm: float, chi_ppm: float, kind: str = "cmb", r2star_per_s: float = 150.0) -> Lesion:
    """A single ball at the origin."""
    return Lesion(
        kind, "lobar", np.zeros(3), np.zeros((1, 3)), np.array([diameter_mm / 2]), chi_ppm, r2star_per_s, 0.8
    )


@lru_cache(maxsize=4)
def patient(seed: int, matrix: int = 128, slices: int = 10, cmb_count: int | None = 3) -> SimulatedPatient:
    """A simulated patient, made once per test run."""
    return simulate_patient(seed, matrix=matrix, slices=slices, cmb_count=cmb_count)
