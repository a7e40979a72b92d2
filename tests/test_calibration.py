"""Reliability of scores, and operating points chosen on the validation patients: on tables counted by hand."""

import numpy as np
import pytest
from metric_examples import detection, labels_of, one_image_each

from cmbfe.errors import InputError
from cmbfe.metrics.calibration import expected_calibration_error, operating_points, reliability
from cmbfe.metrics.curves import Matches, at_threshold, match, threshold_at_sensitivity

T = [10, 10, 10, 10]
FAR = [50, 50, 10, 10]


def scored(*pairs: tuple[float, bool]):
    """Matches with one image per (score, hit or not)."""
    labels = labels_of({image: [T] for image in range(len(pairs))})
    return match(labels, [detection(k, score, T if hit else FAR) for k, (score, hit) in enumerate(pairs)])


def test_each_bin_has_its_mean_score_and_share_of_hits_and_the_error_weighs_their_distance():
    matches = scored((0.05, False), (0.62, True), (0.68, False), (0.7, True), (1.0, True))
    table = reliability(matches)
    assert table["detections"].tolist() == [1, 0, 0, 0, 0, 0, 2, 1, 0, 1]
    assert table["mean_score"].dropna().tolist() == pytest.approx([0.05, 0.65, 0.7, 1.0])
    assert table["precision"].dropna().tolist() == [0, 0.5, 1, 1]

    assert expected_calibration_error(matches) == pytest.approx((0.05 + 2 * 0.15 + 0.3 + 0) / 5)


def test_the_extremes_of_calibration():
    assert expected_calibration_error(scored(*[(0.25, k % 4 == 0) for k in range(40)])) == pytest.approx(0)
    assert np.isnan(expected_calibration_error(scored()))
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


def cohort(hits: list[float], false: list[float]) -> Matches:
    """Ten patients with a microbleed on an image each; detections of the first so many, and false ones, by score."""
    true = [detection(image, score, T) for image, score in enumerate(hits, 1)]
    return match(
        one_image_each(10, T), [*true, *(detection(image, score, FAR) for image, score in enumerate(false, 1))]
    )


def test_the_threshold_is_that_of_the_validation_patients_and_the_values_those_of_the_test_patients():
    validation = cohort([0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.1], [])
    test = cohort([0.9] * 6 + [0.3] * 4, [0.6, 0.56, 0.5])
    row = operating_points({"ssd300": validation}, {"ssd300": test}, 0.9, 100, seed=0).loc["ssd300"]
    assert row["threshold"] == 0.55  # nine of ten
    assert row["sensitivity"] == 0.6
    assert row["precision"] == pytest.approx(6 / 8)
    assert row["false_positives_per_cmb"] == row["false_positives_per_picture"] == pytest.approx(0.2)
    assert row["sensitivity_low"] < 0.6 < row["sensitivity_high"]
    # Ten bins; in the one from 0.9 all six hit, in that from 0.3 all four, in that from 0.5 none of two, 0.6 none.
    expected = (6 * 0.1 + 4 * 0.7 + 2 * 0.53 + 1 * 0.6) / 13
    assert row["calibration_error"] == pytest.approx(expected)


def test_a_sensitivity_that_the_validation_patients_never_show_leaves_no_operating_point():
    never, test = cohort([0.9] * 5, []), cohort([0.9] * 10, [])
    row = operating_points({"ssd300": never}, {"ssd300": test}, 0.9, 100, seed=0).loc["ssd300"]
    assert np.isnan(row[["threshold", "sensitivity", "precision_low"]].astype(float)).all()
    assert row["calibration_error"] == pytest.approx(0.1)
