"""Reliability of scores, on tables counted by hand."""

import numpy as np
import pytest
from metric_examples import detection, labels_of

from cmbfe.errors import InputError
from cmbfe.metrics.calibration import expected_calibration_error, reliability
from cmbfe.metrics.curves import at_threshold, match, threshold_at_sensitivity

T = [10, 10, 10, 10]
FAR = [50, 50, 10, 10]


def scored(*pairs: tuple[float, bool]):
    """Matches with one image per (score, hit or not)."""
    labels = labels_of({image: [T] for image in range(len(pairs))})
    return match(labels, [detection(k, score, T if hit else FAR) for k, (score, hit) in enumerate(pairs)])


def test_each_bin_has_its_mean_score_and_its_share_of_hits():
    table = reliability(scored((0.05, False), (0.62, True), (0.68, False), (0.7, True), (1.0, True)))
    assert table["detections"].tolist() == [1, 0, 0, 0, 0, 0, 2, 1, 0, 1]
    assert table["mean_score"].dropna().tolist() == pytest.approx([0.05, 0.65, 0.7, 1.0])
    assert table["precision"].dropna().tolist() == [0, 0.5, 1, 1]


def test_the_calibration_error_is_the_weighted_distance():
    matches = scored((0.05, False), (0.62, True), (0.68, False), (0.7, True), (1.0, True))
    assert expected_calibration_error(matches) == pytest.approx((0.05 + 2 * 0.15 + 0.3 + 0) / 5)


def test_perfect_scores_have_no_calibration_error():
    matches = scored(*[(0.25, k % 4 == 0) for k in range(40)], *[(1.0, True)] * 5)
    assert expected_calibration_error(matches) == pytest.approx(0)


def test_without_detections_the_error_is_not_a_number():
    assert np.isnan(expected_calibration_error(scored()))


def test_scores_that_are_no_probabilities_are_an_error():
    with pytest.raises(InputError, match=r"scores reach from -1.5 to 3"):
        reliability(scored((3, True), (-1.5, False)))


def test_a_threshold_chosen_on_validation_is_applied_to_test_as_it_is():
    validation = scored((0.9, True), (0.8, False), (0.6, True))
    threshold = threshold_at_sensitivity(validation, 0.6)
    assert threshold == 0.6
    values = at_threshold(scored((0.95, True), (0.7, False), (0.59, True), (0.6, False)), threshold)
    assert values == {
        "sensitivity": 1 / 4,
        "precision": 1 / 3,
        "false_positives_per_cmb": 2 / 4,
        "false_positives_per_picture": 2 / 4,
    }
