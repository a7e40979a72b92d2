"""Exact numbers: how a cohort's images and boxes are shared out, and which findings give a patient its share.

A quota is a pair: images with microbleeds, and boxes on them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cmbfe.errors import InputError

FEWEST_BOXES = 4
"""Boxes of the mildest patient: at full size a microbleed shows on 4 slices or more (of 120: one on 2, two on 3)."""
SKEW = 0.8
"""Standard deviation of the logarithm of the patients' boxes beyond the fewest: most patients have few microbleeds,
some have dozens (S. M. Greenberg et al., Lancet Neurol 8:165, 2009)."""


class Quota(NamedTuple):
    """What one patient must have exactly."""

    images: int
    """With at least one microbleed."""
    boxes: int


def shared_slices(rng: np.random.Generator, patients: int, slices: int) -> list[int]:
    """Share out a cohort's slices evenly; patients drawn at random get the remainder, one slice each."""
    shares = np.full(patients, slices // patients)
    shares[rng.choice(patients, slices % patients, replace=False)] += 1
    return shares.tolist()


def _rounded(values: np.ndarray, total: int, highest: np.ndarray) -> np.ndarray:
    """Round so that the sum is `total`: down, then up where most was cut off and `highest` allows it."""
    whole = np.floor(values).astype(int)
    order = np.argsort(whole - values, kind="stable")
    room = order[whole[order] < highest[order]]
    whole[room[: total - whole.sum()]] += 1
    return whole


def _solve(sum_at: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """The argument at which a rising function reaches `wanted`, by halving."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum_at(middle) < wanted else (low, middle)
    return high


def covered(boxes: np.ndarray | int, band: float) -> np.ndarray | float:
    """Images that `boxes` are expected to fall on, anywhere among `band` slices: band (1 - exp(-boxes / band))."""
    return band * -np.expm1(-np.asarray(boxes) / band)


def band_of(quota: Quota, slices: int) -> float:
    """Slices among which microbleeds must lie so that their boxes fall on as few images as the quota says."""
    return _solve(lambda band: float(covered(quota.boxes, band)), quota.images, 1.0, float(slices))


def draw_quotas(rng: np.random.Generator, patients: int, images: int, boxes: int, slices: int) -> list[Quota]:
    """Share out a split's images with microbleeds and their boxes: right-skewed, and none without.

    Boxes beyond the fewest go by log-normal weights. Images follow from boxes, as if these fell anywhere into a band
    of slices whose thickness goes by the square root of their number: the more boxes, the more of them share an image.
    How thick makes the sum come out. Lone microbleeds share no image.

    Args:
        slices: of the patient who has fewest.

    Raises:
        InputError: numbers that no cohort has.
    """
    fewest = min(FEWEST_BOXES, images // patients)
    if not 1 <= fewest * patients <= images <= boxes or images > patients * slices:
        raise InputError(
            f"{boxes} boxes on {images} images of {patients} patients with {slices} slices each: "
            "give at least an image for each patient, a box for each image, and no more images than slices"
        )
    weights = rng.lognormal(0, SKEW, patients)
    shares = fewest + (boxes - fewest * patients) * weights / weights.sum()
    of_patients = _rounded(shares, boxes, np.full(patients, boxes))
    most = np.minimum(of_patients, slices)
    least = np.minimum(of_patients, 2 * fewest - 1)

    def expected(thickness: float) -> np.ndarray:
        return np.clip(covered(of_patients, thickness * np.sqrt(of_patients)), np.minimum(least, most), most)

    thickness = _solve(lambda thickness: float(expected(thickness).sum()), images, 0.1, 1e6)
    shown = _rounded(expected(thickness), images, most)
    if shown.sum() != images:
        raise InputError(f"{boxes} boxes on {images} images cannot be shared out among {patients} patients")
    return [Quota(int(on), int(count)) for on, count in zip(shown, of_patients, strict=True)]


def pick_exactly(
    rng: np.random.Generator, lesions: Sequence[Sequence[int]], images: int, boxes: int, tries: int = 200
) -> list[bool] | None:
    """Choose lesions whose boxes number exactly `boxes`, on exactly `images` different images.

    Fills up in random order, many times: each lesion is taken when what is then left can still be filled.

    Args:
        lesions: for each lesion the images that show it; one that no image shows is never chosen.

    Returns:
        Whether each lesion is taken, or None where no try succeeds.
    """
    for _ in range(tries):
        taken = [False] * len(lesions)
        shown: set[int] = set()
        left = boxes
        for number in rng.permutation(len(lesions)):
            lesion = lesions[number]
            union = shown.union(lesion)
            # Every image still missing needs a box of its own.
            if lesion and images - len(union) <= left - len(lesion) and len(union) <= images and len(lesion) <= left:
                taken[number], shown, left = True, union, left - len(lesion)
        if left == 0 and len(shown) == images:
            return taken
    return None
