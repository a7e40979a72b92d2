"""Vein cross-sections: the mimic that a single slice cannot tell from a microbleed, found and measured."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from cmbfe.data.labelled.labels import LOCATIONS
from cmbfe.phantom.body import Body
from cmbfe.phantom.lesions import Box, Finding, location_at
from cmbfe.phantom.scan import Axes
from cmbfe.phantom.visibility import DARKENED

STEEPEST = 0.5
"""Least cosine between a vein and the slices' normal for its cross-section to look like a dot."""
LEAST_LOSS = 0.35
"""Share of the surroundings' brightness that a dot's darkest pixel lacks at least."""
CALIBRE_MM = (0.2, 2.0)
"""Radii of the veins that are measured; sinuses are no mimics."""
WINDOW_MM = 6.0
DIAMETER_MM = (1.2, 8.0)
"""Visible diameters that count: from a little below the least of a microbleed, for a mimic need not be labelled."""


ELONGATION = 2.0
"""Longest box side over the shortest up to which a dark patch is a dot."""
FILLED = 0.5
"""Share of its box that a dot fills at least; a disc fills 0.79."""


class Crossing(NamedTuple):
    """A vein that passes through a kept slice; row and column in px of the measured window, pixel centres at whole
    numbers."""

    vein: int
    slice_index: int
    row: float
    column: float
    calibre_mm: float
    location: str


def _index(points: np.ndarray, axes: Axes) -> np.ndarray:
    """Fractional indices [3, n] on a grid of points [3, n] mm."""
    return np.stack([np.interp(part, axis, np.arange(len(axis))) for part, axis in zip(points, axes, strict=True)])


def find_crossings(body: Body) -> list[Crossing]:
    """Crossings of kept slices by steep veins inside the brain; of each vein and slice the nearest point."""
    veins, scan = body.veins, body.scan
    place = (veins.points[0] - scan.lowest_mm) / scan.spacing_mm
    number = np.round(place).astype(int)
    usable = (np.abs(veins.directions[0]) > STEEPEST) & (number >= 0) & (number < scan.slices)
    usable &= (veins.radii_mm > CALIBRE_MM[0]) & (veins.radii_mm < CALIBRE_MM[1])
    chosen = np.flatnonzero(usable)
    on_body = _index(veins.points[:, chosen], body.axes)
    chosen = chosen[ndimage.map_coordinates(body.head.hull, on_body, order=1, mode="nearest") < -1.5]
    chosen = chosen[np.argsort(np.abs(place - number)[chosen], kind="stable")]
    _, first = np.unique(veins.vein[chosen].astype(np.int64) * scan.slices + number[chosen], return_index=True)
    points = np.sort(chosen[first])
    fine = _index(veins.points[:, points], scan.fine_axes_mm) / scan.oversampling
    voxel = np.round(_index(veins.points[:, points], body.axes)).astype(int)
    location = location_at(body.head.position[(slice(None), *voxel)])
    calibre = 2 * veins.radii_mm[points]
    columns = (veins.vein[points], number[points], fine[1], fine[2], calibre, location)
    return [
        Crossing(int(vein), int(at), float(row), float(column), float(width), LOCATIONS[place])
        for vein, at, row, column, width, place in zip(*columns, strict=True)
    ]


def _dot(image: np.ndarray, row: float, column: float, pixel_mm: float, least: float) -> tuple[Box, float] | None:
    """Box px and diameter mm of the dark dot at a place of one slice; None where nothing there looks like a dot."""
    reach = round(WINDOW_MM / pixel_mm)
    top, left = max(round(row) - reach, 0), max(round(column) - reach, 0)
    patch = image[top : round(row) + reach + 1, left : round(column) + reach + 1]
    centre = (round(row) - top, round(column) - left)
    if not (0 <= centre[0] < patch.shape[0] and 0 <= centre[1] < patch.shape[1]):
        return None
    surroundings = np.median(patch)
    if surroundings < least:
        return None
    lost = 1 - patch / surroundings
    near = max(round(1.0 / pixel_mm), 1)
    around = tuple(slice(max(c - near, 0), c + near + 1) for c in centre)
    if lost[around].max() < LEAST_LOSS:
        return None
    peak = np.unravel_index(lost[around].argmax(), lost[around].shape)
    labels, _ = ndimage.label(lost > DARKENED)
    part = ndimage.find_objects((labels == labels[around][peak]).astype(np.int8))[0]
    area = (labels[part] == labels[around][peak]).sum()
    height, width = (side.stop - side.start for side in part)
    diameter = 2 * np.sqrt(area / np.pi) * pixel_mm
    whole = all(side.start > 0 and side.stop < size for side, size in zip(part, patch.shape, strict=True))
    round_ = max(height, width) <= ELONGATION * min(height, width) and area >= FILLED * height * width
    if not (whole and round_ and DIAMETER_MM[0] <= diameter <= DIAMETER_MM[1]):
        return None
    box = (left + part[1].start, top + part[0].start, left + part[1].stop, top + part[0].stop)
    return tuple(float(edge) for edge in box), float(diameter)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def vein_findings(body: Body, image: np.ndarray, others: Sequence[Finding], least: float) -> list[Finding]:
    """Findings of kind "vein": one per vein, with a box on each slice where its cross-section is a dark dot.

    Args:
        image: SWAN magnitude without noise [slices, rows, columns] of the scan's measured window.
        others: findings whose boxes no vein's box may overlap.
        least: brightness of the surroundings below which nothing stands out.
    """
    _, rows, columns = body.scan.measured_window
    used: dict[int, list[Box]] = {}
    for finding in others:
        for number, box in finding.boxes.items():
            used.setdefault(number, []).append(box)
    dots: dict[int, list[tuple[Crossing, Box, float]]] = {}
    for crossing in find_crossings(body):
        dot = _dot(image[crossing.slice_index], crossing.row, crossing.column, body.scan.pixel_mm, least)
        if dot is None:
            continue
        (left, top, right, bottom), diameter = dot
        box = (left + columns.start, top + rows.start, right + columns.start, bottom + rows.start)
        taken = used.setdefault(crossing.slice_index, [])
        if not any(_overlap(box, other) for other in taken):
            taken.append(box)
            dots.setdefault(crossing.vein, []).append((crossing, box, diameter))
    return [_finding(count, dots[vein]) for count, vein in enumerate(sorted(dots), 1)]


def _finding(count: int, dots: Sequence[tuple[Crossing, Box, float]]) -> Finding:
    """One vein's dots as a finding; its diameters are those of its most conspicuous dot."""
    widest, _, diameter = max(dots, key=lambda dot: dot[2])
    boxes = {crossing.slice_index: box for crossing, box, _ in dots}
    return Finding(f"vein-{count:03d}", "vein", widest.location, widest.calibre_mm, diameter, boxes)
