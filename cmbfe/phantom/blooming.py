"""How large a microbleed looks: one ball in uniform white matter, at any echo time."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cmbfe.phantom.lesions import Lesion
from cmbfe.phantom.physics import FLIP_ANGLE_DEGREES, REPETITION_TIME_MS, Scene
from cmbfe.phantom.scan import Scan
from cmbfe.phantom.tissue import WHITE_MATTER, spoiled_amplitude
from cmbfe.phantom.visibility import DARKENED, footprint_of, with_and_without


def block_scan(matrix: int = 64, slices: int = 24, pixel_mm: float = 0.46875) -> Scan:
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


def darkening(lesion: Lesion, echo_times_ms: Sequence[float]) -> np.ndarray:
    """Share of signal that a lesion in uniform white matter takes, [slices, rows, columns] around it."""
    scan = block_scan()
    footprint = footprint_of(lesion, scan, echo_times_ms)
    changed, unchanged, _ = with_and_without(uniform_scene(scan), footprint, scan, echo_times_ms)
    return 1 - changed / unchanged


def visible_size(lesion: Lesion, echo_times_ms: Sequence[float]) -> tuple[float, float]:
    """Visible diameter mm on the best slice, and volume mm^3 of the darkened voxels, at the mean of some echoes."""
    lost = darkening(lesion, echo_times_ms) > DARKENED
    scan = block_scan()
    diameter = 2 * np.sqrt(lost.sum((1, 2)).max() / np.pi) * scan.pixel_mm
    return float(diameter), float(lost.sum() * scan.pixel_mm**2 * scan.spacing_mm)


def blooming_table(
    diameters_mm: Sequence[float] = (1.5, 2.0, 3.0, 4.0),
    echo_times_ms: Sequence[float] = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    chi_ppm: float = 1.1,
) -> pd.DataFrame:
    """Visible diameter mm and volume mm^3 of balls by echo time: columns true_mm, echo_time_ms, visible_mm, volume."""
    rows = [
        (diameter, echo_time, *visible_size(ball(diameter, chi_ppm), (echo_time,)))
        for diameter in diameters_mm
        for echo_time in echo_times_ms
    ]
    return pd.DataFrame(rows, columns=["true_mm", "echo_time_ms", "visible_mm", "volume_mm3"])
