"""Convert volumes to 8-bit images, and name the image folders of series.

A magnitude is corrected for bias and gets one window per series. Filtered phase can be a second channel. Iron
(microbleeds, veins) is paramagnetic and calcium is diamagnetic: both are dark in the magnitude, but they shift the
phase in opposite directions [Chen 2014, Radiology 270:496; Haacke 2004, Magn Reson Med 52:612].
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from cmbfe.data.dicom.series import SeriesHeaders
from cmbfe.data.dicom.stacks import SAME_DIRECTION, SAME_ECHO_TIME_MS, SAME_POSITION_MM, SAME_SPACING_MM
from cmbfe.data.labelled.images import HALF_TURN, ZERO_PHASE
from cmbfe.data.n4 import correct_bias
from cmbfe.errors import InputError
from cmbfe.params import Images

NOTHING_SEEN = "no microbleed could be seen; check slope, padding and data type, or export it again"
FIRST_GREY, LEAST_GREY = 5, 0.02
"""Values below `FIRST_GREY` look black. Of the values above 0, at least the share `LEAST_GREY` must be neither black
nor white (255)."""
MOST_CLIPPED, FEWEST_VOXELS = 0.25, 1000
"""Largest share of the voxels above the minimum that may equal the maximum; fewest voxels for which this is checked."""

LARGEST_MRAD = 3142
"""Half a turn in mrad, rounded up because files contain whole numbers."""


def to_8_bit(volume: np.ndarray, window_percentiles: Sequence[float]) -> np.ndarray:
    """Map a volume to uint8 by one robust window: the two percentiles become 0 and 255 (A17).

    One window for the whole series keeps the slices comparable; percentiles, unlike extremes, do not depend on
    a single bright vessel.

    Raises:
        InputError: the volume has a single value, or nearly all of its values lie at the two ends of the window. The
            caller adds the file name to the message.
    """
    low, high = np.percentile(volume, window_percentiles)
    if high <= low:
        raise InputError(f"no contrast: {NOTHING_SEEN}")
    images = np.empty(volume.shape, np.uint8)
    counts = np.zeros(256, np.int64)
    for number, values in enumerate(volume):  # slice by slice: temporary arrays of a whole volume take twice as long
        images[number] = np.rint((values.clip(low, high) - low) * (255 / (high - low)))
        counts += np.bincount(images[number].ravel(), minlength=256)
    if counts[FIRST_GREY:255].sum() < LEAST_GREY * counts[1:].sum():
        raise InputError(f"no contrast, nearly all is black or white: {NOTHING_SEEN}")
    return images


def refuse_flat(voxels: np.ndarray, file: Path) -> None:
    """Raise `InputError` for a volume with a single value, or with many voxels clipped to the maximum."""
    low, high = voxels.min(), voxels.max()
    if low == high:
        raise InputError(f"{file}: no contrast: {NOTHING_SEEN}")
    clipped = np.count_nonzero(voxels == high) / np.count_nonzero(voxels > low)
    if clipped > MOST_CLIPPED and voxels.size >= FEWEST_VOXELS:
        raise InputError(f"{file}: no contrast, {clipped:.0%} of what is not darkest has one value: {NOTHING_SEEN}")


def volume_images(voxels: np.ndarray, spacing_mm: Sequence[float], settings: Images, file: Path) -> np.ndarray:
    """Convert a volume to uint8 images: N4, then one window.

    Args:
        voxels: float32 [slices, rows, columns], 0 and above.
        spacing_mm: between slices, rows and columns.
        file: path to put at the start of error messages.

    Raises:
        InputError: as `to_8_bit`.
    """
    corrected = correct_bias(voxels, spacing_mm, **settings.bias_correction.model_dump())
    try:
        return to_8_bit(corrected, settings.window_percentiles)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def series_folders(patient_ids: Iterable[str]) -> list[str]:
    """Folder name of each series: the patient id, with a number if the patient has several series.

    The names are unique even on file systems that ignore case.
    """
    safe = ["".join(c if c.isalnum() or c in "-_" else "_" for c in patient) for patient in patient_ids]
    wanted = [name or "unknown" for name in safe]
    series_with = Counter(name.casefold() for name in wanted)
    taken, numbers = set(series_with), defaultdict(count)
    names = []
    for name in wanted:
        if series_with[own := name.casefold()] > 1:
            name = next(numbered for n in numbers[own] if (numbered := f"{name}-{n + 1}").casefold() not in taken)
            taken.add(name.casefold())
        names.append(name)
    return names


def to_8_bit_phase(volume_mrad: np.ndarray) -> np.ndarray:
    """Convert phase in mrad to uint8: 128 is zero phase, 1 and 255 are minus and plus half a turn; 0 is never used."""
    steps = np.rint(volume_mrad * (HALF_TURN / (1000 * np.pi)))
    return (steps.clip(-HALF_TURN, HALF_TURN) + ZERO_PHASE).astype(np.uint8)


def phase_images(volume: np.ndarray, file: Path) -> np.ndarray:
    """Convert a phase volume to uint8 images, see `to_8_bit_phase`. Raises `InputError` if it is not in mrad: scanners
    that write another unit do not say which one."""
    low, high = float(volume.min()), float(volume.max())
    if low < -LARGEST_MRAD or high > LARGEST_MRAD or low >= 0:
        raise InputError(f"{file}: phase from {low:g} to {high:g}; expected mrad around 0: set RescaleSlope")
    return to_8_bit_phase(volume)


def phase_of(magnitude: SeriesHeaders, others: Sequence[SeriesHeaders]) -> SeriesHeaders:
    """The phase series with the patient, study and slices of a magnitude series; if there are several, the phase series
    with the same echo time. Raises `InputError` unless exactly one phase series fits."""
    fitting = [series for series in others if series.kind == "phase" and _lies_on(series, magnitude)]
    if len(fitting) > 1:  # a multi-echo scan has a phase series per echo
        echo_ms = magnitude.echo_time_ms
        fitting = [series for series in fitting if abs(series.echo_time_ms - echo_ms) <= SAME_ECHO_TIME_MS]
    if len(fitting) == 1:
        return fitting[0]
    what = f"{len(fitting) or 'no'} phase series of the same study on the slices of this magnitude series"
    raise InputError(f"{magnitude.files[0]}: {what}; images.phase needs one")


def _lies_on(series: SeriesHeaders, other: SeriesHeaders) -> bool:
    """Whether two series are of one patient and study, with all pixels at the same positions."""
    whose = [(headers.patient_id, headers.study_uid, headers.rows, headers.columns) for headers in (series, other)]
    if whose[0] != whose[1] or len(series.files) != len(other.files):
        return False
    pairs = (
        (series.positions_mm, other.positions_mm, SAME_POSITION_MM),
        (series.orientation, other.orientation, SAME_DIRECTION),
        (series.pixel_spacing_mm, other.pixel_spacing_mm, SAME_SPACING_MM),
    )
    return all(np.abs(np.subtract(ours, theirs)).max() <= tolerance for ours, theirs, tolerance in pairs)
