"""Visible size, shape and contrast of a microbleed, measured on the dark voxels in its boxes.

A voxel counts if it is connected to the darkest voxel, and nearer in brightness to this voxel than to the
surroundings. Coarser voxels are resampled to `GRID_MM`, about the voxel size of published masks.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import pdist
from skimage.measure import marching_cubes, mesh_surface_area

from cmbfe.baselines.candidates import Volume

GRID_MM = 0.5
SURROUNDINGS_MM = 4.0
"""Width of the surroundings of a microbleed's boxes, in its slices."""
DIFFERENCES = np.array([[[1, -2, 1], [-2, 4, -2], [1, -2, 1]]]) / 6
"""Filter that removes structure and keeps noise with its variance (Immerkær, Comput Vis Image Underst 64:300, 1996)."""


def measure_lesion(volume: Volume, slices: np.ndarray, boxes: np.ndarray) -> dict[str, float]:
    """Size, shape and contrast of a microbleed in its boxes; empty if no voxel there is darker than the surroundings.

    Args:
        slices: slice of each box, int64 [K].
        boxes: float64 [K, 4] xyxy px.

    Returns:
        The values of `shape_of`, and `contrast_to_noise`: median of the surroundings minus mean of the region,
        divided by the noise of the surroundings.
    """
    window, inside = _window(volume, slices, boxes)
    crop = volume.voxels[window]
    around = ~inside & inside.any(axis=(1, 2))[:, None, None]
    zoom = {"zoom": np.maximum(np.array(volume.spacing_mm) / GRID_MM, 1), "mode": "nearest", "grid_mode": True}
    grid, within = ndimage.zoom(crop, order=1, **zoom), ndimage.zoom(inside.astype(np.uint8), order=0, **zoom) > 0
    background, darkest = (np.median(crop[around]) if around.any() else 0), grid[within].min()
    if background <= darkest:
        return {}
    parts, _ = ndimage.label(within & (grid <= (background + darkest) / 2), np.ones((3, 3, 3)))
    region = parts == parts[within & (grid == darkest)][0]
    noise = 1.4826 * np.median(np.abs(ndimage.convolve(crop, DIFFERENCES)[around]))
    contrast = (background - grid[region].mean()) / noise if noise else np.nan
    return {**shape_of(region, np.array(volume.spacing_mm) * crop.shape / grid.shape), "contrast_to_noise": contrast}


def _window(volume: Volume, slices: np.ndarray, boxes: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
    """Window of a volume around boxes and their surroundings, and the mask of its voxels that lie in a box."""
    edges = np.rint(boxes).astype(int)
    edges[:, 2:] = np.maximum(edges[:, 2:], edges[:, :2] + 1)
    reach = np.ceil(SURROUNDINGS_MM / np.array(volume.spacing_mm)[[2, 1]]).astype(int)
    left, top = np.maximum(edges[:, :2].min(axis=0) - reach, 0)
    right, bottom = edges[:, 2:].max(axis=0) + reach
    window = (slice(slices.min(), slices.max() + 1), slice(top, bottom), slice(left, right))
    inside = np.zeros(volume.voxels[window].shape, bool)
    for index, (x, y, end_x, end_y) in zip(slices - slices.min(), edges - [left, top, left, top], strict=True):
        inside[index, y:end_y, x:end_x] = True
    return window, inside


def shape_of(region: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Size and shape of a region, bool [slices, rows, columns], as PyRadiomics defines them.

    `equivalent_mm`: diameter of a ball of the same volume. `in_plane_mm`: longest distance between surface points in a
    slice. `elongation`: square root of the second-largest over the largest eigenvalue of the voxels' covariance, 1 for
    a ball. `sphericity`: surface of a ball with the volume of the mesh, over the surface of the mesh.
    """
    volume = region.sum() * np.prod(spacing_mm)
    spread = np.linalg.eigvalsh(np.cov((np.argwhere(region) * spacing_mm).T, bias=True)).clip(0)
    vertices, faces, _, _ = marching_cubes(np.pad(region, 1).astype(np.float32), 0.5, spacing=tuple(spacing_mm))
    corners = vertices[faces]
    mesh_volume = abs(np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum()) / 6
    in_slices = (vertices[vertices[:, 0] == height, 1:] for height in np.unique(vertices[:, 0]))
    return {
        "equivalent_mm": (6 * volume / np.pi) ** (1 / 3),
        "in_plane_mm": max(pdist(points).max(initial=0) for points in in_slices),
        "elongation": np.sqrt(spread[1] / spread[2]) if spread[2] > 0 else np.nan,
        "sphericity": (36 * np.pi * mesh_volume**2) ** (1 / 3) / mesh_surface_area(vertices, faces),
    }
