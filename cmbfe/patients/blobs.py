"""Dark blobs: what an untrained filter takes for a microbleed, slice by slice.

At each scale, the smaller of the two principal curvatures of the brightness in its slice, times the scale squared
(Lindeberg, Int J Comput Vis 30:79, 1998): large in the middle of a dark dot, and about 0 along a dark line or edge.
"""

import numpy as np
from scipy import ndimage

from cmbfe.baselines.candidates import Stack, Volume, peaks_per_slice
from cmbfe.data.labelled.labels import Detections

RADII_MM = (1.0, 1.5, 2.25, 3.4)
"""Radii of the discs that the scales answer to most: a scale is the radius over the root of two."""
MOST = 100
"""Blobs of a slice that are kept, the most pronounced ones."""
APART_MM = 1.5
"""Two blobs of a slice are further apart."""


def blob_response(volume: Volume) -> np.ndarray:
    """How much each voxel is the middle of a dark dot of its slice, largest over `RADII_MM`: float32 like the voxels.

    In the units of the voxels: the middle of a Gaussian dot of depth d has d / 4 at the scale of its own sigma.
    """
    scales_px = [[radius / np.sqrt(2) / step for step in volume.spacing_mm[1:]] for radius in RADII_MM]
    # Slice by slice: what a filter needs then stays in the processor's cache.
    return np.stack([np.max([_curvature(one, *px) for px in scales_px], axis=0) for one in volume.voxels])


def _curvature(image: np.ndarray, row_px: float, column_px: float) -> np.ndarray:
    """The smaller principal curvature of an image at one scale, times its square."""

    def second(rows: int, columns: int) -> np.ndarray:
        derived = ndimage.gaussian_filter(image, (row_px, column_px), (rows, columns))
        return derived * np.float32(row_px**rows * column_px**columns)

    along_rows, mixed, along_columns = second(2, 0), second(1, 1), second(0, 2)
    return (along_rows + along_columns) / 2 - np.hypot((along_rows - along_columns) / 2, mixed)


def blobs(stack: Stack, volume: Volume) -> Detections:
    """The blobs of a volume as COCO results, each box its middle's pixel, the response its score."""
    response = blob_response(volume)
    places = peaks_per_slice(response, MOST, max(1, round(volume.px(APART_MM))))
    scores = response[tuple(places.T)]
    return [
        {"image_id": stack.image_ids[index], "category_id": 1, "bbox": [column, row, 1, 1], "score": score}
        for (index, row, column), score in zip(places.tolist(), scores.tolist(), strict=True)
    ]
