"""DICOM series (as defined in `stacks`): their headers, slice positions in the patient, and pixel values.

Slices are sorted by position along the slice normal (row direction x column direction), so axial series run from feet
to head. If a SeriesInstanceUID contains several series, `series_uid` gets a suffix: `-KIND`, `-KIND-2`, …, numbered by
the attribute that distinguishes the series.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from cmbfe.data.dicom.kinds import MAGNITUDE, UNCLEAR
from cmbfe.data.dicom.pixels import read_frames
from cmbfe.data.dicom.slices import Slice
from cmbfe.data.dicom.stacks import (
    SAME_POSITION_MM,
    STACKED,
    UNEVEN_STEP_MM,
    NoStack,
    Stack,
    check,
    like_single_images,
    notes_of,
    stacks_of,
    step_of,
)
from cmbfe.data.inventory import Aside
from cmbfe.data.own_process import own_process
from cmbfe.errors import InputError

OF_EVERY_SLICE = (
    *("patient_id", "study_uid", "description", "kind", "rows", "columns"),
    *("pixel_spacing_mm", "orientation", "echo_time_ms", "field_strength_t", "is_spin_echo", "photometric"),
)
"""Attributes that a series takes from its first slice."""
LITTLE = 0.01
"""Values this far below 0, as a fraction of the 99th percentile, may come from interpolation."""
QUARTERS = (16384, 49152)
"""End of the lowest quarter of unsigned 16-bit values, and start of the highest quarter."""
A_FEW = 1e-3
"""Share of a volume that a bright spot may take."""
NEIGHBOURS = (
    "Another series of the patient lies next to it or between its slices: they may be one series, taken apart, "
    "and a lesion across both then counts twice."
)
SEVERAL_PEOPLE = "Its PatientID has several birth dates, sexes or issuers: it may stand for several people."
NEARLY_PARALLEL = 0.05
"""Largest difference of direction cosines (3°) between two series that may be parts of a single series."""
MOST_COMPARED = 200
"""Patients with more series are not compared: their series are usually single images, which get another note."""
DECODER_CRASHED = "pixel data cannot be decoded: they crash the decoder"


@dataclass(frozen=True)
class SeriesHeaders:
    """A series as its headers describe it. Values per slice are in anatomical order."""

    patient_id: str
    series_uid: str
    """SeriesInstanceUID, with a suffix if it contains several series (see the module docstring)."""
    description: str
    kind: str
    """"magnitude", "phase", "real", "imaginary", "projection", "localizer", "mosaic", "map" (of a quantity), "other",
    another modality ("CT"), or "unclear" if the header does not say; see `kinds`."""
    files: tuple[Path, ...]
    """One path per slice; a multi-frame file is listed once per frame."""
    frames: tuple[int, ...]
    """0-based frame number of each slice within its file."""
    sop_instance_uids: tuple[str, ...]
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float]
    """Row spacing (between rows, along y) and column spacing (along x)."""
    slice_spacing_mm: float
    """Median step between slice centres; for a single slice SpacingBetweenSlices or else SliceThickness."""
    orientation: tuple[float, ...]
    """Direction cosines: patient x, y, z along a row (px x), then along a column (px y)."""
    positions_mm: tuple[tuple[float, float, float], ...]
    """Patient x, y, z of the centre of each slice's first pixel."""
    echo_time_ms: float
    """Echo time, or 0 if the header has none. `field_strength_t` is also 0 if the header has no field strength."""
    field_strength_t: float
    photometric: str
    """"MONOCHROME1" or "MONOCHROME2"."""
    is_compressed: bool
    """Whether native code has to decode the pixels (the JPEG family, but not RLE)."""
    is_spin_echo: bool = False
    """Whether the series is a spin echo, where microbleeds are hardly visible."""
    study_uid: str = ""
    """StudyInstanceUID; "" if the header has none."""
    notes: tuple[str, ...] = ()
    """Assumptions about the series, one sentence each, without names."""


def read_volume(series: SeriesHeaders) -> np.ndarray:
    """Decode a series as float32 [slices, rows, columns] in the order of `series.files`, with the modality LUT applied.

    MONOCHROME1 (low is white) is inverted within the volume's own range. Padding becomes 0, or the lowest value if that
    is below 0 and the series is not phase. In a magnitude, small values below 0 from interpolation become 0.

    Raises:
        InputError: pixels that cannot be decoded, or a magnitude with values clearly below 0; names the file.
    """
    volume = np.empty((len(series.files), series.rows, series.columns), np.float32)
    places = defaultdict(list)
    for index, path in enumerate(series.files):
        places[path].append(index)
    # The JPEG libraries are native code, which may crash on damaged data.
    decoder = own_process(read_frames, DECODER_CRASHED) if series.is_compressed else nullcontext(read_frames)
    with decoder as read:
        for path, indices in places.items():
            images = read(path, [series.frames[index] for index in indices])
            if (shape := images.shape[1:]) != volume.shape[1:]:
                raise InputError(f"{path}: decodes to {shape} px, not to the header's matrix; get it again")
            volume[indices] = images
    padding = np.isnan(volume)
    if padding.any():
        seen = volume[~padding]
        volume[padding] = seen.min() if seen.size else 0
    if series.kind in (MAGNITUDE, UNCLEAR):
        _refuse_negative(volume, series.files)
        _refuse_wrapped(volume, series.files)
    if series.photometric == "MONOCHROME1":
        np.subtract(volume.min() + volume.max(), volume, out=volume)
    volume[padding] = 0 if series.kind == "phase" else min(0, volume.min())
    return volume


def _refuse_negative(volume: np.ndarray, files: Sequence[Path]) -> None:
    """Raise `InputError` for a magnitude with values clearly below 0; set small values below 0 to 0."""
    lowest = float(volume.min())
    if lowest >= 0:
        return
    if lowest < -LITTLE * np.percentile(volume, 99):
        file = files[int(np.argmin(volume.min(axis=(1, 2))))]
        what = f"values down to {lowest:g}, but a magnitude has none below 0"
        raise InputError(f"{file}: {what}; correct PixelRepresentation, RescaleSlope or RescaleIntercept")
    volume.clip(min=0, out=volume)


def _refuse_wrapped(volume: np.ndarray, files: Sequence[Path]) -> None:
    """Raise `InputError` if 16-bit values lie only in the lowest and highest quarter of their range. Such values are
    negative values stored as unsigned, or undeclared padding."""
    low, high = QUARTERS
    are_high = volume >= high
    if np.mean(are_high) < A_FEW or np.any((volume > low) & ~are_high):
        return
    file = files[int(np.argmax(are_high.mean(axis=(1, 2))))]
    what = f"values from {high} on beside ones up to {low}, and none between"
    raise InputError(f"{file}: {what}: negative or padding; correct PixelRepresentation or PixelPaddingValue")


def to_patient_mm(series: SeriesHeaders, slice_index: int, x: float, y: float) -> tuple[float, float, float]:
    """Patient coordinates (mm; x to the left, y to the back, z to the head) of a point x, y (px) in a slice.

    The centre of pixel (row i, column j) is x = j + 0.5, y = i + 0.5; DICOM counts from centres (PS3.3 C.7.6.2.1.1).
    """
    along_row, along_column = np.reshape(series.orientation, (2, 3))
    row_spacing, column_spacing = series.pixel_spacing_mm
    offset = (x - 0.5) * column_spacing * along_row + (y - 0.5) * row_spacing * along_column
    left, back, head = (np.array(series.positions_mm[slice_index]) + offset).tolist()
    return left, back, head


def series_of(slices: Iterable[Slice]) -> tuple[list[SeriesHeaders], list[Aside]]:
    """Group slices into series, sorted by patient and UID. Each slice belongs to exactly one series or one aside.

    An aside holds slices that do not form a valid series (refused), or strays of a series (passed over).
    """
    stacks, strays = stacks_of(slices)
    asides = [_aside(stray, what, f"{stray[0].path}: {what}; passed over", False) for stray, what in strays]
    single_images = like_single_images(stacks)
    of_uid = defaultdict(list)
    for stack in stacks:
        of_uid[stack[0].series_uid].append(stack)
    people = defaultdict(set)
    for item in (item for stack in stacks for item in stack if item.patient_id):
        people[item.patient_id].add(item.person)
    number: Counter[tuple[str, str]] = Counter()
    found = []
    for stack in stacks:
        uid, kind = stack[0].series_uid, stack[0].kind
        number[uid, kind] += 1
        suffix = f"-{kind}" + (f"-{number[uid, kind]}" if number[uid, kind] > 1 else "")
        try:
            check(stack, of_uid[uid])
            name = uid + (suffix if len(of_uid[uid]) > 1 else "")
            several = any(len({*said} - {""}) > 1 for said in zip(*people[stack[0].patient_id], strict=True))
            notes = notes_of(stack, single_images) + (SEVERAL_PEOPLE,) * several
            found.append(replace(_headers(stack, name), notes=notes))
        except NoStack as error:
            asides.append(_aside(stack, error.what, str(error), True))
    found = sorted(found, key=lambda series: (series.patient_id, series.series_uid))
    return _with_neighbours_noted(found), asides


def _with_neighbours_noted(found: Sequence[SeriesHeaders]) -> list[SeriesHeaders]:
    """Add a note to two series of a patient whose slices together are evenly spaced: they may be a single series."""
    of_patient = defaultdict(list)
    for index, series in enumerate(found):
        if series.kind in (MAGNITUDE, UNCLEAR):
            of_patient[series.patient_id].append(index)
    groups = (group for group in of_patient.values() if len(group) <= MOST_COMPARED)
    pairs = (pair for group in groups for pair in combinations(group, 2))
    noted = {index for first, second in pairs if _make_one(found[first], found[second]) for index in (first, second)}
    return [
        replace(series, notes=(*series.notes, NEIGHBOURS)) if index in noted else series
        for index, series in enumerate(found)
    ]


def _make_one(series: SeriesHeaders, other: SeriesHeaders) -> bool:
    """Whether the slices of two series together are evenly spaced and aligned, without duplicates."""
    if np.abs(np.subtract(series.orientation, other.orientation)).max() > NEARLY_PARALLEL:
        return False
    directions = np.reshape(series.orientation, (2, 3))
    positions = np.array([*series.positions_mm, *other.positions_mm])
    steps = np.diff(np.sort(positions @ np.cross(*directions)))
    shift = np.ptp(positions @ directions.T, axis=0).max()
    step = float(np.median(steps))
    is_even = steps.min() > SAME_POSITION_MM and np.abs(steps - step).max() <= min(UNEVEN_STEP_MM, step / 2)
    return bool(is_even and shift <= series.slice_spacing_mm)


def _aside(stack: Stack, what: str, line: str, refused: bool) -> Aside:
    first = stack[0]
    return Aside(tuple(item.path for item in stack), first.patient_id, first.series_uid, what, line, refused)


def _headers(stack: Stack, series_uid: str) -> SeriesHeaders:
    first, spacing = stack[0], step_of(stack)
    if spacing < SAME_POSITION_MM:
        if first.nominal_spacing_mm is None and first.kind in STACKED:
            raise NoStack(first, "single slice without SpacingBetweenSlices or SliceThickness", "; add one of them")
        spacing = first.nominal_spacing_mm or 0.0
    return SeriesHeaders(
        **{name: getattr(first, name) for name in OF_EVERY_SLICE},
        series_uid=series_uid,
        files=tuple(item.path for item in stack),
        frames=tuple(item.frame for item in stack),
        sop_instance_uids=tuple(item.sop_instance_uid for item in stack),
        slice_spacing_mm=spacing,
        positions_mm=tuple(item.position_mm for item in stack),
        is_compressed=any(item.is_compressed for item in stack),
    )
