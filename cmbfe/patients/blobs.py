"""Dark blobs: spots in a slice that an untrained filter takes for microbleeds.

At each scale, the response is the smaller principal curvature of the brightness in the slice, times the scale squared
(Lindeberg, Int J Comput Vis 30:79, 1998). It is large in the middle of a dark dot, and about 0 along a line or edge.
"""

import numpy as np
from scipy import ndimage

from cmbfe.baselines.candidates import Stack, Volume, peaks_per_slice
from cmbfe.data.labelled.labels import Detections

RADII_MM = (1.0, 1.5, 2.25, 3.4)
"""For each scale, the radius of the disc with the largest response: the scale times the square root of two."""
MOST = 100
"""Largest number of blobs per slice. The blobs with the largest responses are kept."""
APART_MM = 1.5
"""Least distance between two blobs of a slice."""


def blob_response(volume: Volume) -> np.ndarray:
    """Largest response of the filter over `RADII_MM` at each voxel of a volume, float32 like the voxels.

    It has the voxels' unit. In the middle of a Gaussian dot of depth d it is d / 4, at the scale of the dot's sigma.
    """
    scales_px = [[radius / np.sqrt(2) / step for step in volume.spacing_mm[1:]] for radius in RADII_MM]
    # Slice by slice, so that the data of a filter stay in the processor's cache.
    return np.stack([np.max([_curvature(one, *px) for px in scales_px], axis=0) for one in volume.voxels])


def _curvature(image: np.ndarray, row_px: float, column_px: float) -> np.ndarray:
    """The smaller principal curvature of an image at one scale, times the scale squared."""

    def second(rows: int, columns: int) -> np.ndarray:
        derived = ndimage.gaussian_filter(image, (row_px, column_px), (rows, columns))
        return derived * np.float32(row_px**rows * column_px**columns)

    along_rows, mixed, along_columns = second(2, 0), second(1, 1), second(0, 2)
    return (along_rows + along_columns) / 2 - np.hypot((along_rows - along_columns) / 2, mixed)


def blobs(stack: Stack, volume: Volume) -> Detections:
    """The blobs of a volume as COCO results. Each box is a blob's central pixel, and the score is the response."""
    response = blob_response(volume)
    places = peaks_per_slice(response, MOST, max(1, round(volume.px(APART_MM))))
    scores = response[tuple(places.T)]
    return [
        {"image_id": stack.image_ids[index], "category_id": 1, "bbox": [column, row, 1, 1], "score": score}
        for (index, row, column), score in zip(places.tolist(), scores.tolist(), strict=True)
    ]
