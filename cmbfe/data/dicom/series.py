"""DICOM series from a folder: which there are, where their slices lie in the patient, and their images.

Slices go by geometry alone: in order of increasing projection of their position on the slice normal (row direction x
column direction), so that axial series run from feet to head.

Files of one SeriesInstanceUID become separate series where patient, study, kind (magnitude, phase, …), echo number,
ImageType, PhotometricInterpretation or matrix differ, or echo time, pixel spacing or orientation beyond the tolerances
below, or where complete acquisitions cover the same positions (dynamic scans, b-values). Only then does `series_uid`
carry a suffix: `-KIND`, `-KIND-2`, `-KIND-3`, … in the order of the criteria named.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cmbfe.data.dicom.pixels import read_frames
from cmbfe.data.dicom.slices import Slice, read_slices
from cmbfe.data.folders import files_below
from cmbfe.data.own_process import own_process
from cmbfe.errors import InputError

SAME_POSITION_MM = 0.01
"""Slices nearer to each other than this lie at one position."""
UNEVEN_STEP_MM = 0.25
"""How far a step between neighbours may be from the median step (at most half of it). GE rounds positions to 0.1 mm,
which moves a step by up to 0.1 mm, and the median as much."""
SAME_DIRECTION = 1e-3
"""Direction cosines of one stack agree within this (0.06°)."""
SAME_SPACING_MM = 1e-3
SAME_ECHO_TIME_MS = 0.1
SCOUT_PLANES_COSINE = 0.7
"""Planes of one series whose normals are further apart than this (about 45°) make it a localizer."""
OF_EVERY_SLICE = (
    *("patient_id", "series_uid", "study_uid", "description", "rows", "columns"),
    *("pixel_spacing_mm", "orientation", "echo_time_ms", "photometric"),
)
"""What a series has of its first slice."""
DECODER_CRASHED = "pixel data cannot be decoded: they crash the decoder"


@dataclass(frozen=True)
class SeriesHeaders:
    """A series as its headers describe it; what is per slice is in anatomical order."""

    patient_id: str
    series_uid: str
    """SeriesInstanceUID, with a suffix where its files make several series (see the module's text)."""
    description: str
    kind: str
    """"magnitude", "phase", "real", "imaginary", "projection", "localizer" or "other"."""
    files: tuple[Path, ...]
    """One path per slice; a multi-frame file is named once per frame."""
    frames: tuple[int, ...]
    """0-based frame within each file; 0 in files of one frame."""
    sop_instance_uids: tuple[str, ...]
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float]
    """Row spacing (between rows, along y) and column spacing (along x)."""
    slice_spacing_mm: float
    """Median step between slice centres; of a single slice SpacingBetweenSlices, else SliceThickness."""
    orientation: tuple[float, ...]
    """Direction cosines: patient x, y, z along a row (px x), then along a column (px y)."""
    positions_mm: tuple[tuple[float, float, float], ...]
    """Patient x, y, z of the centre of each slice's first pixel."""
    echo_time_ms: float
    """0 where the header has none."""
    photometric: str
    """"MONOCHROME1" or "MONOCHROME2"."""
    is_compressed: bool
    """Whether native code has to decode the pixels (JPEG and its relatives; RLE is none)."""
    study_uid: str = ""
    """StudyInstanceUID; "" where the header has none."""
    notes: tuple[str, ...] = ()
    """What was assumed of it, a sentence each, without names."""


@dataclass(frozen=True)
class Aside:
    """Images that are in no series."""

    files: tuple[Path, ...]
    patient_id: str
    series_uid: str
    what: str
    """Why, without a name: for the outputs."""
    line: str
    """Why, with a file, and what to do: for the terminal."""
    refused: bool
    """Whether they were meant to be read and cannot be; else they are passed over."""


def find_series(folder: Path | str, progress: bool = False) -> list[SeriesHeaders]:
    """Find every series under `folder` (any depth, links followed), or in one file, and check its headers.

    Sorted by patient and series UID, whatever the file names. Hidden files and folders, DICOMDIR and what is no DICOM
    image are passed over (rules in `slices`). No pixel is decoded, but all pixel data must be there.

    Raises:
        InputError: no DICOM image there; a file named like DICOM that is none; an image that is cut off, damaged, in
            colour, without pixel data or without geometry; two slices at one position or a missing slice (localizers
            may have any).
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder}: no such file or folder")
    paths = sorted(files_below(folder)) if folder.is_dir() else [folder]
    bar = tqdm(paths, desc="headers", unit="file", delay=1, disable=not progress)
    slices = [found for path in bar for found in read_slices(path, named=path == folder)]
    if not slices:
        what = f"no DICOM image among {len(paths)} files" if folder.is_dir() else "a DICOM object, but no image"
        raise InputError(f"{folder}: {what}" if paths else f"{folder}: the folder is empty")
    by_uid = defaultdict(list)
    for stack in stacks_of(slices):
        by_uid[stack[0].series_uid].append(stack)
    found = [headers for stacks in by_uid.values() for headers in series_of_one_uid(stacks)]
    return sorted(found, key=lambda series: (series.patient_id, series.series_uid))


def read_volume(series: SeriesHeaders, progress: bool = False) -> np.ndarray:
    """Decode a series: float32 [slices, rows, columns] in the order of `series.files`, modality LUT applied.

    MONOCHROME1 (low is white) is inverted within the volume's own range, so that high is always bright.

    Raises:
        InputError: pixels that cannot be decoded; names the file.
    """
    volume = np.empty((len(series.files), series.rows, series.columns), np.float32)
    places = defaultdict(list)
    for index, path in enumerate(series.files):
        places[path].append(index)
    bar = tqdm(total=len(volume), desc="slices", unit="slice", delay=1, disable=not progress)
    # The JPEG libraries are native code, which damaged data make fault.
    decoder = own_process(read_frames, DECODER_CRASHED) if series.is_compressed else nullcontext(read_frames)
    with bar, decoder as read:
        for path, indices in places.items():
            images = read(path, [series.frames[index] for index in indices])
            if images.shape[1:] != volume.shape[1:]:
                raise InputError(f"{path}: decodes to {images.shape[1:]} px, not to the header's matrix")
            volume[indices] = images
            bar.update(len(indices))
    if series.photometric == "MONOCHROME1":
        np.subtract(volume.min() + volume.max(), volume, out=volume)
    return volume


def to_patient_mm(series: SeriesHeaders, slice_index: int, x: float, y: float) -> tuple[float, float, float]:
    """Patient coordinates (mm; x to the left, y to the back, z to the head) of a point x, y (px) of a slice.

    Pixel (row i, column j) covers [j, j + 1] × [i, i + 1], so its centre is x = j + 0.5, y = i + 0.5; DICOM
    (PS3.3 C.7.6.2.1.1) counts from that centre.
    """
    along_row, along_column = np.reshape(series.orientation, (2, 3))
    row_spacing, column_spacing = series.pixel_spacing_mm
    offset = (x - 0.5) * column_spacing * along_row + (y - 0.5) * row_spacing * along_column
    left, back, head = (np.array(series.positions_mm[slice_index]) + offset).tolist()
    return left, back, head


def stacks_of(slices: list[Slice]) -> Iterator[list[Slice]]:
    """Slices that belong together, in anatomical order; no file name affects the order of the stacks."""
    exact = defaultdict(list)
    for item in slices:
        key = (item.series_uid, item.patient_id, item.study_uid, item.kind, item.echo_number)
        exact[(*key, item.image_type, item.photometric, item.rows, item.columns)].append(item)
    for key in sorted(exact):
        for alike in _alike(exact[key]):
            ranked = zip(_heights(alike), (item.sop_instance_uid for item in alike), range(len(alike)), strict=True)
            yield from _acquisitions([alike[index] for _, _, index in sorted(ranked)])


def _alike(slices: list[Slice]) -> list[list[Slice]]:
    """Groups whose echo time, pixel spacing and orientation agree with their first member's."""

    def features(item: Slice) -> np.ndarray:
        echo_time = item.echo_time_ms / SAME_ECHO_TIME_MS
        spacing = np.divide(item.pixel_spacing_mm, SAME_SPACING_MM)
        return np.array([echo_time, *spacing, *np.divide(item.orientation, SAME_DIRECTION)])

    groups: list[tuple[np.ndarray, list[Slice]]] = []
    # Rounding could put two equal values into different classes; a distance to the first member cannot.
    for item in sorted(slices, key=lambda item: (*features(item), item.sop_instance_uid)):
        own = features(item)
        near = (members for first, members in groups if np.abs(own - first).max() <= 1)
        members = next(near, None)
        if members is None:
            groups.append((own, [item]))
        else:
            members.append(item)
    return [members for _, members in groups]


def _normal(item: Slice) -> np.ndarray:
    along_row, along_column = np.reshape(item.orientation, (2, 3))
    return np.cross(along_row, along_column)


def _heights(stack: list[Slice]) -> np.ndarray:
    """Positions (mm) of slices along the normal of the first."""
    return np.array([float(_normal(stack[0]) @ item.position_mm) for item in stack])


def _acquisitions(stack: list[Slice]) -> list[list[Slice]]:
    """Split a stack by the first acquisition attribute that leaves complete repeats of the same positions."""
    if (np.diff(_heights(stack)) >= SAME_POSITION_MM).all():
        return [stack]
    for values in zip(*(item.acquisition for item in stack), strict=True):
        repeats = defaultdict(list)
        for value, item in zip(values, stack, strict=True):
            repeats[value].append(item)
        if len(repeats) > 1 and _cover_same_positions(repeats.values()):
            return [repeats[value] for value in sorted(repeats, key=lambda value: (len(value), value))]
    return [stack]


def _cover_same_positions(repeats: Iterable[list[Slice]]) -> bool:
    first, *others = (_heights(stack) for stack in repeats)
    distinct = (np.diff(first) >= SAME_POSITION_MM).all()
    return bool(distinct) and all(
        len(other) == len(first) and np.abs(other - first).max() < SAME_POSITION_MM for other in others
    )


def series_of_one_uid(stacks: list[list[Slice]]) -> Iterator[SeriesHeaders]:
    """The series that the stacks of one SeriesInstanceUID are, named apart (see the module's text)."""
    normals = np.array([_normal(stack[0]) for stack in stacks])
    is_scout = np.abs(normals @ normals.T).min() < SCOUT_PLANES_COSINE
    count: dict[str, int] = defaultdict(int)
    for stack in stacks:
        kind = "localizer" if is_scout else stack[0].kind
        count[kind] += 1
        suffix = f"-{kind}" + (f"-{count[kind]}" if count[kind] > 1 else "")
        headers = _headers(stack, kind)
        yield replace(headers, series_uid=headers.series_uid + (suffix if len(stacks) > 1 else ""))


def _headers(stack: list[Slice], kind: str) -> SeriesHeaders:
    first = stack[0]
    if kind != "localizer":
        _check_positions(stack)
    spacing = float(np.median(np.diff(_heights(stack)))) if len(stack) > 1 else 0.0
    if spacing < SAME_POSITION_MM:
        if first.nominal_spacing_mm is None:
            raise InputError(f"{first.path}: single slice without SpacingBetweenSlices or SliceThickness")
        spacing = first.nominal_spacing_mm
    return SeriesHeaders(
        **{name: getattr(first, name) for name in OF_EVERY_SLICE},
        kind=kind,
        files=tuple(item.path for item in stack),
        frames=tuple(item.frame for item in stack),
        sop_instance_uids=tuple(item.sop_instance_uid for item in stack),
        slice_spacing_mm=spacing,
        positions_mm=tuple(item.position_mm for item in stack),
        is_compressed=any(item.is_compressed for item in stack),
    )


def _check_positions(stack: list[Slice]) -> None:
    """Raise `InputError` if two slices lie at one position or a step is far from the median step."""
    heights = _heights(stack)
    steps = np.diff(heights)
    for (lower, upper), step, height in zip(pairwise(stack), steps, heights, strict=False):
        if step < SAME_POSITION_MM:
            same = (lower.sop_instance_uid, lower.frame) == (upper.sop_instance_uid, upper.frame)
            copy = ", copies of one image" if same else ""
            both = f"{upper.name} and {lower.name} are both at {height:.2f} mm along the slice normal{copy}"
            raise InputError(f"{upper.path}: two slices at one position: {both}; keep one")
    spacing = float(np.median(steps)) if steps.size else 0.0
    tolerance = min(UNEVEN_STEP_MM, spacing / 2)
    if (np.abs(steps - spacing) <= tolerance).all():
        return
    worst = int(np.argmax(steps)) if steps.max() > spacing + tolerance else int(np.argmin(steps))
    what = f"slice missing at {heights[worst] + spacing:.2f} mm" if steps[worst] > spacing else "slices too close"
    lower, upper = (f"{stack[n].name} ({heights[n]:.2f} mm)" for n in (worst, worst + 1))
    step = f"the step is {steps[worst]:.2f} mm, elsewhere {spacing:.2f} mm along the slice normal"
    raise InputError(f"{stack[worst].path}: {what}: between {lower} and {upper} {step}")
