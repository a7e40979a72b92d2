"""Batches made ahead: the right images in the right order, shares that make up the whole, waiting that is counted."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmbfe.errors import InputError
from cmbfe.training.batches import LabelledImages, MadeAhead, batch_indices, parts_of_iteration


def numbered(images: int) -> LabelledImages:
    """Images of one pixel that holds their number, with one box whose x is the number."""
    boxes = tuple(np.array([[number, 0, number + 1, 1]], np.float32) for number in range(images))
    pixels = np.arange(images, dtype=np.uint8)[:, None, None]
    return LabelledImages(tuple(map(str, range(images))), pixels, boxes)


@given(
    st.integers(1, 30), st.integers(0, 20), st.sampled_from([(4, 1, 1), (4, 2, 1), (4, 1, 2), (6, 3, 2), (2, 2, 2)])
)
def test_the_shares_of_all_processes_are_the_batch_and_images_keep_their_boxes(images, iteration, sizes):
    batch, accumulate, processes = sizes
    data = numbered(images)
    seen = []
    for number in range(processes):
        parts = parts_of_iteration(data, 7, batch, accumulate, (number, processes), iteration)
        assert [len(part.names) for part in parts] == [batch // processes] * accumulate
        for part in parts:
            assert part.names == [str(pixel) for pixel in part.images[:, 0, 0]]
            assert [boxes[0, 0] for boxes in part.boxes] == part.images[:, 0, 0].tolist()
            seen += map(int, part.names)
    assert sorted(seen) == sorted(batch_indices(images, batch * accumulate, iteration, seed=7).tolist())


@given(st.integers(0, 30), st.integers(1, 10))
def test_everything_comes_once_and_in_order(count, ahead):
    assert list(MadeAhead(lambda number: number**2, range(count), ahead)) == [n**2 for n in range(count)]


def test_no_more_is_made_ahead_than_asked_for():
    made: list[int] = []
    batches = iter(MadeAhead(made.append, range(100), ahead=3))
    next(batches)
    batches.close()
    assert max(made) <= 3


def test_an_error_comes_where_its_batch_is_asked_for():
    def make(number: int) -> int:
        if number == 2:
            raise InputError("image 2: cannot be read")
        return number

    batches = iter(MadeAhead(make, range(5), ahead=4))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(InputError, match="image 2"):
        next(batches)


def test_waiting_is_counted_where_making_is_slower_than_using_and_not_where_it_is_faster():
    def make(number: int) -> int:
        time.sleep(0.02)
        return number

    slow = MadeAhead(make, range(5), ahead=1)
    assert list(slow) == list(range(5))
    fast = MadeAhead(make, range(5), ahead=5)
    for _ in fast:
        time.sleep(0.05)
    assert slow.waited > 0.09
    assert fast.waited < slow.waited
