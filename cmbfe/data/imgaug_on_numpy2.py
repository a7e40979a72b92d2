"""Import imgaug 0.4.0 on NumPy 2, after restoring `np.sctypes`, which imgaug reads and NumPy 2 removed.

imgaug is very likely the library of the paper's augmentation; it is no longer maintained.
"""

import numpy as np

if not hasattr(np, "sctypes"):
    np.sctypes = {  # noqa: NPY201 - this file exists because it was removed
        "int": [np.int8, np.int16, np.int32, np.int64],
        "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
        "float": [np.float16, np.float32, np.float64],
    }

from imgaug import augmenters
from imgaug.augmentables.bbs import BoundingBox, BoundingBoxesOnImage
from imgaug.augmentables.kps import Keypoint, KeypointsOnImage

__all__ = ["BoundingBox", "BoundingBoxesOnImage", "Keypoint", "KeypointsOnImage", "augmenters"]
