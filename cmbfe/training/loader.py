"""Batches made ahead by threads, so that a training step never waits for its images."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from cmbfe.training.batches import LabelledImages, batch_indices

AHEAD = 8
"""Batches under way at a time: decoding four JPEG of 512 px takes 20 ms, a step on a large GPU about as long."""

T = TypeVar("T")


class Batch(NamedTuple):
    """What one forward pass takes."""

    names: list[str]
    images: np.ndarray
    """uint8 [n, rows, columns], with phase [n, rows, columns, 2]."""
    boxes: list[np.ndarray]
    """float32 [K, 4] xyxy px for each image."""


def parts_of_iteration(
    data: LabelledImages, seed: int, batch: int, accumulate: int, share: tuple[int, int], iteration: int
) -> list[Batch]:
    """The `accumulate` batches of an iteration, of `batch` images each, or this process's share of each.

    share: number of this process and of all processes, which take turns at the images; `batch` is a multiple of it.
    """
    number, processes = share
    drawn = batch_indices(len(data), batch * accumulate, iteration, seed)
    return [_batch(data, indices[number::processes]) for indices in np.split(drawn, accumulate)]


def _batch(data: LabelledImages, indices: np.ndarray) -> Batch:
    return Batch([data.names[i] for i in indices], data.images[indices], [data.boxes[i] for i in indices])


class MadeAhead(Generic[T]):
    """Iterate over `make(number)` for the numbers, in order, made by threads before they are asked for.

    `waited` counts the seconds in which the next one was asked for and not ready.
    """

    def __init__(self, make: Callable[[int], T], numbers: Iterable[int], ahead: int = AHEAD) -> None:
        self.make, self.numbers, self.ahead = make, numbers, ahead
        self.waited = 0.0

    def __iter__(self) -> Iterator[T]:
        numbers = iter(self.numbers)
        pool = ThreadPoolExecutor(self.ahead)
        try:
            under_way = deque(pool.submit(self.make, number) for number in islice(numbers, self.ahead))
            while under_way:
                begin = time.perf_counter()
                made = under_way.popleft().result()
                self.waited += time.perf_counter() - begin
                under_way.extend(pool.submit(self.make, number) for number in islice(numbers, 1))
                yield made
        finally:
            pool.shutdown(cancel_futures=True)
