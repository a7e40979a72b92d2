"""Choosing lesions so that pictures and boxes number exactly what is asked for."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cmbfe.data.quota import pick_exactly


def test_worked_case_has_one_solution():
    # Pictures 1-3 by the first lesion, 3-4 by the second; the third alone would leave a picture too many.
    lesions = [[1, 2, 3], [3, 4], [7, 8, 9, 10]]
    assert pick_exactly(np.random.default_rng(0), lesions, pictures=4, boxes=5) == [True, True, False]


def test_impossible_quota_gives_none():
    assert pick_exactly(np.random.default_rng(0), [[1, 2], [4, 5]], pictures=3, boxes=3) is None


def test_lesions_that_no_picture_shows_are_never_chosen():
    assert pick_exactly(np.random.default_rng(0), [[], [1]], pictures=1, boxes=1) == [False, True]


run = st.tuples(st.integers(0, 30), st.integers(1, 6)).map(lambda pair: list(range(pair[0], pair[0] + pair[1])))


@settings(max_examples=60, deadline=None)
@given(st.lists(run, min_size=1, max_size=8), st.data())
def test_what_is_chosen_fills_the_quota(lesions, data):
    hidden = data.draw(st.lists(st.sampled_from(range(len(lesions))), min_size=1, unique=True))
    pictures = len({picture for number in hidden for picture in lesions[number]})
    boxes = sum(len(lesions[number]) for number in hidden)
    chosen = pick_exactly(np.random.default_rng(0), lesions, pictures, boxes)
    if chosen is not None:
        taken = [lesion for lesion, use in zip(lesions, chosen, strict=True) if use]
        assert sum(map(len, taken)) == boxes
        assert len({picture for lesion in taken for picture in lesion}) == pictures
