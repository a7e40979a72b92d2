"""Microbleeds in three dimensions as boxes on slices: from a mask of voxels, or from points.

Places are (column, row, slice) of the turned volume (`volumes`), 0-based, whole numbers at voxel centres. Boxes are
COCO's, x, y, w, h in px, where pixel j covers [j, j + 1].
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from cmbfe.errors import InputError

Boxes = dict[int, list[float]]
"""Slice -> box of one microbleed."""


def lesions_of_mask(mask: np.ndarray) -> list[Boxes]:
    """Microbleeds of a mask [slices, rows, columns]: voxels above 0 that touch, be it with a corner, are one.

    Returns:
        For each, in the order of its first voxel, the tight box on every slice that it has a voxel on.
    """
    components, _ = ndimage.label(mask > 0, structure=np.ones((3, 3, 3)))
    lesions = []
    for number, (slices, rows, columns) in enumerate(ndimage.find_objects(components), 1):
        part = components[slices, rows, columns] == number
        lesions.append(
            {slices.start + k: _box(plane, rows.start, columns.start) for k, plane in enumerate(part) if plane.any()}
        )
    return lesions


def _box(plane: np.ndarray, row: int, column: int) -> list[float]:
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    return [float(column + columns[0]), float(row + rows[0]), float(width), float(height)]


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
            raise InputError(
                f"{where}: point {number} lies outside its volume: column, row, slice {found} of {size}; "
                "check whether voxels count from 0 or 1, and the order of the axes"
            )
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
