"""Radial symmetry transform (Loy and Zelinsky, IEEE TPAMI 25:959, 2003), after Kuijf et al., NeuroImage 59:2266, 2012.

Every edge votes for the point one radius away in the direction of falling brightness, so that the edges of a dark ball
vote for its middle. People judged Kuijf's candidates; here a random forest does, as in Li et al.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from cmbfe.baselines.candidates import (
    LEVELS,
    Candidates,
    Volume,
    cubes,
    darkest_near,
    extents,
    peaks_per_slice,
    train_on_features,
)
from cmbfe.params import Baselines

STRICTNESS = 2.0  # exponent of the share of edges that agree (Loy and Zelinsky's alpha; 2 is their choice)
FAINTEST = 0.05  # edges below this share of the 99.9 % quantile are noise and have no vote (their beta)
NEIGHBOURS = 2  # slices on either side whose brightness and symmetry distinguish a ball from a vessel
RINGS_MM = (0.0, 1.0, 2.0, 3.0, 4.5, 6.0, 9.0)  # edges of the rings in which brightness is averaged


def radial_symmetry(voxels: np.ndarray, spacing_mm: Sequence[float], radii_mm: Sequence[float]) -> np.ndarray:
    """Radial symmetry: how well the edges around each voxel fit a dark ball (or disc) of each radius.

    In the terms of Loy and Zelinsky: for negatively affected voxels, magnitude times orientation to the power of
    `STRICTNESS`. Magnitude and orientation are relative to a ball for which all edges vote.

    Args:
        voxels: [..., rows, columns] with any number of dimensions. `spacing_mm` has a value per axis.

    Returns:
        float32 [radii, ...], 0 where no edge votes.
    """
    gradient = [
        np.gradient(voxels, step, axis=axis) if voxels.shape[axis] > 1 else np.zeros_like(voxels)  # a single slice
        for axis, step in enumerate(spacing_mm)
    ]
    steepness = np.sqrt(sum(part**2 for part in gradient))
    largest = np.quantile(steepness, 0.999)
    votes = np.nonzero(steepness > FAINTEST * largest)
    weight = np.minimum(steepness[votes], largest) / (largest or 1)
    towards_dark = [-part[votes] / steepness[votes] for part in gradient]
    return np.stack([_votes(voxels.shape, votes, weight, towards_dark, spacing_mm, radius) for radius in radii_mm])


def _votes(
    shape: tuple[int, ...], votes: Sequence[np.ndarray], weight: np.ndarray, towards_dark: Sequence[np.ndarray],
    spacing_mm: Sequence[float], radius_mm: float,
) -> np.ndarray:  # fmt: skip
    """The transform at one radius, from the number and weight of votes, smoothed by a quarter of the radius."""
    goal = [
        at + np.rint(radius_mm * direction / step).astype(np.int64)
        for at, direction, step in zip(votes, towards_dark, spacing_mm, strict=True)
    ]
    inside = np.all([(at >= 0) & (at < size) for at, size in zip(goal, shape, strict=True)], axis=0)
    where = np.ravel_multi_index([at[inside] for at in goal], shape)
    sigma = [radius_mm / (4 * step) for step in spacing_mm]
    # Scaled so that a point gets 1 if all edges vote for it, at any radius and with any smoothing.
    peak = np.prod([max(1.0, np.sqrt(2 * np.pi) * width) for width in sigma]) / _surface_voxels(radius_mm, spacing_mm)
    count, magnitude = (
        peak * ndimage.gaussian_filter(np.bincount(where, of, int(np.prod(shape))).reshape(shape), sigma)
        for of in (np.ones(len(where)), weight[inside])
    )
    return (magnitude * np.minimum(count, 1) ** STRICTNESS).astype(np.float32)


def _surface_voxels(radius_mm: float, spacing_mm: Sequence[float]) -> float:
    """Approximate number of voxels on the edge of a ball, or of a disc in two dimensions; at least 1."""
    # An axis with voxels longer than the ball does not count as a dimension.
    seen = [step for step in spacing_mm if step <= 2 * radius_mm] or [min(spacing_mm)]
    edge = {1: 2.0, 2: 2 * np.pi * radius_mm, 3: 4 * np.pi * radius_mm**2}[len(seen)]
    return max(1.0, edge * float(np.mean(seen)) / float(np.prod(seen)))


def train(volumes: Callable[[], Iterable[Volume]], settings: Baselines, seed: int) -> Callable[[Volume], Candidates]:
    """Train a detector whose scores are probabilities of a random forest; see `candidates.train_on_features`."""

    def fit(features: np.ndarray, microbleed: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        forest = fit_forest(features, microbleed, settings, seed)
        return lambda unseen: forest.predict_proba(unseen)[:, 1]

    return train_on_features(volumes, partial(describe, settings=settings), fit)


def fit_forest(
    features: np.ndarray, microbleed: np.ndarray, settings: Baselines, seed: int
) -> RandomForestClassifier:
    """Fit a random forest to the candidates that clearly are (1) or are not (0) a microbleed."""
    forest = RandomForestClassifier(settings.radial_symmetry.trees, min_samples_leaf=3, random_state=seed)
    return forest.fit(features[microbleed >= 0], microbleed[microbleed >= 0])


def feature_names(settings: Baselines) -> list[str]:
    """Name of the group of each feature of `describe`; the features of a group share a name."""
    slices = ["brightness, slices beside it"] * (2 * NEIGHBOURS + 1)
    slices[NEIGHBOURS] = "brightness, its slice"
    rings, radii = len(RINGS_MM) - 1, len(settings.radial_symmetry.radii_mm)
    brightness = [name for name in slices for _ in range(rings)]
    rest = {
        "unevenness of brightness": rings,
        "background": 1,
        "radial symmetry": 3 * radii,
        "extent": 4 * len(LEVELS),
    }
    return brightness + [name for name, number in rest.items() for _ in range(number)]


def describe(volume: Volume, settings: Baselines) -> tuple[np.ndarray, np.ndarray]:
    """Candidate voxels [N, 3] at the peaks of radial symmetry, and their features [N, F]."""
    symmetry = radial_symmetry(volume.voxels, volume.spacing_mm, settings.radial_symmetry.radii_mm)
    peaks = peaks_per_slice(symmetry.max(axis=0), settings.candidates_per_image, separation_px=1)
    places = darkest_near(volume.voxels, peaks, round(volume.px(2.0)))
    return places, _features(volume, places, symmetry)


def _features(volume: Volume, places: np.ndarray, symmetry: np.ndarray) -> np.ndarray:
    """Features of each place: brightness of rings in nearby slices, background, symmetry at each radius, extents."""
    half = int(np.ceil(volume.px(RINGS_MM[-1])))
    around = cubes(volume.voxels, places, (NEIGHBOURS, half, half))
    distance = volume.distances_mm(half)
    rings = [around[..., (distance >= low) & (distance < high)] for low, high in pairwise(RINGS_MM)]
    mean = np.stack([ring.mean(axis=-1) for ring in rings], axis=-1)
    spread = np.stack([ring[:, NEIGHBOURS].std(axis=-1) for ring in rings], axis=-1)
    background = np.maximum(mean[:, NEIGHBOURS, -1], 1 / 255)
    relative = np.concatenate([*mean.transpose(1, 0, 2)], axis=1) / background[:, None]
    votes = [cubes(of_radius, places, (1, 1, 1)).max(axis=(2, 3)) for of_radius in symmetry]
    brightness = [relative, spread / background[:, None], background[:, None]]
    return np.concatenate([*brightness, *votes, extents(volume, places)], axis=1)
