"""Veins as volume shares on a grid."""

from dataclasses import dataclass

import numpy as np

from cmbfe.phantom.scan import Axes
from cmbfe.phantom.veins import Veins, unit

SAMPLE_MM2 = 0.16
"""Cross-section mm^2 that one sample point of a vein stands for: samples lie about 0.4 mm apart."""

WIDEST_MM = 6.0


@dataclass(frozen=True)
class VeinMap:
    """Veins on a grid [z, y, x], float32."""

    share: np.ndarray
    """Volume share of blood, 0 to 1."""
    along: np.ndarray
    """Mean squared cosine between the vein and the static field; 0 where there is no vein."""


def rasterise(veins: Veins, axes: Axes, field_direction: np.ndarray) -> VeinMap:
    """Volume share of veins in each voxel.

    Each point stands for a short cylinder, filled with sample points; each sample's volume is shared linearly among
    its eight neighbours.

    Args:
        veins: in the coordinates of `axes`, mm; what lies outside the grid is left out.
    """
    origin, spacing = (np.array([value(axis) for axis in axes])[:, None] for value in (_first, _step))
    shape = tuple(len(axis) for axis in axes)
    veins = _near(veins, axes)
    samples, volumes, source = _fill(veins)
    index = (samples - origin) / spacing
    inside = np.all((index >= 0) & (index < np.array(shape)[:, None] - 1), axis=0)
    index, source = index[:, inside], source[inside]
    weight = volumes[inside] / spacing.prod()
    squared = (veins.directions * field_direction[:, None]).sum(0)[source] ** 2
    share, along = _splat(index, (weight, weight * squared), shape)
    np.divide(along, share, out=along, where=share > 0)
    return VeinMap(np.minimum(share, 1), along)


def _near(veins: Veins, axes: Axes) -> Veins:
    """The points no further outside the grid than the widest sinus."""
    keep = np.ones(veins.points.shape[1], bool)
    for part, axis in zip(veins.points, axes, strict=True):
        keep &= (part > axis[0] - WIDEST_MM) & (part < axis[-1] + WIDEST_MM)
    return Veins(
        veins.points[:, keep],
        veins.directions[:, keep],
        veins.radii_mm[keep],
        veins.length_mm[keep],
        veins.vein[keep],
    )


def _first(axis: np.ndarray) -> float:
    return float(axis[0])


def _step(axis: np.ndarray) -> float:
    return float(axis[1] - axis[0])


def _fill(veins: Veins) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample points [3, m] mm inside the veins, the volume mm^3 of each, and the vein point it belongs to."""
    section = np.pi * veins.radii_mm**2
    counts = np.maximum(np.ceil(section / SAMPLE_MM2), 1).astype(int)
    source = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Sunflower points fill a disc evenly whatever their number; a single point sits on the axis.
    radius = veins.radii_mm[source] * np.sqrt((rank + 0.5) / counts[source]) * (counts[source] > 1)
    angle = rank * np.pi * (3 - np.sqrt(5)) + source
    axis = veins.directions[:, source]
    helper = np.where(np.abs(axis[0]) < 0.9, [[1.0], [0], [0]], [[0], [1.0], [0]])
    first = unit(np.cross(axis, helper, axis=0))
    second = np.cross(axis, first, axis=0)
    samples = veins.points[:, source] + radius * (np.cos(angle) * first + np.sin(angle) * second)
    return samples, (section * veins.length_mm / counts)[source], source


def _splat(index: np.ndarray, weights: tuple[np.ndarray, ...], shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Add weights to grids, shared linearly among the eight voxels around each index [3, m]."""
    low = np.floor(index).astype(np.int64)
    upper = index - low
    places, parts = [], []
    for corner in np.ndindex(2, 2, 2):
        places.append(np.ravel_multi_index(tuple(low + np.array(corner)[:, None]), shape))
        z, y, x = (part if c else 1 - part for part, c in zip(upper, corner, strict=True))
        parts.append(z * y * x)
    flat = np.concatenate(places)
    share = np.concatenate(parts)
    grids = []
    for weight in weights:
        total = np.bincount(flat, share * np.tile(weight, 8), minlength=int(np.prod(shape)))
        grids.append(total.reshape(shape).astype(np.float32))
    return grids
