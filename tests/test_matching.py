"""The matching equals a plain loop over detections, refuses bad input in one line, and survives its file."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from metric_examples import T, detection, label_and_detection_sets, labels_of

from cmbfe.errors import InputError
from cmbfe.metrics import matching
from cmbfe.metrics.curves import summary
from cmbfe.metrics.matching import FALSE_POSITIVE, HIT, IGNORED, load_matches, match, save_matches


def looped_outcomes(labels, detections, hit, threshold, duplicates):
    """(outcome, annotation id or None) of each detection: COCO's rule as a loop, scalar arithmetic only."""
    free = {box["id"] for box in labels["annotations"] if not box["iscrowd"]}
    order = sorted(range(len(detections)), key=lambda k: (-detections[k]["score"], detections[k]["image_id"], k))
    results = {}
    for index in order:
        found = detections[index]
        near, duplicate, in_region = [], False, False
        for box in labels["annotations"]:
            if box["image_id"] != found["image_id"]:
                continue
            if box["iscrowd"]:
                in_region |= closeness(found["bbox"], box["bbox"], hit, threshold, region=True) is not None
            elif (value := closeness(found["bbox"], box["bbox"], hit, threshold)) is not None:
                duplicate = True
                if box["id"] in free:
                    near.append((value, box["id"]))
        if near:
            taken = max(near)[1]
            free.remove(taken)
            results[index] = (HIT, taken)
        elif in_region or (duplicate and duplicates == "ignore"):
            results[index] = (IGNORED, None)
        else:
            results[index] = (FALSE_POSITIVE, None)
    return results


def closeness(box, other, hit, threshold, region=False):
    x, y, w, h = box
    left, top, width, height = other
    if hit == "iou":
        common = max(0, min(x + w, left + width) - max(x, left)) * max(0, min(y + h, top + height) - max(y, top))
        overlap = common / (w * h if region else w * h + width * height - common)
        return overlap if overlap >= threshold else None
    dx, dy = x + w / 2 - left - width / 2, y + h / 2 - top - height / 2
    distance = math.hypot(0.5 * dx, 2 * dy) if hit == "distance" and not region else math.hypot(dx, dy)
    if hit == "distance" and not region:
        return -distance if distance <= threshold else None
    return -distance if abs(dx) <= width / 2 and abs(dy) <= height / 2 else None


@pytest.mark.parametrize("duplicates", ["false positive", "ignore"])
@pytest.mark.parametrize(("hit", "threshold"), [("iou", 0.5), ("iou", 0.3), ("centre", None), ("distance", 4)])
@settings(max_examples=40, deadline=None)
@given(sets=label_and_detection_sets(regions=True))
def test_matching_equals_a_loop_over_detections(hit, threshold, duplicates, sets):
    labels, detections = sets
    for image in labels["images"]:
        image["pixel_spacing_mm"] = [2, 0.5]
    extra = {"distance_mm": threshold} if hit == "distance" else {}
    iou = threshold if hit == "iou" else 0.5
    matches = match(labels, detections, iou, hit=hit, duplicates=duplicates, **extra)
    taken = [matches.truth_ids[truth] if truth >= 0 else None for truth in matches.truth]
    found = dict(zip(matches.detection.tolist(), zip(matches.outcome.tolist(), taken, strict=True), strict=True))
    assert found == looped_outcomes(labels, detections, hit, threshold, duplicates)


def test_the_table_is_the_same_in_blocks_of_a_few_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    boxes = rng.integers(1, 30, (200, 4)).tolist()
    labels = labels_of({1: boxes[:50], 2: boxes[50:60], 3: []})
    detections = [detection(1 + k % 3, rng.random(), box) for k, box in enumerate(boxes)]
    whole = match(labels, detections, 0.3)
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", 7)
    parts = match(labels, detections, 0.3)
    assert (whole.outcome == HIT).sum() > 10
    np.testing.assert_array_equal(whole.truth, parts.truth)


def test_each_truth_carries_the_score_of_its_hit_and_labels_and_detections_stay_as_they_are():
    labels, detections = labels_of({1: [T, [50, 50, 9, 9]]}), [detection(1, 0.3, T), detection(1, 0.8, T)]
    before = copy.deepcopy((labels, detections))
    assert match(labels, detections).truth_score.tolist() == [0.8, -np.inf]
    assert (labels, detections) == before


def test_images_of_a_patient_are_counted_together_and_those_without_microbleeds_too():
    labels = labels_of({1: [T], 2: [], 3: [T]})
    for image, patient in zip(labels["images"], ("P2", "P1", "P2"), strict=True):
        image["patient_id"] = patient
    matches = match(labels, [detection(2, 0.5, T)])
    assert matches.patients == ["P1", "P2"]
    assert matches.images_per_patient.tolist() == [1, 2]
    assert matches.truth_patient.tolist() == [1, 1]
    assert matches.patient.tolist() == [0]


@pytest.mark.parametrize("spellings", [(1, "1"), ("1", 1), ("A", "A "), ("\tA", "A")])
def test_a_patient_id_in_two_spellings_is_refused(spellings):
    labels = labels_of({1: [T], 2: []})
    for image, patient in zip(labels["images"], spellings, strict=True):
        image["patient_id"] = patient
    with pytest.raises(InputError, match=r"^image 2: patient_id .* is elsewhere"):
        match(labels, [])


def test_patient_ids_are_those_of_all_images_or_of_none():
    labels = labels_of({1: [T], 2: [T]})
    labels["images"][0]["patient_id"] = 2
    with pytest.raises(InputError, match="image 2 has no patient_id"):
        match(labels, [])
    for image in labels["images"]:
        image["patient_id"] = None
    assert match(labels, []).patients == [1, 2]


def test_without_patient_ids_each_image_is_its_own_patient_and_ids_may_be_text():
    matches = match(labels_of({5: [T], 3: [], "a": [T]}), [detection("a", 0.5, T)])
    assert matches.patients == [3, 5, "a"]
    assert matches.images_per_patient.tolist() == [1, 1, 1]
    assert matches.outcome.tolist() == [HIT]


def test_a_detection_without_extent_hits_nothing(recwarn):
    matches = match(labels_of({1: [T]}, regions={1: [T]}), [detection(1, 0.5, [12, 12, 0, 5])])
    assert matches.outcome.tolist() == [FALSE_POSITIVE]
    assert not recwarn.list


def test_bad_labels_and_detections_are_an_error_in_one_line():
    labels, fine = labels_of({1: [T]}), detection(1, 0.5, T)
    for arguments, options, reason in (
        *(
            ((labels, [fine, fine | {key: value}, fine]), {}, f"a box on image 1: its {key} .* is not {count} finite")
            for key, value, count in (
                ("score", np.nan, 1),
                ("score", None, 1),
                ("score", "high", 1),
                ("score", 10**400, 1),
                ("bbox", [1, 2, 3], 4),
                ("bbox", [1, 2, 3, np.inf], 4),
                ("bbox", None, 4),
            )
        ),
        *(
            ((labels, [fine, {k: v for k, v in fine.items() if k != key}]), {}, rf"a box on image .* has no {key}")
            for key in fine
        ),
        (({**labels, "images": labels["images"] * 2}, []), {}, "image id 1 is used more than once"),
        ((labels, [detection(9, 0.5, T)]), {}, "image 9, which the labels do not have"),
        ((labels, [detection(1, 0.5, T) | {"category_id": 2}]), {}, r"more than one category \(1, 2\)"),
        ((labels, []), {"hit": "distance", "distance_mm": 5}, "image 1 has no pixel_spacing_mm"),
    ):
        with pytest.raises(InputError, match=reason):
            match(*arguments, **options)


@pytest.mark.parametrize(("arguments", "text"), [
    ({"iou": 0}, "iou is 0"),
    ({"iou": 1.1}, "iou is 1.1"),
    ({"hit": "giou"}, "hit is 'giou'"),
    ({"duplicates": "drop"}, "duplicates is 'drop'"),
    ({"hit": "distance"}, "distance_mm is None"),
    ({"distance_mm": 5}, "distance_mm is 5"),
])  # fmt: skip
def test_impossible_parameters_are_an_error_that_names_them(arguments, text):
    with pytest.raises(ValueError, match=text):
        match(labels_of({1: [T]}, pixel_spacing_mm=[1, 1]), [], **arguments)


@settings(max_examples=20, deadline=None)
@given(label_and_detection_sets(regions=True))
def test_every_metric_is_the_same_after_writing_and_reading(tmp_path_factory, example):
    file = tmp_path_factory.mktemp("matches") / "one.npz"
    matches = match(*example)
    save_matches(matches, file)
    read = load_matches(file)
    np.testing.assert_equal(summary(read), pytest.approx(summary(matches), nan_ok=True, rel=1e-6))
    assert read.truth_ids == matches.truth_ids
    assert read.patients == [str(patient) for patient in matches.patients]
    np.testing.assert_array_equal(read.outcome, matches.outcome)
    np.testing.assert_array_equal(read.truth_score > -np.inf, matches.truth_score > -np.inf)
    first = file.read_bytes()
    save_matches(matches, file)
    assert file.read_bytes() == first


def test_ids_that_do_not_fit_the_file_are_refused_and_nothing_is_written(tmp_path):
    labels = labels_of({1: [T]})
    labels["annotations"][0]["id"] = 900100002299
    with pytest.raises(InputError, match=r"one\.npz: truth_ids has values that do not fit int32"):
        save_matches(match(labels, []), tmp_path / "one.npz")
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_of_matches_is_refused_by_name(tmp_path):
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "other.npz", score=np.zeros(3))
    for name in ("absent", "empty", "text", "other"):
        with pytest.raises(InputError, match=rf"{name}\.npz: no (such )?file"):
            load_matches(tmp_path / f"{name}.npz")
