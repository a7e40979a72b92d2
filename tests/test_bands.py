"""Bands along curves: intervals of the very metrics that the tables print, point by point."""

from functools import partial

import numpy as np
import pytest
from metric_examples import detection, labels_of

from cmbfe.metrics import bands, intervals
from cmbfe.metrics.curves import Matches, match, precision_at_sensitivity, sensitivity_at_false_positives

BOX, FAR = [10, 10, 10, 10], [60, 60, 10, 10]


def matches(found: int, false: int) -> Matches:
    """Six patients with an image and a microbleed each; hits on the first `found`, a false positive on as many."""
    labels = labels_of({image: [BOX] for image in range(1, 7)})
    for image in labels["images"]:
        image["patient_id"] = f"P{image['id']}"
    hits = [detection(image, 0.9 - image / 100, BOX) for image in range(1, found + 1)]
    return match(labels, [*hits, *(detection(image, 0.5, FAR) for image in range(1, false + 1))])


def test_a_band_is_the_bootstrap_interval_at_each_point():
    one = matches(4, 3)
    band = bands.froc_band(one, [0.0, 0.4, 2.0], 300, seed=5)
    assert list(band.index) == [0.0, 0.4, 2.0]
    for x, row in band.iterrows():
        at_point = intervals.bootstrap(partial(sensitivity_at_false_positives, false_positives=x), one, 300, 5)
        assert row.tolist() == [at_point.low, at_point.high]
    assert (band["low"] < band["high"]).all()


def test_precision_without_false_positives_has_a_band_without_width():
    band = bands.precision_band(matches(6, 0), [0.5, 1.0], 200)
    np.testing.assert_array_equal(band, [[1, 1], [1, 1]])


def test_a_band_ends_where_many_resamples_never_come_so_far():
    one = matches(3, 2)
    band = bands.precision_band(one, [0.1, 0.5, 0.9], 300)
    assert precision_at_sensitivity(one, 0.5) == 1.0
    assert band.loc[[0.5, 0.9]].isna().all(axis=None)  # half of the patients are found: often fewer are drawn


@pytest.mark.parametrize("band", [bands.froc_band, bands.precision_band])
def test_one_patient_has_no_band(band):
    labels = labels_of({1: [BOX]}, patient_id="P1")
    assert band(match(labels, [detection(1, 0.9, BOX)]), [0.5], 50).isna().all(axis=None)
