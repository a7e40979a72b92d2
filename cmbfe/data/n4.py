"""Bias-field correction: N4 in 3-D, per series (paper section 2.2, A18)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import SimpleITK as sitk

MINIMUM_SHRUNK_SIZE = 4
"""A side is not shrunk below this many voxels: N4's B-spline grid has four control points a side."""
THREADS = 2
"""Of N4, on any machine: its fit adds up per thread, so that another number gives other last bits."""


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Use this number of threads for every filter of SimpleITK inside the block. The filter's own
    `SetNumberOfThreads` does not reach the B-spline fit inside N4."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(number)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def head_mask(volume: np.ndarray) -> np.ndarray:
    """Return the head as a filled mask: Otsu's threshold, then every hole in a slice closed.

    The dark voxels inside the head are microbleeds and veins: without them N4 scales only their surroundings.
    """
    bright = sitk.OtsuThreshold(sitk.GetImageFromArray(volume.astype(np.float32)), 0, 1)
    return np.stack([_without_holes(image) for image in sitk.GetArrayViewFromImage(bright)])


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """A mask of 0 and 1 with every hole closed: what cannot be reached from outside over the sides of pixels. By
    OpenCV: the same as scipy's `binary_fill_holes` in a seventh of the time."""
    around = np.pad(mask, 1)
    outside = 2
    cv2.floodFill(around, None, (0, 0), outside)
    return around[1:-1, 1:-1] != outside


def correct_bias(
    volume: np.ndarray,
    spacing_mm: Sequence[float],
    shrink_factor: int = 4,
    iterations: Sequence[int] = (50, 50, 50, 50),
) -> np.ndarray:
    """Divide a volume by its N4 bias field (Tustison et al. 2010), estimated in the head, divided everywhere.

    Args:
        volume: [slices, rows, columns], not negative.
        spacing_mm: distance between slices, rows and columns.
        shrink_factor: the field is estimated on a volume this much smaller along each side.
        iterations: the most iterations at each level of resolution.

    Returns:
        float32 of the same shape. A volume without contrast is returned unchanged: it has no field to estimate.
    """
    volume = volume.astype(np.float32)
    if volume.max() <= volume.min():
        return volume
    # N4 takes logarithms and its B-splines want some slices: a thin series is estimated as a stack of copies.
    copies = max(1, -(-MINIMUM_SHRUNK_SIZE // len(volume)))
    stack = np.repeat(volume, copies, axis=0)
    image = sitk.GetImageFromArray(stack)
    image.SetSpacing([float(mm) for mm in reversed(spacing_mm)])
    head = head_mask(volume)
    mask = sitk.GetImageFromArray(np.repeat(head, copies, axis=0).astype(np.uint8))
    mask.CopyInformation(image)
    factors = [max(1, min(shrink_factor, size // MINIMUM_SHRUNK_SIZE)) for size in image.GetSize()]
    with _threads(THREADS):
        corrector = sitk.N4BiasFieldCorrectionImageFilter()
        corrector.SetMaximumNumberOfIterations(list(iterations))
        corrector.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
        log_field = corrector.GetLogBiasFieldAsImage(image)
    field = np.exp(sitk.GetArrayViewFromImage(log_field)[::copies])
    # The spline runs wild where no voxel of the head holds it: air keeps the range found in the head.
    inside = field[head]
    np.clip(field, inside.min(), inside.max(), out=field)
    return np.divide(volume, field, out=field)
