"""The cases of cases.md, worked out there by hand."""

from functools import partial

import pytest
from metric_examples import T, detection, labels_of

from cmbfe.metrics.curves import average_precision, froc, match, precision_sensitivity, summary
from cmbfe.metrics.lesions import match_lesions
from cmbfe.metrics.matching import FALSE_POSITIVE, HIT, IGNORED

exactly = partial(pytest.approx, rel=1e-12, abs=1e-12, nan_ok=True)
NAN = float("nan")
FAR = [70, 70, 10, 10]


def check(matches, **expected):
    """Compare the named values of the summary."""
    values = summary(matches)
    assert {name: values[name] for name in expected} == exactly(expected)


def curve(matches):
    table = precision_sensitivity(matches)
    return list(zip(table["sensitivity"], table["precision"], strict=True))


def froc_points(matches, per="image"):
    table = froc(matches, per).iloc[1:]
    return list(zip(table["false_positives"], table["sensitivity"], strict=True))


def test_case_1_one_microbleed_found():
    matches = match(labels_of({1: [T]}), [detection(1, 0.9, T)])
    assert curve(matches) == [(1, 1)]
    check(matches, ap=1, ap_11_point=1, ap_101_point=1, precision_at_90_sensitivity=1)
    check(matches, false_positives_per_cmb=0, froc_auc=1, cpm=1, hits=1, false_positives=0)


def test_case_2_a_false_positive_more_certain_than_the_hit():
    matches = match(labels_of({1: [T]}), [detection(1, 0.9, FAR), detection(1, 0.8, T)])
    assert curve(matches) == [(0, 0), (1, 1 / 2)]
    assert froc_points(matches) == [(1, 0), (1, 1)]
    check(matches, ap=1 / 2, ap_11_point=1 / 2, ap_101_point=1 / 2, precision_at_90_sensitivity=1 / 2)
    check(matches, false_positives_per_cmb=1, froc_auc=7 / 8, cpm=4 / 7)


def test_case_3_hit_miss_hit():
    other = [40, 10, 10, 10]
    detections = [detection(1, 0.9, T), detection(1, 0.8, FAR), detection(1, 0.7, other)]
    matches = match(labels_of({1: [T, other]}), detections)
    assert curve(matches) == [(1 / 2, 1), (1 / 2, 1 / 2), (1, 2 / 3)]
    check(matches, ap=5 / 6, ap_11_point=28 / 33, ap_101_point=253 / 303)
    check(matches, precision_at_90_sensitivity=2 / 3, threshold_at_90_sensitivity=0.7)
    check(matches, false_positives_per_cmb=1 / 2, froc_auc=15 / 16, cpm=11 / 14)


def test_case_4_two_detections_of_one_microbleed():
    detections = [detection(1, 0.9, [10, 10, 10, 6]), detection(1, 0.8, T)]
    matches = match(labels_of({1: [T]}), detections)
    assert matches.outcome.tolist() == [HIT, FALSE_POSITIVE]
    assert froc_points(matches) == [(0, 1), (1, 1)]
    check(matches, ap=1, hits=1, false_positives=1)
    ignoring = match(labels_of({1: [T]}), detections, duplicates="ignore")
    assert ignoring.outcome.tolist() == [HIT, IGNORED]
    check(ignoring, ap=1, hits=1, false_positives=0, ignored=1)


def test_case_5_on_both_sides_of_iou_one_half():
    boxes = ([13, 10, 10, 10], [14, 10, 10, 10], [10, 10, 10, 5])
    detections = [detection(image, 1 - image / 10, box) for image, box in enumerate(boxes, 1)]
    matches = match(labels_of({1: [T], 2: [T], 3: [T]}), detections)
    assert matches.outcome.tolist() == [HIT, FALSE_POSITIVE, HIT]
    check(matches, ap=5 / 9, ap_11_point=6 / 11, sensitivity=2 / 3)
    check(matches, precision_at_90_sensitivity=NAN, false_positives_per_cmb=NAN)


def test_case_6_of_two_overlapping_microbleeds_the_second_choice_counts():
    detections = [detection(1, 0.9, [11, 10, 10, 10]), detection(1, 0.8, T)]
    matches = match(labels_of({1: [T, [13, 10, 10, 10]]}), detections)
    assert matches.truth.tolist() == [0, 1]
    check(matches, ap=1, hits=2)


@pytest.mark.parametrize(("empty", "with_cmb", "ap"), [(1, 2, 1 / 2), (2, 1, 1)])
def test_case_7_equal_scores(empty, with_cmb, ap):
    detections = [detection(2, 0.5, T), detection(1, 0.5, T)]
    matches = match(labels_of({empty: [], with_cmb: [T]}), detections)
    assert froc_points(matches) == [(1 / 2, 1)]
    check(matches, ap=ap, precision_at_90_sensitivity=1 / 2, froc_auc=31 / 32, cpm=23 / 28)


def test_case_8_images_with_mimics_only():
    detections = [detection(1, 0.9, T), detection(2, 0.95, T), detection(2, 0.5, FAR)]
    matches = match(labels_of({1: [T], 2: []}, patient_id="P1"), detections)
    assert froc_points(matches) == [(1 / 2, 0), (1 / 2, 1), (1, 1)]
    assert froc_points(matches, per="patient") == [(1, 0), (1, 1), (2, 1)]
    check(matches, ap=1 / 2, froc_auc=15 / 16, cpm=5 / 7, cpm_per_patient=4 / 7, patients=1, pictures=2)


@pytest.mark.parametrize(
    ("truths", "detections", "value"),
    [([], [detection(1, 0.9, T)], NAN), ([T], [], 0), ([], [], NAN)],
)
def test_case_9_nothing_to_find_or_nothing_found(truths, detections, value, recwarn):
    matches = match(labels_of({1: truths}), detections)
    check(matches, ap=value, ap_11_point=value, ap_101_point=value, froc_auc=value, cpm=value)
    check(matches, sensitivity=value, precision_at_90_sensitivity=NAN, false_positives_per_cmb=NAN)
    assert not recwarn.list


def test_case_10_an_ignore_region():
    boxes = ([55, 55, 10, 10], T, [76, 55, 10, 10], [60, 60, 10, 10])
    detections = [detection(1, 0.95 - k / 20, box) for k, box in enumerate(boxes)]
    matches = match(labels_of({1: [T]}, regions={1: [[50, 50, 30, 30]]}), detections)
    assert matches.outcome.tolist() == [IGNORED, HIT, FALSE_POSITIVE, IGNORED]
    assert curve(matches) == [(1, 1), (1, 1 / 2)]
    check(matches, ap=1, cmbs=1, hits=1, false_positives=1, ignored=2)


def test_case_11_box_centre_and_distance():
    labels = labels_of({1: [T]}, pixel_spacing_mm=[2, 0.5])
    detections = [detection(1, 0.9, [19, 10, 8, 10]), detection(1, 0.8, [10, 18, 10, 2])]
    assert match(labels, detections).outcome.tolist() == [FALSE_POSITIVE, FALSE_POSITIVE]
    assert match(labels, detections, hit="centre").outcome.tolist() == [FALSE_POSITIVE, HIT]
    for distance_mm in (4, 8):
        matches = match(labels, detections, hit="distance", distance_mm=distance_mm)
        assert matches.outcome.tolist() == [HIT, FALSE_POSITIVE]


def test_case_12_one_microbleed_on_three_slices():
    labels = labels_of({slice_: [T] if slice_ < 4 else [] for slice_ in range(1, 6)}, patient_id="P1")
    for image in labels["images"]:
        image |= {"slice_index": image["id"], "pixel_spacing_mm": [0.5, 0.5]}
    for box in labels["annotations"]:
        box["lesion_id"] = "P1/1"
    detections = [detection(1, 0.6, T), detection(2, 0.9, T), detection(5, 0.7, T)]
    assert average_precision(match(labels, detections)) == exactly(5 / 9)
    lesions = match_lesions(labels, detections)
    assert lesions.score.tolist() == [0.9, 0.7]
    assert lesions.outcome.tolist() == [HIT, FALSE_POSITIVE]
    assert lesions.truth_ids == ["P1/1"]
    check(lesions, ap=1, precision_at_90_sensitivity=1, froc_auc=1, cpm=1)
