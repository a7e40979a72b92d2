"""Local statistical thresholding and a support vector machine, after Barnes et al., Magn Reson Imaging 29:844, 2011.

Voxels darker than their surroundings by some standard deviations are joined into regions. The shape and brightness of
a region distinguish a microbleed from a vessel.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from scipy import ndimage
from scipy.special import expit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from cmbfe.baselines.candidates import Candidates, Volume, darkest_in, extents, train_on_features
from cmbfe.params import Baselines

LARGEST_MM = 15.0  # a region wider than this in its slice is a sulcus, a ventricle or air, not a candidate
SMALLEST_PX = 4  # a region of fewer pixels in its slice is too small to have a shape
OTHERS_PER_MICROBLEED = 15
"""Most training regions without a microbleed per microbleed region, as an SVM's time grows with their square."""


def dark_mask(volume: Volume, window_mm: float, deviations: float) -> np.ndarray:
    """Mask of the voxels that are `deviations` standard deviations darker than the mean of a window in the slice."""
    side = [1, *(max(3, round(window_mm / step)) for step in volume.spacing_mm[1:])]
    voxels = volume.voxels.astype(np.float64)
    mean = ndimage.uniform_filter(voxels, side)
    variance = np.maximum(ndimage.uniform_filter(voxels**2, side) - mean**2, 0)
    return voxels < mean - deviations * np.sqrt(variance)


def train(volumes: Callable[[], Iterable[Volume]], settings: Baselines, seed: int) -> Callable[[Volume], Candidates]:
    """Train a detector. Its scores grow with the signed distance from the SVM's boundary, where they are 0.5.

    See `candidates.train_on_features`.
    """

    def fit(features: np.ndarray, microbleed: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        hits, others = np.flatnonzero(microbleed == 1), np.flatnonzero(microbleed == 0)
        some = np.random.default_rng([seed, 0xBA12]).permutation(others)[: OTHERS_PER_MICROBLEED * len(hits)]
        chosen = np.concatenate([hits, some])
        classifier = make_pipeline(StandardScaler(), SVC(class_weight="balanced"))
        classifier.fit(features[chosen], microbleed[chosen])
        return lambda unseen: expit(classifier.decision_function(unseen))

    return train_on_features(volumes, partial(describe, settings=settings), fit)


def describe(volume: Volume, settings: Baselines) -> tuple[np.ndarray, np.ndarray]:
    """Find the dark regions of each slice: their darkest voxels int64 [N, 3], and features float64 [N, F].

    A region lies in a single slice; its features also describe the three-dimensional region that it is part of.
    """
    dark = dark_mask(volume, settings.thresholding.window_mm, settings.thresholding.deviations)
    in_slice = np.zeros((3, 3, 3), bool)
    in_slice[1] = True
    label, count = ndimage.label(dark, in_slice)
    small_enough = _of_a_size(label, count, volume)
    places = darkest_in(volume.voxels, label, small_enough)
    solid, solids = ndimage.label(dark, ndimage.generate_binary_structure(3, 1))
    of_slice = _shape(label, count, volume)[small_enough - 1]
    of_solid = _shape(solid, solids, volume)[solid[tuple(places.T)] - 1]
    brightness = _brightness(volume, label, small_enough)
    return places, np.concatenate([of_slice, of_solid, brightness, extents(volume, places)], axis=1)


def _of_a_size(label: np.ndarray, count: int, volume: Volume) -> np.ndarray:
    """Labels of the regions that are neither too wide nor too small for a microbleed."""
    largest = np.array([LARGEST_MM / step for step in volume.spacing_mm[1:]])
    pixels = np.bincount(label.ravel(), minlength=count + 1)
    sides = [[side.stop - side.start for side in box[1:]] for box in ndimage.find_objects(label)]
    is_narrow = (np.array(sides).reshape(-1, 2) <= largest).all(axis=1)
    return np.flatnonzero(is_narrow & (pixels[1:] >= SMALLEST_PX)) + 1


def _shape(label: np.ndarray, count: int, volume: Volume) -> np.ndarray:
    """Log size of each region, and standard deviations (mm) along its three main axes, longest first: [count, 4]."""
    at = np.nonzero(label)
    number = label[at] - 1
    size = np.maximum(np.bincount(number, minlength=count), 1)
    mm = [axis * step for axis, step in zip(at, volume.spacing_mm, strict=True)]
    mean = [np.bincount(number, axis, count) / size for axis in mm]
    centred = [axis - middle[number] for axis, middle in zip(mm, mean, strict=True)]
    inertia = np.array([[np.bincount(number, one * other, count) / size for other in centred] for one in centred])
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(inertia.transpose(2, 0, 1)), 0))[:, ::-1]
    return np.concatenate([np.log(size)[:, None], spread], axis=1)


def _brightness(volume: Volume, label: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Brightness of each region [N, 5]: mean, minimum, standard deviation, and mean in each of the adjacent slices."""
    if not len(numbers):
        return np.zeros((0, 5))
    voxels, measures = volume.voxels, (ndimage.mean, ndimage.minimum, ndimage.standard_deviation)
    own = [measure(voxels, label, numbers) for measure in measures]
    beside = np.concatenate([voxels[:1], voxels[:-1]]), np.concatenate([voxels[1:], voxels[-1:]])
    return np.stack([*own, *(ndimage.mean(neighbour, label, numbers) for neighbour in beside)], axis=1)
