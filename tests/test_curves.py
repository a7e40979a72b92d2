"""Metrics against independent implementations: pycocotools, MONAI, fractions, plain counts."""

import contextlib
import io
import warnings
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_examples import detection, label_and_detection_sets, labels_of
from monai import metrics as monai
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cmbfe.errors import InputError
from cmbfe.metrics.agreement import counts_per_patient
from cmbfe.metrics.curves import (
    at_threshold,
    average_precision,
    cpm,
    evaluate,
    false_positives_per_cmb,
    froc,
    froc_auc,
    match,
    precision_at_sensitivity,
    precision_sensitivity,
    sensitivity_at_false_positives,
    summary,
    threshold_at_sensitivity,
)
from cmbfe.metrics.matching import FALSE_POSITIVE, HIT

CASES = settings(max_examples=150, deadline=None)


def coco_precision(labels, detections, recall_thresholds=None):
    """Mean precision of pycocotools at IoU 0.5 over its 101 sensitivities (or those given), or NaN."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = labels
        numbered = [
            {**box, "id": number, "area": box["bbox"][2] * box["bbox"][3], "iscrowd": 0}
            for number, box in enumerate(detections, 1)
        ]
        found.dataset = {**labels, "annotations": numbered}
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.maxDets = [1000]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        if recall_thresholds is not None:
            evaluation.params.recThrs = recall_thresholds
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return float("nan") if (precision < 0).all() else float(precision.mean())


@pytest.mark.parametrize(("points", "sensitivities"), [(101, None), (11, np.arange(11) / 10)])
@CASES
@given(sets=label_and_detection_sets(regions=True))
def test_the_average_precision_at_fixed_sensitivities_equals_pycocotools(points, sensitivities, sets):
    expected = coco_precision(*sets, sensitivities)
    assert average_precision(match(*sets), points) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@CASES
@given(sets=label_and_detection_sets())
def test_the_all_point_average_precision_equals_the_area_in_exact_fractions(sets):
    matches = match(*sets)
    truths = len(matches.truth_ids)
    hits, points = 0, []
    for rank, outcome in enumerate(matches.outcome, 1):
        hits += outcome == HIT
        points.append((int(hits), Fraction(int(hits), rank)))
    area = sum(
        (max((precision for found, precision in points if found >= wanted), default=Fraction(0)))
        for wanted in range(1, truths + 1)
    )
    expected = float(Fraction(area) / truths) if truths else float("nan")
    assert average_precision(matches) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@CASES
@given(sets=label_and_detection_sets(regions=True))
def test_froc_and_precision_at_every_threshold_equal_a_plain_count(sets):
    labels, detections = sets
    matches = match(labels, detections)
    truths = sum(not box["iscrowd"] for box in labels["annotations"])
    counted = [
        (float(score), int(outcome))
        for score, outcome in zip(matches.score, matches.outcome, strict=True)
        if outcome in (HIT, FALSE_POSITIVE)
    ]
    curve, froc_curve = precision_sensitivity(matches), froc(matches)
    assert curve["threshold"].tolist() == sorted({score for score, _ in counted}, reverse=True)
    assert froc_curve["threshold"].tolist() == [np.inf, *curve["threshold"]]
    for row, froc_row in zip(curve.itertuples(), froc_curve.iloc[1:].itertuples(), strict=True):
        passing = [outcome for score, outcome in counted if score >= row.threshold]
        hits = passing.count(HIT)
        sensitivity = hits / truths if truths else float("nan")
        assert row.precision == hits / len(passing)
        assert froc_row.false_positives == (len(passing) - hits) / len(labels["images"])
        assert row.sensitivity == pytest.approx(sensitivity, nan_ok=True)
        assert froc_row.sensitivity == pytest.approx(sensitivity, nan_ok=True)
        values = at_threshold(matches, row.threshold)
        assert values["precision"] == row.precision
        assert values["sensitivity"] == pytest.approx(sensitivity, nan_ok=True)
        assert values["false_positives_per_picture"] == froc_row.false_positives


@st.composite
def point_sets(draw):
    """Labels whose boxes do not touch, and detections of odd size, so that their centres are pixel centres."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = draw(st.integers(1, 4))
    cells = [[20 * column, 20 * row, 9, 11] for row in range(3) for column in range(3)]
    truths = {image: [cells[k] for k in rng.permutation(9)[: rng.integers(0, 5)]] for image in range(1, images + 1)}
    detections = [
        detection(image, int(rng.integers(1, 8)) / 8, [*map(int, rng.integers(0, 55, 2)), 3, 5])
        for image in truths
        for _ in range(rng.integers(0, 12))
    ]
    return labels_of(truths), detections


def label_mask(labels, image):
    """The truths of an image as a mask, numbered from 1."""
    mask = np.zeros((100, 100), int)
    boxes = [box["bbox"] for box in labels["annotations"] if box["image_id"] == image["id"]]
    for number, (x, y, width, height) in enumerate(boxes, 1):
        mask[y : y + height, x : x + width] = number
    return mask


def points_of(detections, image):
    """Scores and centre pixels (row, column) of an image's detections."""
    found = [one for one in detections if one["image_id"] == image["id"]]
    centres = [(y + h // 2, x + w // 2) for x, y, w, h in (one["bbox"] for one in found)]
    return np.array([one["score"] for one in found]), np.array(centres, int).reshape(-1, 2)


@CASES
@given(sets=point_sets())
def test_froc_equals_monai(sets):
    labels, detections = sets
    false_scores, truth_scores = [], []
    for image in labels["images"]:
        false, true, _ = monai.compute_fp_tp_probs_nd(*points_of(detections, image), label_mask(labels, image))
        false_scores.append(false)
        truth_scores.append(true)
    false, true = np.concatenate(false_scores), np.concatenate(truth_scores)
    if not len(true):
        return
    x, y = monai.compute_froc_curve_data(false, true, len(true), len(labels["images"]))
    ours = froc(match(labels, detections, hit="centre", duplicates="ignore"))
    ours = set(zip(ours["false_positives"], ours["sensitivity"], strict=True))
    assert set(zip(x.tolist(), y.tolist(), strict=True)) <= ours


METRICS = [
    average_precision,
    partial(average_precision, points=11),
    partial(average_precision, points=101),
    partial(precision_at_sensitivity, sensitivity=0.5),
    partial(false_positives_per_cmb, sensitivity=0.5),
    partial(froc_auc, x_max=1),
    partial(cpm, per="patient"),
    partial(sensitivity_at_false_positives, false_positives=0.3),
    lambda matches, weights=None: at_threshold(matches, 0.5, weights)["precision"],
]


def repeated(labels, detections, times):
    """The labels and detections of a resample written out: each patient as often as `times` says."""
    images, boxes, found = [], [], []
    for image in labels["images"]:
        for copy_ in range(times[image["patient_id"]]):
            # Copies keep the order of the originals, as equal scores are ranked by image id.
            number = image["id"] * 10 + copy_
            images.append({**image, "id": number, "patient_id": (image["patient_id"], copy_)})
            boxes += [{**box, "image_id": number} for box in labels["annotations"] if box["image_id"] == image["id"]]
            found += [{**one, "image_id": number} for one in detections if one["image_id"] == image["id"]]
    return {**labels, "images": images, "annotations": boxes}, found


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=25, deadline=None)
@given(sets=label_and_detection_sets(), seed=st.integers(0, 1000))
def test_a_weighted_metric_equals_the_metric_of_the_resample_written_out(metric, sets, seed):
    labels, detections = sets
    rng = np.random.default_rng(seed)
    for image in labels["images"]:
        image["patient_id"] = image["id"] % 3
    # Distinct scores: copies of a patient do not keep the order of equal scores of different patients.
    detections = [
        {**one, "score": float(score)}
        for one, score in zip(detections, rng.permutation(len(detections)) / 100, strict=True)
    ]
    matches = match(labels, detections)
    times = rng.integers(0, 3, (4, len(matches.patients)))
    values = metric(matches, weights=times)
    for value, row in zip(values, times, strict=True):
        if row.sum() == 0:
            continue
        resample = repeated(labels, detections, dict(zip(matches.patients, row.tolist(), strict=True)))
        assert value == pytest.approx(metric(match(*resample)), abs=1e-12, nan_ok=True)


@CASES
@given(sets=label_and_detection_sets(regions=True))
def test_metrics_stay_within_their_bounds_and_never_warn(sets):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = summary(match(*sets))
    shares = ("ap", "ap_11_point", "ap_101_point", "froc_auc", "cpm", "sensitivity")
    if values["cmbs"]:
        assert all(0 <= values[name] <= 1 for name in shares)
        assert values["hits"] <= values["cmbs"]
        assert values["froc_auc"] <= values["sensitivity"] + 1e-12
    else:
        assert all(np.isnan(values[name]) for name in shares)


NINE_OF_TEN = (
    labels_of({image: [[10, 10, 10, 10]] for image in range(1, 11)}),
    [detection(image, 1 - image / 100, [10, 10, 10, 10]) for image in range(1, 10)],
)


@pytest.mark.parametrize("impossible", [
    *({"sensitivity": value} for value in (0, -1, 1.1, np.nan)),
    *({"x_max": value} for value in (0, -1, np.nan, np.inf)),
])  # fmt: skip
def test_an_impossible_sensitivity_or_end_of_the_froc_is_refused(impossible):
    with pytest.raises(InputError, match=f"^{next(iter(impossible))} is"):
        evaluate(labels_of({1: []}), [], **impossible)


def test_a_sensitivity_of_exactly_nine_tenths_counts_as_reached_and_a_threshold_above_all_scores_finds_nothing():
    matches = match(*NINE_OF_TEN)
    assert precision_at_sensitivity(matches, 0.9) == 1
    assert threshold_at_sensitivity(matches, 0.9) == pytest.approx(0.91)
    assert np.isnan([precision_at_sensitivity(matches, 0.95), threshold_at_sensitivity(matches, 0.95)]).all()
    # Three of ten reach the level 0.3 of the 11-point average.
    assert average_precision(match(NINE_OF_TEN[0], NINE_OF_TEN[1][:3]), 11) == pytest.approx(4 / 11)
    values = at_threshold(matches, 1.5)
    assert values["sensitivity"] == values["false_positives_per_cmb"] == 0
    assert np.isnan(values["precision"])
    for of in (at_threshold, counts_per_patient):
        with pytest.raises(InputError, match="threshold is NaN"):
            of(matches, threshold_at_sensitivity(matches, 0.95))


def test_evaluate_is_the_summary_of_the_matches_and_impossible_parameters_are_an_error_that_names_them():
    assert evaluate(*NINE_OF_TEN) == summary(match(*NINE_OF_TEN))
    labels, shifted = NINE_OF_TEN[0], [detection(1, 0.9, [10, 10, 10, 12])]
    assert [evaluate(labels, shifted, iou=iou)["hits"] for iou in (0.5, 0.9)] == [1, 0]
    matches = match(*NINE_OF_TEN)
    with pytest.raises(ValueError, match="points is 10"):
        average_precision(matches, 10)
    for metric in (froc, cpm):
        with pytest.raises(ValueError, match="per is 'lesion'"):
            metric(matches, "lesion")


def test_the_area_of_the_froc_is_the_mean_of_its_readings():
    rng = np.random.default_rng(3)
    boxes = [10, 10, 10, 10], [40, 40, 8, 8], [70, 70, 9, 9], [1, 1, 5, 5]
    truths = dict.fromkeys(range(1, 8), boxes[:2])
    matches = match(labels_of(truths), [detection(image, rng.random(), box) for image in truths for box in boxes])
    readings = [sensitivity_at_false_positives(matches, x) for x in (np.arange(1000) + 0.5) / 1000 * 1.5]
    assert froc_auc(matches, 1.5) == pytest.approx(np.mean(readings), abs=1e-3)
