"""Exact numbers: shares that add up, and lesions chosen so that images and boxes number what is asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmbfe.errors import InputError
from cmbfe.phantom.plan import Quota, band_of, draw_quotas, pick_exactly

TABLE_1 = [(33, 467, 845), (17, 167, 323), (8, 89, 133)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), split=st.sampled_from(TABLE_1))
def test_quotas_of_the_papers_splits_add_up_and_can_be_filled(seed, split):
    patients, images, boxes = split
    quotas = draw_quotas(np.random.default_rng(seed), patients, images, boxes, slices=114)
    assert len(quotas) == patients
    assert (sum(q.images for q in quotas), sum(q.boxes for q in quotas)) == (images, boxes)
    for quota in quotas:
        assert 4 <= quota.images <= min(quota.boxes, 114)
        # A microbleed shows on 4 slices or more, so that fewer than 8 boxes are one microbleed's.
        assert quota.images == quota.boxes or quota.boxes >= 8


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), patients=st.integers(1, 6), slices=st.integers(3, 30), data=st.data())
def test_quotas_of_any_cohort_add_up_or_are_refused(seed, patients, slices, data):
    images = data.draw(st.integers(patients, patients * slices))
    boxes = data.draw(st.integers(images, 4 * images))
    try:
        quotas = draw_quotas(np.random.default_rng(seed), patients, images, boxes, slices)
    except InputError:
        return
    assert (sum(q.images for q in quotas), sum(q.boxes for q in quotas)) == (images, boxes)
    assert all(1 <= q.images <= min(q.boxes, slices) for q in quotas)


def test_numbers_of_microbleeds_are_right_skewed_and_differ_by_seed():
    drawn = [[q.boxes for q in draw_quotas(np.random.default_rng(seed), *TABLE_1[0], 114)] for seed in range(20)]
    assert all(np.mean(boxes) > np.median(boxes) for boxes in drawn)
    assert all(max(boxes) > 2 * np.mean(boxes) for boxes in drawn)
    assert len(set(map(tuple, drawn))) == 20


@pytest.mark.parametrize(("images", "boxes"), [(2, 9), (9, 8), (31, 40), (0, 0)])
def test_numbers_that_no_cohort_has_are_refused(images, boxes):
    with pytest.raises(InputError, match="3 patients"):
        draw_quotas(np.random.default_rng(0), 3, images, boxes, slices=10)


def test_a_band_is_the_thinner_the_more_boxes_share_a_image():
    assert band_of(Quota(images=10, boxes=10), 114) == pytest.approx(114, abs=1e-3)  # anywhere
    bands = [band_of(Quota(images=10, boxes=boxes), 114) for boxes in (12, 16, 30)]
    assert bands == sorted(bands, reverse=True)
    assert 10 <= bands[-1] < 12


@pytest.mark.parametrize(
    ("lesions", "images", "boxes", "taken"),
    [
        # Images 1-3 by the first lesion, 3-4 by the second; the third alone would leave an image too many.
        ([[1, 2, 3], [3, 4], [7, 8, 9, 10]], 4, 5, [True, True, False]),
        ([[1, 2], [4, 5]], 3, 3, None),
        ([[], [1]], 1, 1, [False, True]),
    ],
)
def test_worked_cases_have_one_solution_or_none(lesions, images, boxes, taken):
    assert pick_exactly(np.random.default_rng(0), lesions, images=images, boxes=boxes) == taken


run = st.tuples(st.integers(0, 30), st.integers(1, 6)).map(lambda pair: list(range(pair[0], pair[0] + pair[1])))


@settings(max_examples=60, deadline=None)
@given(st.lists(run, min_size=1, max_size=8), st.data())
def test_what_is_chosen_fills_the_quota(lesions, data):
    hidden = data.draw(st.lists(st.sampled_from(range(len(lesions))), min_size=1, unique=True))
    images = len({image for number in hidden for image in lesions[number]})
    boxes = sum(len(lesions[number]) for number in hidden)
    chosen = pick_exactly(np.random.default_rng(0), lesions, images, boxes)
    if chosen is not None:
        taken = [lesion for lesion, use in zip(lesions, chosen, strict=True) if use]
        assert sum(map(len, taken)) == boxes
        assert len({image for lesion in taken for image in lesion}) == images
