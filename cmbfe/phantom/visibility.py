"""Simulate the effect of a lesion on the signal around it, and measure bounding boxes of its visible part on images.
Also measure boxes of vein cross-sections, which look like microbleeds on a single slice."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from cmbfe.data.labelled.labels import LOCATIONS
from cmbfe.phantom.anatomy import Body
from cmbfe.phantom.lesions import Box, Finding, Lesion, location_at
from cmbfe.phantom.physics import RADIANS_PER_PPM_MS, Scene, acquire, ball_field, echo_signal
from cmbfe.phantom.scan import Axes, Scan, Window

DARKENED = 0.15
"""A voxel belongs to a lesion when the lesion removes more than this share of the local brightness."""
NOTICED = 0.5  # a slice shows a lesion when its darkest voxel loses more than this share
SMALLEST_MM = 2.0
"""Diameter of the darkened area below which a slice does not show a lesion. Microbleeds are 2-10 mm on T2*-weighted
images (S. M. Greenberg et al., Lancet Neurol 8:165, 2009); the rim from DARKENED to half the contrast adds 1 mm."""
NEGLIGIBLE_RAD = 0.08
SAMPLE_MM = 0.25
MARGIN = 6
"""Extra voxels in the crop around a lesion, which keep edge effects of the small Fourier transform away."""
STEEPEST = 0.5
"""Smallest cosine between a vein and the slice normal at which the vein's cross-section looks like a dot."""
LEAST_LOSS = 0.35  # a dot's darkest pixel lacks at least this share of the surroundings' brightness
CALIBRE_MM = (0.2, 2.0)  # range of radii of the measured veins; excludes sinuses, which are no mimics
WINDOW_MM = 6.0
DIAMETER_MM = (1.2, 8.0)
"""Range of a dot's visible diameter. It starts below SMALLEST_MM: mimics may be smaller than labelled microbleeds."""
ELONGATION = 2.0  # largest ratio of the longer to the shorter side of a dot's box
FILLED = 0.5  # least share of its box that a dot fills; a disc fills 0.79


@dataclass(frozen=True)
class Footprint:
    """Factors by which a lesion multiplies the signal of each echo, inside a window of the fine grid."""

    window: tuple[slice, slice, slice]
    factors: np.ndarray  # complex64 [echoes, z, y, x]


def _reach_mm(lesion: Lesion, echo_time_ms: float) -> tuple[float, float]:
    """Two distances in mm from a lesion's centre. Beyond the first, the phase is under NEGLIGIBLE_RAD. Within the
    second, the phase changes by more than half a radian per mm, so that voxels need fine sampling.
    """
    moment = abs(lesion.chi_ppm) * float((lesion.radii_mm**3).sum())
    far = (2 / 3 * moment * RADIANS_PER_PPM_MS * echo_time_ms / NEGLIGIBLE_RAD) ** (1 / 3)
    steep = (4 * moment * RADIANS_PER_PPM_MS * echo_time_ms) ** 0.25
    solid = (np.linalg.norm(lesion.offsets_mm, axis=1) + lesion.radii_mm).max()
    return float(min(max(far, solid + 2.0), 22.0)), float(max(steep, solid + 1.0))


def _mean_factors(
    lesion: Lesion, offsets_mm: np.ndarray, direction: np.ndarray, echo_times_ms: Sequence[float]
) -> np.ndarray:
    """Factors [echoes, n] on the signal, averaged over the sample offsets [n, samples, 3] of each voxel."""
    field = np.zeros(offsets_mm.shape[:2], np.float32)
    inside = np.zeros(offsets_mm.shape[:2], bool)
    for shift, radius in zip(lesion.offsets_mm, lesion.radii_mm, strict=True):
        from_ball = offsets_mm - shift.astype(np.float32)
        inside |= np.einsum("...i,...i", from_ball, from_ball) < radius**2
        if lesion.chi_ppm:
            field += ball_field(from_ball, float(radius), lesion.chi_ppm, direction)
    factors = []
    for echo_time in echo_times_ms:
        left = lesion.density * np.exp(-lesion.r2star_per_s * echo_time * 1e-3)
        phase = np.exp(1j * (np.float32(RADIANS_PER_PPM_MS * echo_time) * field))
        factors.append((phase * np.where(inside, np.float32(left), np.float32(1))).mean(axis=1))
    return np.array(factors, np.complex64)


def footprint_of(lesion: Lesion, scan: Scan, echo_times_ms: Sequence[float]) -> Footprint:
    """Simulate a single lesion, with its field in closed form and its dephasing by samples at most SAMPLE_MM apart.

    The factors multiply the signal of the surrounding tissue, which counts as uniform inside a voxel.
    """
    axes = scan.fine_axes_mm
    reach, core_mm = _reach_mm(lesion, max(echo_times_ms))
    window = tuple(
        slice(max(int(np.searchsorted(axis, c - reach)), 0), int(np.searchsorted(axis, c + reach)))
        for axis, c in zip(axes, lesion.centre_mm, strict=True)
    )
    grid = np.meshgrid(
        *(axis[w] - c for axis, w, c in zip(axes, window, lesion.centre_mm, strict=True)), indexing="ij"
    )
    offsets = np.stack(grid, axis=-1).astype(np.float32)
    shape = offsets.shape[:3]
    offsets = offsets.reshape(-1, 1, 3)
    factors = _mean_factors(lesion, offsets, scan.field_direction, echo_times_ms)
    core = np.flatnonzero(np.linalg.norm(offsets[:, 0], axis=1) < core_mm)
    counts = [int(np.ceil(mm / SAMPLE_MM)) for mm in scan.fine_spacing_mm]
    within = (((np.arange(n) + 0.5) / n - 0.5) * mm for n, mm in zip(counts, scan.fine_spacing_mm, strict=True))
    samples = np.stack(np.meshgrid(*within, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)
    for part in np.array_split(core, len(core) * len(samples) // 1_000_000 + 1):
        factors[:, part] = _mean_factors(lesion, offsets[part] + samples, scan.field_direction, echo_times_ms)
    return Footprint(window, factors.reshape(-1, *shape))


def with_and_without(
    scene: Scene, footprint: Footprint, scan: Scan, echo_times_ms: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    """Noise-free SWAN magnitudes (means over echoes) with and without a lesion, on the kept pixels around it.

    Returns:
        Two arrays [slices, rows, columns], and the indices in the series of their first slice, row and column.
    """
    outer = tuple(slice(max(w.start - MARGIN, 0), w.stop + MARGIN) for w in footprint.window)
    crop = scene.crop(outer)
    inner = tuple(slice(w.start - o.start, w.stop - o.start) for w, o in zip(footprint.window, outer, strict=True))
    kept, first = _kept_inside(scan, outer)
    changed, unchanged = [], []
    for factor, echo_time in zip(footprint.factors, echo_times_ms, strict=True):
        signal = echo_signal(crop, echo_time)
        with_lesion = signal.copy()
        with_lesion[inner] *= factor
        for version, magnitudes in ((with_lesion, changed), (signal, unchanged)):
            magnitudes.append(np.abs(acquire(version, scan.fine_spacing_mm, scan.voxel_mm)[kept]))
    return np.mean(changed, axis=0), np.mean(unchanged, axis=0), first


def _kept_inside(scan: Scan, window: Window) -> tuple[Window, tuple[int, int, int]]:
    """Index of the kept pixels in a crop of the fine grid, and the indices of the first kept pixel in the series."""
    kept, first = [], []
    for whole, part, offset in zip(scan.kept, window, scan.measured_window, strict=True):
        start, step = whole.start or 0, whole.step or 1
        number = max(-(-(part.start - start) // step), 0)
        begin = start + number * step - part.start
        stop = None if whole.stop is None else max(whole.stop - part.start, 0)
        kept.append(slice(begin, stop, step))
        first.append(number + offset.start)
    return tuple(kept), tuple(first)


def visible_boxes(
    changed: np.ndarray, unchanged: np.ndarray, first: tuple[int, int, int], pixel_mm: float, least: float
) -> tuple[dict[int, Box], float]:
    """Boxes (px) around the voxels that a lesion darkens beyond DARKENED, per slice, and its visible diameter (mm).

    The diameter is that of a disc with the darkened area, on the slice with the largest area. A slice has no box if its
    diameter is below SMALLEST_MM or its darkest pixel loses less than NOTICED.

    Args:
        changed: magnitude with the lesion, `unchanged` without it, [slices, rows, columns].
        first: indices in the series of the first slice, row and column.
        least: lower limit for the brightness of the surroundings, because nothing stands out in a signal void.
    """
    drop = (unchanged - changed) / max(float(np.median(unchanged)), least)
    boxes: dict[int, Box] = {}
    largest = 0.0
    for number, lost in enumerate(drop, first[0]):
        peak = np.unravel_index(lost.argmax(), lost.shape)
        if lost[peak] < NOTICED:
            continue
        labels, _ = ndimage.label(lost > DARKENED)
        rows, columns = np.nonzero(labels == labels[peak])
        diameter = 2 * np.sqrt(len(rows) / np.pi) * pixel_mm
        largest = max(largest, float(diameter))
        if diameter < SMALLEST_MM:
            continue
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        boxes[number] = tuple(float(v + first[2 - i % 2]) for i, v in enumerate(box))
    return boxes, largest


class Crossing(NamedTuple):
    """Crossing of a vein and a kept slice. Row and column are px of the measured window, with pixel centres at whole
    numbers."""

    vein: int
    slice_index: int
    row: float
    column: float
    calibre_mm: float
    location: str


def _index(points: np.ndarray, axes: Axes) -> np.ndarray:
    """Fractional grid indices [3, n] of points [3, n] mm."""
    return np.stack([np.interp(part, axis, np.arange(len(axis))) for part, axis in zip(points, axes, strict=True)])


def find_crossings(body: Body) -> list[Crossing]:
    """Where steep veins inside the brain cross kept slices: the point of the vein that is nearest to the slice."""
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
    location = np.array(LOCATIONS)[location_at(body.head.position[(slice(None), *voxel)])]
    columns = (veins.vein[points], number[points], fine[1], fine[2], 2 * veins.radii_mm[points], location)
    return [Crossing(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _dot(image: np.ndarray, row: float, column: float, pixel_mm: float, least: float) -> tuple[Box, float] | None:
    """Box (px) and diameter (mm) of the dark dot at (row, column) of a slice; None if there is no dot."""
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


def vein_findings(body: Body, image: np.ndarray, others: Sequence[Finding], least: float) -> list[Finding]:
    """Findings of kind "vein", each with boxes on the slices where the vein's cross-section is a dark dot.

    Args:
        image: SWAN magnitude without noise [slices, rows, columns] of the scan's measured window.
        others: findings whose boxes must not overlap with boxes of veins.
        least: brightness of the surroundings below which nothing stands out.
    """
    _, rows, columns = body.scan.measured_window
    used: dict[int, list[Box]] = defaultdict(list)
    for finding in others:
        for number, box in finding.boxes.items():
            used[number].append(box)
    dots: dict[int, list[tuple[Crossing, Box, float]]] = defaultdict(list)
    for crossing in find_crossings(body):
        dot = _dot(image[crossing.slice_index], crossing.row, crossing.column, body.scan.pixel_mm, least)
        if dot is None:
            continue
        (left, top, right, bottom), diameter = dot
        box = (left + columns.start, top + rows.start, right + columns.start, bottom + rows.start)
        taken = used[crossing.slice_index]
        if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            taken.append(box)
            dots[crossing.vein].append((crossing, box, diameter))
    veins = []
    for count, vein in enumerate(sorted(dots), 1):
        widest, _, diameter = max(dots[vein], key=lambda dot: dot[2])  # the most conspicuous dot
        boxes = {crossing.slice_index: box for crossing, box, _ in dots[vein]}
        veins.append(Finding(f"crossing-{count:03d}", "vein", widest.location, widest.calibre_mm, diameter, boxes))
    return veins
