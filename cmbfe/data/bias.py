"""Bias-field correction: N4 in 3-D, per series (paper section 2.2, A18)."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

MINIMUM_SHRUNK_SIZE = 4
"""A side is not shrunk below this many voxels: N4's B-spline grid has four control points a side."""


def head_mask(volume: np.ndarray) -> np.ndarray:
    """Return the head as a filled mask: Otsu's threshold, then every hole in a slice closed.

    Filled, because the dark voxels inside the head are the microbleeds and veins: a mask that leaves them out
    makes N4 scale their surroundings and not them.
    """
    bright = sitk.OtsuThreshold(sitk.GetImageFromArray(volume.astype(np.float32)), 0, 1)
    # Not SimpleITK's BinaryFillhole: the same result, but seconds per slice where air is speckled.
    return np.stack([ndimage.binary_fill_holes(picture) for picture in sitk.GetArrayFromImage(bright)])


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
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(list(iterations))
    corrector.SetNumberOfThreads(1)  # more threads add up in another order: the last bits would differ
    corrector.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
    field = np.exp(sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)))[::copies]
    # The spline runs wild where no voxel of the head holds it: air keeps the range found in the head.
    inside = field[head]
    return volume / np.clip(field, inside.min(), inside.max())
