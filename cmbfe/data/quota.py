"""Choosing findings so that a patient has an exact number of boxes on an exact number of pictures."""

from collections.abc import Sequence

import numpy as np


def pick_exactly(
    rng: np.random.Generator, lesions: Sequence[Sequence[int]], pictures: int, boxes: int, tries: int = 200
) -> list[bool] | None:
    """Choose lesions whose boxes number exactly `boxes`, on exactly `pictures` different pictures.

    Fills up in random order, many times: each lesion is taken when what is then left can still be filled.

    Args:
        lesions: for each lesion the pictures that show it; one that no picture shows is never chosen.

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
            # Every picture still missing needs a box of its own.
            if (
                lesion
                and pictures - len(union) <= left - len(lesion)
                and len(union) <= pictures
                and len(lesion) <= left
            ):
                taken[number], shown, left = True, union, left - len(lesion)
        if left == 0 and len(shown) == pictures:
            return taken
    return None
