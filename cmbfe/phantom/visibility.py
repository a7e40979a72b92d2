"""What a lesion does to the signal around it, and what of that can be seen: boxes measured, not drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cmbfe.phantom.lesions import Box, Lesion
from cmbfe.phantom.physics import RADIANS_PER_PPM_MS, Scene, acquire, ball_field, combine_echoes, echo_signal
from cmbfe.phantom.scan import Scan, Window

DARKENED = 0.15
"""A voxel belongs to a lesion when the lesion takes more than this share of the local brightness."""
NOTICED = 0.55
"""A slice shows a lesion when its darkest voxel loses more than this share."""
SMALLEST_MM = 3.0
"""Diameter of the darkened area below which a slice does not show a lesion. Microbleeds are 2-10 mm on T2*-weighted
images (S. M. Greenberg et al., Lancet Neurol 8:165, 2009); the rim from DARKENED to half the contrast adds 1 mm."""
NEGLIGIBLE_RAD = 0.08
MARGIN = 6
"""Voxels around a lesion's reach that its crop holds besides, against the edges of a small Fourier transform."""


@dataclass(frozen=True)
class Footprint:
    """A lesion's factors on the signal of each echo inside a window of the fine grid."""

    window: tuple[slice, slice, slice]
    factors: np.ndarray
    """complex64 [echoes, z, y, x]."""


def _moment(lesion: Lesion) -> float:
    return abs(lesion.chi_ppm) * float((lesion.radii_mm**3).sum())


def _reach_mm(lesion: Lesion, echo_time_ms: float) -> float:
    """Distance from the centre beyond which the lesion's phase stays under NEGLIGIBLE_RAD."""
    far = (2 / 3 * _moment(lesion) * RADIANS_PER_PPM_MS * echo_time_ms / NEGLIGIBLE_RAD) ** (1 / 3)
    solid = (np.linalg.norm(lesion.offsets_mm, axis=1) + lesion.radii_mm).max()
    return float(min(max(far, solid + 2.0), 22.0))


def _core_mm(lesion: Lesion, echo_time_ms: float) -> float:
    """Distance within which the phase turns by more than half a radian per mm, so that voxels are sampled finely."""
    steep = (4 * _moment(lesion) * RADIANS_PER_PPM_MS * echo_time_ms) ** 0.25
    solid = (np.linalg.norm(lesion.offsets_mm, axis=1) + lesion.radii_mm).max()
    return float(max(steep, solid + 1.0))


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


def footprint_of(lesion: Lesion, scan: Scan, echo_times_ms: Sequence[float], sample_mm: float = 0.25) -> Footprint:
    """Simulate a lesion on its own: field by closed form, dephasing by samples at most `sample_mm` apart.

    The signal of the tissue around it is multiplied by the factors; inside a voxel that tissue counts as uniform.
    """
    axes = scan.fine_axes_mm
    reach = _reach_mm(lesion, max(echo_times_ms))
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
    core = np.flatnonzero(np.linalg.norm(offsets[:, 0], axis=1) < _core_mm(lesion, max(echo_times_ms)))
    samples = _samples(scan.fine_spacing_mm, sample_mm)
    for part in np.array_split(core, len(core) * len(samples) // 1_000_000 + 1):
        factors[:, part] = _mean_factors(lesion, offsets[part] + samples, scan.field_direction, echo_times_ms)
    return Footprint(window, factors.reshape(-1, *shape))


def _samples(spacing_mm: tuple[float, float, float], sample_mm: float) -> np.ndarray:
    """Offsets [samples, 3] that divide a voxel evenly."""
    axes = []
    for mm in spacing_mm:
        count = int(np.ceil(mm / sample_mm))
        axes.append(((np.arange(count) + 0.5) / count - 0.5) * mm)
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)


def with_and_without(
    scene: Scene, footprint: Footprint, scan: Scan, echo_times_ms: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    """SWAN magnitudes without noise, with and without a lesion, on the kept pixels around it.

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
    return combine_echoes(changed), combine_echoes(unchanged), first


def _kept_inside(scan: Scan, window: Window) -> tuple[Window, tuple[int, int, int]]:
    """Where the kept pixels lie inside a crop of the fine grid, and the first one's indices in the series."""
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
    """Boxes px around the voxels that a lesion darkens beyond DARKENED, per slice, and its visible diameter mm.

    The diameter is that of the disc with the darkened area, on the slice where it is largest. A slice where it is
    smaller than SMALLEST_MM, or that nowhere loses more than NOTICED, has no box.

    Args:
        changed: magnitude with the lesion, `unchanged` without it, [slices, rows, columns].
        first: indices in the series of the first slice, row and column.
        least: brightness that the surroundings count as where they are darker: in a signal void nothing stands out.
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
