"""The threshold comes from the validation patients alone, and is judged on the others."""

import numpy as np
import pytest
from metric_examples import detection, labels_of

from cmbfe.metrics.matching import Matches, match
from cmbfe.metrics.operating_point import operating_points
from cmbfe.params import Evaluation

SETTINGS = Evaluation(iou=0.5, sensitivity=0.9, froc_x_max=8.0, bootstrap_samples=100)
T, FAR = [10, 10, 10, 10], [60, 60, 10, 10]


def cohort(hits: list[float], false: list[float]) -> Matches:
    """Ten patients with a microbleed on an image each; detections of the first so many, and false ones, by score."""
    labels = labels_of({image: [T] for image in range(1, 11)})
    for image in labels["images"]:
        image["patient_id"] = f"P{image['id']}"
    found = [detection(image, score, T) for image, score in enumerate(hits, 1)]
    return match(labels, [*found, *(detection(image, score, FAR) for image, score in enumerate(false, 1))])


def test_the_threshold_is_that_of_the_validation_patients_and_the_values_those_of_the_test_patients():
    validation = cohort([0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.1], [])
    test = cohort([0.9] * 6 + [0.3] * 4, [0.6, 0.56, 0.5])
    row = operating_points({"ssd300": validation}, {"ssd300": test}, SETTINGS, seed=0).loc["ssd300"]
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
    row = operating_points({"ssd300": never}, {"ssd300": test}, SETTINGS, seed=0).loc["ssd300"]
    assert np.isnan(row[["threshold", "sensitivity", "precision_low"]].astype(float)).all()
    assert row["calibration_error"] == pytest.approx(0.1)
