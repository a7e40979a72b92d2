"""Convert masks and points to bounding boxes of microbleeds on the slices of a volume [slices, rows, columns]."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from cmbfe.errors import InputError

Boxes = dict[int, list[float]]
"""Boxes of one microbleed: slice index -> x, y, w, h px."""
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
"""Microbleeds measure 2 to 10 mm, and 20 mm is the largest size ever counted as a microbleed. A lesion longer than
`IMPOSSIBLE_MM` is not a microbleed, even in a box with a margin."""
LARGEST_RINGING = 1.95
"""Interpolated masks of 0 and 1 stay below this value. Masks in percent or 8 bits reach at least `SMALLEST_SCALE`."""
SMALLEST_SCALE, SCALES = 90, (100, 255, 1000)
"""Smallest maximum of a mask on a scale such as percent, and the maxima of such scales before interpolation."""
RINGING_SHARE = 0.15
"""Upper limit of the ringing far from a microbleed, as a share of the label's value."""
FEWEST_BETWEEN = 4
"""An area with at least this many values counts as interpolated, not as touching microbleeds, unless each value fills
a block of 2 × 2 × 2 voxels. On a scale such as percent, 2 values suffice. With fewer than 4 values, each low value
needs a counterpart, such as 33 % and 67 %: interpolation divides a label between two voxels."""
ROUNDING = 1e-3
"""Rounding error of whole numbers after a slope was applied."""
SAME_PLACE_VOXELS = 0.01
"""Points closer than this are the same microbleed."""
AROUND = np.ones((3, 3, 3))
"""Neighbourhood of voxels that touch, including at corners."""


def lesions_of_mask(
    mask: np.ndarray, spacing_mm: Sequence[float], file: Path
) -> tuple[list[Boxes], Mapping[str, int]]:
    """Microbleeds of a mask: touching voxels of the same value are one microbleed.

    Args:
        mask: float32 [slices, rows, columns]; 0 is background.
        spacing_mm: between slices, rows and columns.
        file: begins the text of errors.

    Returns:
        The tight box of each microbleed on each of its slices, and notes -> how often. Microbleeds are sorted by first
        voxel.

    Raises:
        InputError: negative values in a mask that is not interpolated, or an interpolated mask with several labels.
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
    """Notes on the number of lesions that are smaller or larger than microbleeds."""
    return {SMALL: sum(size < SMALLEST_MM for size in sizes_mm), LARGE: sum(size > LARGEST_MM for size in sizes_mm)}


def _instances(mask: np.ndarray, file: Path) -> tuple[np.ndarray, dict[str, int]]:
    """The mask in whole numbers (0: background, 1 or more: microbleeds), and notes -> how often."""
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
    """Round a mask to whole numbers, if it differs from them only by the rounding error of the header's slope."""
    whole = np.rint(mask)
    is_whole = np.abs(mask - whole).max() < ROUNDING and np.array_equal(whole != 0, mask != 0)
    return whole if is_whole else mask


def _is_interpolated(mask: np.ndarray, values: np.ndarray, file: Path) -> bool:
    """Whether a mask has values between its labels: fractions, or many values in one area."""
    if len(values) == 1:
        return False
    if (values != np.rint(values)).any():
        return True
    components, _ = ndimage.label(mask != 0, AROUND)
    is_scale = values[-1] >= SMALLEST_SCALE and len(values) < values[-1] / 2
    fewest = 2 if is_scale else FEWEST_BETWEEN
    areas = enumerate(ndimage.find_objects(components), 1)
    parts = (np.where(components[area] == number, mask[area], 0) for number, area in areas)
    return sum(_is_gradient(part, values, fewest, file) for part in parts) > 0  # not `any`: each is checked


def _is_gradient(area: np.ndarray, of_all: np.ndarray, fewest: int, file: Path) -> bool:
    """Whether an area surrounded by 0 is interpolated; raises `InputError` if it may be microbleeds that touch."""
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
    """The value of a label before interpolation: the largest value, or 1 if ringing may have raised it."""
    largest = float(mask.max())
    return 1.0 if 1 < largest < LARGEST_RINGING else largest


def _refuse_lost(mask: np.ndarray, value: float, file: Path) -> None:
    """Raise `InputError` if half of the label's value is not a safe threshold for microbleeds."""
    several = LARGEST_RINGING <= value < SMALLEST_SCALE
    components, count = ndimage.label(mask >= RINGING_SHARE * value, AROUND)
    kept = np.unique(components[mask >= value / 2])
    if value <= 0 or several or len(kept) < count:
        raise InputError(f"{file}: its values were interpolated; resample it again, to the nearest neighbour")


def _parts(labels: np.ndarray) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """For every microbleed: the part of the volume that contains it, and the mask of its voxels in that part."""
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
    """Length of the longest side."""
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
    """Indices of the points [N, 3] (voxels) to keep, in order. Of points at one place, only the largest is kept."""
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
    """Boxes of points: a square of the given diameter around each point, on every slice within half the diameter.

    The slice that contains the point always has a box.

    Args:
        places: [N, 3] column, row, slice.
        diameters_mm: diameter of each microbleed.
        shape, spacing_mm: slices, rows, columns of the volume.
        where: begins the text of errors.

    Raises:
        InputError: a point that is not finite or lies outside the volume.
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
    # Headers round positions and spacings: without tolerance, a slice exactly half a diameter away comes and goes.
    reached = [index for index in range(slices) if index == own or abs(index - place[2]) <= reach + 0.01]
    return {index: [left, top, right - left, bottom - top] for index in reached}
