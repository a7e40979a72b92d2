"""Reliability of scores, operating points of the validation patients, counts per patient: by hand and as published."""

import numpy as np
import pandas as pd
import pytest
from metric_examples import FAR, T, detection, labels_of, one_image_each

from cmbfe.errors import InputError
from cmbfe.metrics.agreement import (
    bland_altman,
    class_agreement,
    clinical_class,
    counts_per_patient,
    fleiss_kappa,
    icc,
)
from cmbfe.metrics.calibration import expected_calibration_error, operating_points, reliability
from cmbfe.metrics.curves import Matches, match


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


def cohort(hits: list[float], false: list[float]) -> Matches:
    """Ten patients with a microbleed on an image each; detections of the first so many, and false ones, by score."""
    true = [detection(image, score, T) for image, score in enumerate(hits, 1)]
    return match(
        one_image_each(10, T), [*true, *(detection(image, score, FAR) for image, score in enumerate(false, 1))]
    )


def test_the_threshold_is_that_of_the_validation_patients_and_the_values_those_of_the_test_patients():
    def row_of(validation: Matches, test: Matches) -> pd.Series:
        return operating_points({"ssd300": validation}, {"ssd300": test}, 0.9, 100, seed=0).loc["ssd300"]

    validation = cohort([0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.1], [])
    row = row_of(validation, cohort([0.9] * 6 + [0.3] * 4, [0.6, 0.56, 0.5]))
    assert row["threshold"] == 0.55  # nine of ten
    assert row["sensitivity"] == 0.6
    assert row["precision"] == pytest.approx(6 / 8)
    assert row["false_positives_per_cmb"] == row["false_positives_per_picture"] == pytest.approx(0.2)
    assert row["sensitivity_low"] < 0.6 < row["sensitivity_high"]
    # Ten bins; in the one from 0.9 all six hit, in that from 0.3 all four, in that from 0.5 none of two, 0.6 none.
    expected = (6 * 0.1 + 4 * 0.7 + 2 * 0.53 + 1 * 0.6) / 13
    assert row["calibration_error"] == pytest.approx(expected)
    never = row_of(cohort([0.9] * 5, []), cohort([0.9] * 10, []))  # validation never shows that sensitivity
    assert np.isnan(never[["threshold", "sensitivity", "precision_low"]].astype(float)).all()
    assert never["calibration_error"] == pytest.approx(0.1)


def test_fleiss_kappa_of_worked_cases():
    # 3 of 3, 2 of 3, 0 of 3, 1 of 3: pairs agree in 1, 1/3, 1, 1/3; half of the answers are yes.
    yes = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 1, 0]], bool)
    assert fleiss_kappa(yes) == pytest.approx((2 / 3 - 1 / 2) / (1 - 1 / 2))
    assert fleiss_kappa(np.array([[True] * 4, [False] * 4])) == 1
    assert fleiss_kappa(np.array([[True, False]] * 5)) == -1
    assert np.isnan([fleiss_kappa(yes[:, :1]), fleiss_kappa(yes[:1]), fleiss_kappa(yes[:0])]).all()


def test_icc_equals_the_example_of_shrout_and_fleiss_and_counts_a_constant_offset_as_disagreement():
    # Psychological Bulletin 86 (1979), Table 2: six targets, four judges; ICC(2,1) is .29 in their Table 4.
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    value, low, high = icc(np.array(ratings))
    assert value == pytest.approx(0.29, abs=0.005)
    assert (low, high) == pytest.approx((0.019, 0.761), abs=0.0005)
    assert icc(np.array([[1, 1], [2, 2], [5, 5]])) == (1, 1, 1)
    # Mean squares: subjects 2 * 55/6, raters 10 * 4.5/1, error 0.
    value, low, high = icc(np.arange(10)[:, None] + [0, 3])
    assert value == pytest.approx((55 / 3) / (55 / 3 + 2 * 45 / 10))
    assert low < value < high


@pytest.mark.parametrize(("ratings", "expected"), [
    ([[2, 4]] * 3, 0),  # raters who differ by as much on each subject
    ([[0, 1], [1, 0], [1, 0]], -2),  # mean squares: raters 1/6, error 2/3, value -2/3 / (2/3 - 1/3)
    ([[0, 1]] * 2 + [[1, 0]] * 2, -2),  # raters 0, error 4/3, value -4/3 / (4/3 - 2/3)
    ([[0, 1], [1, 0]], np.nan),  # the formula divides by 0
    (np.zeros((0, 2)), np.nan),
    ([[1, 2]], np.nan),
    (np.full((4, 2), 3), np.nan),
])  # fmt: skip
def test_subjects_of_equal_means_have_no_interval_and_those_without_variance_no_value(ratings, expected, recwarn):
    value, low, high = icc(np.array(ratings))
    assert value == pytest.approx(expected, nan_ok=True)
    assert np.isnan([low, high]).all()
    assert not recwarn.list


def test_bland_altman_limits_by_hand_and_one_patient_has_none(recwarn):
    # Differences 0, 2, 1, 1: mean 1, standard deviation sqrt(2/3), t(0.975, 3) = 3.1824.
    result = bland_altman(np.array([1, 2, 3, 4]), np.array([1, 4, 4, 5]))
    deviation = np.sqrt(2 / 3)
    reach = 3.182446 * deviation / 2
    assert (result.bias_low, result.bias, result.bias_high) == pytest.approx((1 - reach, 1, 1 + reach))
    assert (result.lower_limit, result.upper_limit) == pytest.approx((1 - 1.96 * deviation, 1 + 1.96 * deviation))
    assert result.limit_margin == pytest.approx(3.182446 * np.sqrt(3 * (2 / 3) / 4))
    alone = bland_altman(np.array([1]), np.array([3]))
    assert alone.bias == 2
    assert np.isnan([alone.upper_limit, bland_altman(np.array([]), np.array([])).bias]).all()
    assert not recwarn.list


def test_counts_hold_every_patient_and_the_confusion_table_counts_each_once(recwarn):
    assert list(clinical_class(np.array([0, 1, 2, 4, 5, 100]))) == ["0", "1", "2-4", "2-4", "5+", "5+"]
    labels = labels_of({1: [T, [40, 40, 9, 9]], 2: [], 3: [T]})
    detections = [detection(1, 0.9, T), detection(2, 0.8, T), detection(3, 0.2, T)]
    counts = counts_per_patient(match(labels, detections), 0.5)
    assert counts.index.tolist() == [1, 2, 3]
    assert counts[["truth", "detected"]].to_numpy().tolist() == [[2, 1], [0, 1], [1, 0]]
    table, values = class_agreement(counts)
    assert table.shape == (4, 4)
    assert table.loc["2-4", "1"] == table.loc["0", "1"] == table.loc["1", "0"] == 1
    assert table.to_numpy().sum() == 3
    assert values["accuracy"] == 0
    # Linear weights: observed 1 + 1 + 1 apart; expected from the margins (1,1,1) and (1,2,0): (0+1+2 +
    # 2(1+0+1)) / 3.
    assert values["kappa"] == pytest.approx(1 - 3 / ((0 + 1 + 2) / 3 + 2 * (1 + 0 + 1) / 3))
    alike = class_agreement(counts_per_patient(match(labels_of({1: [T], 2: [T]}), detections[:2]), 0.5))[1]
    assert (alike["accuracy"], np.isnan(alike["kappa"])) == (1, True)
    assert not recwarn.list


def test_a_class_without_patients_counts_as_a_step_in_kappa():
    counts = pd.DataFrame({"truth": [2, 2, 5, 0, 0], "detected": [2, 2, 0, 0, 2]})
    for column in ("truth", "detected"):
        counts[f"{column}_class"] = clinical_class(counts[column].to_numpy())
    # Steps between the classes, observed: 0, 0, 3, 0, 2, mean 1; expected, over all 25 pairs: (4 + 4 + 9 + 6 + 6) / 25.
    assert class_agreement(counts)[1]["kappa"] == pytest.approx(1 - 1 / (29 / 25))
