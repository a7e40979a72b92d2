"""Microbleeds of masks and of points, as boxes on the slices of a volume [slices, rows, columns]."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from cmbfe.errors import InputError

Boxes = dict[int, list[float]]
"""Slice -> box of one microbleed."""
OTHER_VALUES = "Labels have values other than 0 and 1: everything above 0 is microbleed, each value by itself."
TOUCHING = "Microbleeds touch one of another value in their label, and are kept apart."
INTERPOLATED = "Labels were interpolated: voxels of at least half of a label's value are microbleed."
BELOW_HALF = "Voxels of interpolated labels above 0 and below half of its value are no microbleed."
EMPTY = "Labels are 0 everywhere: their volumes are without a microbleed."
SMALL = "Microbleeds measure less than 2 mm, by their longest side."
LARGE = "Microbleeds measure more than 20 mm, by their longest side."
NO_MICROBLEED = "Areas of labels measure more than 40 mm, are no microbleeds and left out: do they mark the brain?"
REPEATED_POINTS = "Points lie where another one lies: each place is one microbleed."
SMALLEST_MM, LARGEST_MM, IMPOSSIBLE_MM = 2.0, 20.0, 40.0
"""Microbleeds measure 2 to 10 mm, and 20 mm is the largest size ever counted as a microbleed. Anything longer than
the third value is none, even in a box drawn with a margin."""
LARGEST_RINGING = 1.95
"""Interpolation makes a mask of 0 and 1 overshoot, but not to here; percent and 8 bits begin at `SMALLEST_SCALE`."""
SMALLEST_SCALE, SCALES = 90, (100, 255, 1000)
"""A mask on a scale: its largest value is at least the first; what it was before a thin label was interpolated."""
RINGING_SHARE = 0.15
"""Share of a label's value; far from a microbleed, interpolation leaves less."""
FEWEST_BETWEEN = 4
"""With this many values, an area is interpolated and not touching microbleeds, unless each fills a block of
2 × 2 × 2 voxels; with 2 if the largest value is that of a scale instead of a count. Of so few each has a counterpart: a
third of a voxel leaves two thirds on the other side."""
ROUNDING = 1e-3
"""Rounding error of whole numbers after a slope was applied."""
SAME_PLACE_VOXELS = 0.01
"""Points closer than this are the same microbleed."""
AROUND = np.ones((3, 3, 3))
"""Voxels that touch, also at a corner."""


def lesions_of_mask(
    mask: np.ndarray, spacing_mm: Sequence[float], file: Path
) -> tuple[list[Boxes], Mapping[str, int]]:
    """Microbleeds of a mask: voxels of one value that touch are one.

    Args:
        mask: float32 [slices, rows, columns]; 0 is background.
        spacing_mm: between slices, rows and columns.
        file: begins the text of errors.

    Returns:
        For each microbleed, in the order of its first voxel, the tight box on every slice that it has a voxel on; and
        notes -> how often.

    Raises:
        InputError: values below 0 that are no interpolation, or several labels interpolated.
    """
    labels, notes = _instances(mask, file)
    parts = sorted(_parts(labels), key=lambda part: [*np.argwhere(part[1])[0] + [side.start for side in part[0]]])
    kept = [part for part in parts if _size_mm(part[0], spacing_mm) <= IMPOSSIBLE_MM]
    notes |= {
        EMPTY: not parts,
        **odd_sizes([_size_mm(place, spacing_mm) for place, _ in kept]),
        NO_MICROBLEED: len(parts) - len(kept),
        TOUCHING: len(parts) - ndimage.label(labels > 0, AROUND)[1],
    }
    return [_boxes(place, part) for place, part in kept], {note: int(count) for note, count in notes.items()}


def odd_sizes(sizes_mm: Sequence[float]) -> dict[str, int]:
    """How many lesions are smaller, and how many larger, than microbleeds are."""
    return {SMALL: sum(size < SMALLEST_MM for size in sizes_mm), LARGE: sum(size > LARGEST_MM for size in sizes_mm)}


def _instances(mask: np.ndarray, file: Path) -> tuple[np.ndarray, dict[str, int]]:
    """Whole numbers, 1 and up where there is microbleed, the same within one; notes -> how often."""
    mask = _rounded(mask)
    values, index = np.unique(mask[mask != 0], return_inverse=True)
    if not len(values):
        return np.zeros(mask.shape, np.int32), {}
    if not _is_interpolated(mask, values, file):
        if values[0] < 0:
            raise InputError(f"{file}: a label of {values[0]:g}; give 0 for what is no microbleed, and 1 for what is")
        labels = np.zeros(mask.shape, np.int32)
        labels[mask != 0] = index + 1
        return labels, {OTHER_VALUES: not np.array_equal(values, [1])}
    value = _value(mask)
    _refuse_lost(mask, value, file)
    inside = mask >= value / 2
    below = np.count_nonzero((mask > 0) & ~inside)
    return inside.astype(np.int32), {INTERPOLATED: 1, BELOW_HALF: below}


def _rounded(mask: np.ndarray) -> np.ndarray:
    """A mask whose values are whole numbers but for the last digits of a slope."""
    whole = np.rint(mask)
    is_whole = np.abs(mask - whole).max() < ROUNDING and np.array_equal(whole != 0, mask != 0)
    return whole if is_whole else mask


def _is_interpolated(mask: np.ndarray, values: np.ndarray, file: Path) -> bool:
    """Whether a mask has values between its labels: no whole numbers, or many values in one area."""
    if len(values) == 1:
        return False
    if (values != np.rint(values)).any():
        return True
    components, _ = ndimage.label(mask != 0, AROUND)
    is_scale = values[-1] >= SMALLEST_SCALE and len(values) < values[-1] / 2
    fewest = 2 if is_scale else FEWEST_BETWEEN
    areas = enumerate(ndimage.find_objects(components), 1)
    parts = (np.where(components[area] == number, mask[area], 0) for number, area in areas)
    return sum(_is_gradient(part, values, fewest, file) for part in parts) > 0  # no `any`: each may be refused


def _is_gradient(area: np.ndarray, of_all: np.ndarray, fewest: int, file: Path) -> bool:
    """Whether an area, 0 around it, is interpolated; raises `InputError` where it may be microbleeds that touch."""
    values = np.unique(area[area != 0])
    is_solid = (ndimage.binary_erosion(area == value, np.ones((2, 2, 2))).any() for value in values)
    if len(values) < fewest or all(is_solid):
        return False
    largest = values[-1]
    wholes = [of_all[of_all < whole] - whole for whole in (largest, *SCALES) if whole >= largest]
    alone = [value for value in values[values < largest / 2] if all(np.abs(own + value).min() > 1 for own in wholes)]
    if alone and len(values) < FEWEST_BETWEEN:
        what = f"{alone[0]:g} and {largest:g} lie beside each other"
        raise InputError(f"{file}: {what}; number microbleeds from 1 on, or resample it to the nearest neighbour")
    return True


def _value(mask: np.ndarray) -> float:
    """The value that an interpolated label had: 1, or the largest where that does not come from ringing."""
    largest = float(mask.max())
    return 1.0 if 1 < largest < LARGEST_RINGING else largest


def _refuse_lost(mask: np.ndarray, value: float, file: Path) -> None:
    """Raise `InputError` where half of the label's value is no sound limit between microbleed and none."""
    several = LARGEST_RINGING <= value < SMALLEST_SCALE
    components, count = ndimage.label(mask >= RINGING_SHARE * value, AROUND)
    kept = np.unique(components[mask >= value / 2])
    if value <= 0 or several or len(kept) < count:
        raise InputError(f"{file}: its values were interpolated; resample it again, to the nearest neighbour")


def _parts(labels: np.ndarray) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Every microbleed: the part of the volume that it lies in, and its voxels there."""
    for value, around in enumerate(ndimage.find_objects(labels), 1):
        if around is None:
            continue
        components, _ = ndimage.label(labels[around] == value, AROUND)
        for number, inner in enumerate(ndimage.find_objects(components), 1):
            place = tuple(
                slice(outer.start + own.start, outer.start + own.stop)
                for outer, own in zip(around, inner, strict=True)
            )
            yield place, components[inner] == number


def _size_mm(place: tuple[slice, ...], spacing_mm: Sequence[float]) -> float:
    """Of the longest side."""
    return max((side.stop - side.start) * mm for side, mm in zip(place, spacing_mm, strict=True))


def _boxes(place: tuple[slice, ...], part: np.ndarray) -> Boxes:
    boxes = {}
    for index, plane in enumerate(part, place[0].start):
        for rows, columns in ndimage.find_objects(plane.astype(np.uint8)):
            left, top = place[2].start + columns.start, place[1].start + rows.start
            boxes[index] = [
                float(value) for value in (left, top, columns.stop - columns.start, rows.stop - rows.start)
            ]
    return boxes


def without_repeated(places: np.ndarray, diameters_mm: Sequence[float]) -> list[int]:
    """Which of points [N, 3] (voxels) to keep, in their order: of those at one place the largest."""
    order = sorted(range(len(places)), key=lambda number: -diameters_mm[number])
    kept: list[int] = []
    for number in order:
        if not kept or not (np.abs(places[kept] - places[number]).max(axis=1) < SAME_PLACE_VOXELS).any():
            kept.append(number)
    return sorted(kept)


def lesions_of_points(
    places: np.ndarray,
    diameters_mm: Sequence[float],
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    where: str,
) -> list[Boxes]:
    """Microbleeds of points: a square of the stated size around each, on every slice within half that size of it.

    The slice that holds the point has a box whatever the size.

    Args:
        places: [N, 3] column, row, slice.
        diameters_mm: of each.
        shape, spacing_mm: slices, rows, columns of the volume.
        where: begins the text of errors.

    Raises:
        InputError: a point that is no finite number or lies outside the volume.
    """
    lesions = []
    for number, (place, diameter) in enumerate(zip(places, diameters_mm, strict=True), 1):
        if not np.isfinite(place).all():
            raise InputError(f"{where}: point {number} is not three finite numbers; correct or remove it")
        if (place < -0.5).any() or (place > np.subtract(shape[::-1], 0.5)).any():
            found = ", ".join(f"{value:.1f}" for value in place)
            size = " × ".join(map(str, shape[::-1]))
            place = f"point {number} lies outside its volume: column, row, slice {found} of {size}"
            raise InputError(f"{where}: {place}; check whether voxels count from 0 or 1, and the order of the axes")
        lesions.append(_ball(place, diameter, shape, spacing_mm))
    return lesions


def _ball(
    place: np.ndarray, diameter: float, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> Boxes:
    (slices, rows, columns), (slice_mm, row_mm, column_mm) = shape, spacing_mm
    left, right = np.clip(place[0] + 0.5 + np.array([-0.5, 0.5]) * diameter / column_mm, 0, columns).tolist()
    top, bottom = np.clip(place[1] + 0.5 + np.array([-0.5, 0.5]) * diameter / row_mm, 0, rows).tolist()
    reach = diameter / 2 / slice_mm
    own = min(max(int(np.floor(place[2] + 0.5)), 0), slices - 1)
    reached = [index for index in range(slices) if index == own or abs(index - place[2]) <= reach]
    return {index: [left, top, right - left, bottom - top] for index in reached}
