"""Filtered phase as a second channel of the images: which series it is, and how it becomes 8 bits.

Iron (microbleeds, veins) is paramagnetic, calcium diamagnetic: they shift the field, and with it the phase, in opposite
directions, while both are dark in the magnitude [Chen 2014, Radiology 270:496; Haacke 2004, Magn Reson Med 52:612].
"""

from collections.abc import Sequence

import numpy as np

from cmbfe.data.dicom.series import SeriesHeaders, read_volume
from cmbfe.data.dicom.stacks import SAME_DIRECTION, SAME_ECHO_TIME_MS, SAME_POSITION_MM, SAME_SPACING_MM
from cmbfe.data.labelled.images import HALF_TURN, ZERO_PHASE
from cmbfe.errors import InputError

LARGEST_MRAD = 3142
"""Half a turn, rounded up to a whole mrad as in files."""


def to_8_bit_phase(volume_mrad: np.ndarray) -> np.ndarray:
    """Phase in mrad to uint8, same shape: 128 is 0, 1 and 255 are half a turn to either side; 0 is never used."""
    steps = np.rint(volume_mrad * (HALF_TURN / (1000 * np.pi)))
    return (steps.clip(-HALF_TURN, HALF_TURN) + ZERO_PHASE).astype(np.uint8)


def phase_images(series: SeriesHeaders) -> np.ndarray:
    """A phase series as images: uint8 [slices, rows, columns], see `to_8_bit_phase`.

    Raises:
        InputError: it cannot be read, or is not in mrad: scanners that write other units do not say which.
    """
    volume = read_volume(series)
    low, high = float(volume.min()), float(volume.max())
    if low < -LARGEST_MRAD or high > LARGEST_MRAD or low >= 0:
        expected = f"expected mrad, {-LARGEST_MRAD} to {LARGEST_MRAD} around 0"
        raise InputError(f"{series.files[0]}: phase from {low:g} to {high:g}; {expected}: set RescaleSlope")
    return to_8_bit_phase(volume)


def phase_of(magnitude: SeriesHeaders, others: Sequence[SeriesHeaders]) -> SeriesHeaders:
    """The phase series of a magnitude series: of the same patient and study, slice upon slice, at its echo if several.

    Raises:
        InputError: there is none, or more than one.
    """
    fitting = [series for series in others if series.kind == "phase" and _lies_on(series, magnitude)]
    if len(fitting) > 1:  # a scan of several echoes has a phase for each
        echo_ms = magnitude.echo_time_ms
        fitting = [series for series in fitting if abs(series.echo_time_ms - echo_ms) <= SAME_ECHO_TIME_MS]
    if len(fitting) == 1:
        return fitting[0]
    what = f"{len(fitting) or 'no'} phase series of the same study on the slices of this magnitude series"
    raise InputError(f"{magnitude.files[0]}: {what}; images.phase needs one")


def _lies_on(series: SeriesHeaders, other: SeriesHeaders) -> bool:
    """Whether two series of one patient and study show the same places, pixel upon pixel."""
    whose = [(headers.patient_id, headers.study_uid, headers.rows, headers.columns) for headers in (series, other)]
    if whose[0] != whose[1] or len(series.files) != len(other.files):
        return False
    pairs = (
        (series.positions_mm, other.positions_mm, SAME_POSITION_MM),
        (series.orientation, other.orientation, SAME_DIRECTION),
        (series.pixel_spacing_mm, other.pixel_spacing_mm, SAME_SPACING_MM),
    )
    return all(np.abs(np.subtract(ours, theirs)).max() <= tolerance for ours, theirs, tolerance in pairs)
