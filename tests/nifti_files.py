"""Tiny heads as NIfTI files, with microbleeds at known voxels."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.eulerangles import euler2mat

SHAPE = 40, 36, 10
"""Columns, rows and slices of a head that lies as its file says."""
DIRECTIONS = {"L": (-1, 0, 0), "R": (1, 0, 0), "P": (0, -1, 0), "A": (0, 1, 0), "I": (0, 0, -1), "S": (0, 0, 1)}
"""Patient directions, in NIfTI's coordinates (to the right, front, head)."""


def affine_of(
    codes: str, spacing: Sequence[float] = (0.5, 0.7, 2.0), tilt: float = 0.0, origin: Sequence[float] = (11, -7, 5)
) -> np.ndarray:
    """NIfTI affine of voxels whose axes run to `codes`; `tilt`: radians about all three axes."""
    axes = np.array([DIRECTIONS[code] for code in codes], float).T
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(tilt, tilt / 2, -tilt) @ axes * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def head(shape: Sequence[int] = SHAPE, dots: Sequence[Sequence[float]] = (), seed: int = 0) -> np.ndarray:
    """float32 voxels: a bright head with noise in dark air, each dot a dark cube of 3 voxels."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    voxels = 50 + 800 * ((grid**2).sum(axis=0) < 1.6) + np.random.default_rng(seed).normal(0, 15, shape)
    for dot in dots:
        voxels[mask_slices(dot)] = 60
    return voxels.clip(0).astype(np.float32)


def mask_slices(dot: Sequence[float]) -> tuple[slice, ...]:
    """The cube of 3 voxels around a voxel."""
    return tuple(slice(int(place) - 1, int(place) + 2) for place in dot)


def mask(shape: Sequence[int], dots: Sequence[Sequence[float]], values: Sequence[float] = (1, 2, 3)) -> np.ndarray:
    """float32 mask of such cubes; their values follow one another."""
    voxels = np.zeros(shape, np.float32)
    for number, dot in enumerate(dots):
        voxels[mask_slices(dot)] = values[number % len(values)]
    return voxels


def save(path: Path, voxels: np.ndarray, affine: np.ndarray, **texts: str) -> Path:
    """Write NIfTI; `texts` fill free text fields of its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    for name, text in texts.items():
        image.header[name] = text
    nib.save(image, path)
    return path
