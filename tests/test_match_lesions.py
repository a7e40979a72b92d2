"""Linking of boxes on slices to microbleeds, and what a detector does by lesion, size, location and mimic."""

import numpy as np
import pytest
from metric_examples import detection

from cmbfe.errors import InputError
from cmbfe.metrics.curves import summary
from cmbfe.metrics.lesions import lesions_apart, link, match_lesions
from cmbfe.metrics.matching import FALSE_POSITIVE, HIT, IGNORED, overlaps
from cmbfe.metrics.subgroups import false_positives_by_mimic, lesion_table, sensitivity_by, sensitivity_by_size

T = [10, 10, 8, 8]


def series(slices: int, patient: str = "P1", first_id: int = 1, pixel_mm: tuple = (0.5, 0.5)) -> list[dict]:
    of_series = {"width": 100, "height": 100, "patient_id": patient, "series_uid": f"1.{patient}"}
    of_series["pixel_spacing_mm"] = list(pixel_mm)
    return [
        {"id": first_id + k, "file_name": f"{patient}/{k}.png", "slice_index": k, **of_series} for k in range(slices)
    ]


def labels_of(images: list[dict], boxes: list[tuple]) -> dict:
    """COCO labels with (image id, lesion id, box[, more keys]) annotations."""
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, "lesion_id": lesion, "bbox": box} | dict(*more)
        for number, (image, lesion, box, *more) in enumerate(boxes, 1)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cmb"}]}


def groups(labels: dict, detections: list[dict], link_mm: float = 3) -> list[set[int]]:
    """Indices of the detections in each 3-D detection, the best first."""
    near = overlaps(labels, detections)
    best, member_of = link(near, detections, link_mm)
    return [set(near.order[member_of == number].tolist()) for number in range(len(best))]


def moved(x: float, y: float) -> list[float]:
    return [10 + x, 10 + y, 8, 8]


def test_boxes_at_one_place_are_one_detection_until_a_slice_has_none():
    labels = labels_of(series(5), [])
    assert groups(labels, [detection(image, image / 10, T) for image in (1, 2, 3)]) == [{0, 1, 2}]
    assert groups(labels, [detection(image, 1 - image / 10, T) for image in (1, 2, 4)]) == [{0, 1}, {2}]
    assert groups(labels, [detection(1, 0.5, T), detection(1, 0.9, moved(2, 2))]) == [{0, 1}]


def test_the_distance_is_in_mm_along_rows_and_columns():
    labels = labels_of(series(2, pixel_mm=(2, 0.5)), [])
    for step, is_linked in (((6, 0), True), ((6.5, 0), False), ((0, 1.5), True), ((0, 2), False)):
        linked = groups(labels, [detection(1, 0.9, T), detection(2, 0.8, moved(*step))])
        assert linked == ([{0, 1}] if is_linked else [{0}, {1}])


def test_distance_is_measured_from_the_best_box_so_that_an_oblique_vessel_is_not_one_dot():
    labels = labels_of(series(5), [])
    vessel = [detection(1 + k, 0.9 - k / 10, moved(5 * k, 0)) for k in range(4)]
    assert groups(labels, vessel) == [{0, 1}, {2, 3}]


def test_patients_and_series_are_never_linked():
    second = series(2, "P2", first_id=11)
    labels = labels_of(series(2) + second, [])
    detections = [detection(1, 0.9, T), detection(12, 0.8, T), detection(2, 0.7, T)]
    assert groups(labels, detections) == [{0, 2}, {1}]
    for image in second:
        image["patient_id"] = "P1"
    assert groups(labels, detections) == [{0, 2}, {1}]


def test_a_microbleed_hit_on_any_of_its_slices_is_found_once():
    labels = labels_of(series(5), [(image, "a", T) for image in (1, 2, 3)])
    # The best box misses on its slice (IoU 0.14), a weaker one of the same 3-D detection hits.
    detections = [detection(1, 0.9, [10, 10, 3, 3]), detection(2, 0.6, T), detection(3, 0.3, T)]
    matches = match_lesions(labels, detections)
    assert matches.score.tolist() == [0.9]
    assert matches.outcome.tolist() == [HIT]
    assert summary(matches)["cmbs"] == 1


def test_two_detections_of_a_microbleed_are_a_hit_and_a_false_positive_or_ignored():
    labels = labels_of(series(5), [(image, "a", T) for image in (1, 2, 3)])
    detections = [detection(1, 0.9, T), detection(3, 0.6, T)]
    assert match_lesions(labels, detections).outcome.tolist() == [HIT, FALSE_POSITIVE]
    assert match_lesions(labels, detections, duplicates="ignore").outcome.tolist() == [HIT, IGNORED]


def test_equal_lesion_ids_of_two_patients_are_two_microbleeds():
    labels = labels_of(series(2) + series(2, "P2", 11), [(1, "a", T), (11, "a", T)])
    matches = match_lesions(labels, [detection(11, 0.5, T)])
    assert matches.truth_ids == ["a", "a"]
    assert matches.truth_patient.tolist() == [0, 1]
    assert matches.truth.tolist() == [1]


@pytest.mark.parametrize("uids", [("1", "2"), (1, "1"), ("1", None)])
def test_equal_lesion_ids_of_two_series_are_two_microbleeds(uids):
    images = series(2) + series(2, first_id=11)
    for image, uid in zip(images, np.repeat(np.array(uids, object), 2), strict=True):
        image.update({"series_uid": uid} if uid else {})
        if not uid:
            del image["series_uid"]
    labels = labels_of(images, [(1, 1, T), (2, 1, T), (11, 1, moved(40, 40)), (12, 1, moved(40, 40))])
    matches = match_lesions(labels, [detection(11, 0.5, moved(40, 40)), detection(1, 0.4, T)])
    assert (matches.truth_ids, matches.truth.tolist()) == ([1, 1], [1, 0])
    table = lesion_table(labels, matches)
    assert table[["lesion_id", "slices", "score"]].to_numpy().tolist() == [[1, 2, 0.4], [1, 2, 0.5]]


def test_two_images_of_one_slice_cannot_be_told_apart():
    second = series(2, first_id=11)
    with pytest.raises(InputError, match="images 2 and 12 have slice_index 1 of one patient and series"):
        match_lesions(labels_of(series(2) + second[1:], []), [])
    for image in second:
        image["series_uid"] = "2"
    assert match_lesions(labels_of(series(2) + second, []), []).truth_ids == []


@pytest.mark.parametrize(("slices", "apart"), [((1, 2, 3), 0), ((1, 3), 1), ((1, 1), 1), ((2, 1), 0)])
def test_microbleeds_whose_boxes_are_not_on_neighbouring_slices_are_counted(slices, apart):
    assert lesions_apart(labels_of(series(4), [(image, "a", T) for image in slices])) == apart


def test_a_detection_that_lies_in_an_ignore_region_on_any_slice_is_ignored():
    labels = labels_of(series(2), [(1, "region", [0, 0, 50, 50], {"iscrowd": 1})])
    matches = match_lesions(labels, [detection(1, 0.5, T), detection(2, 0.9, T)])
    assert matches.outcome.tolist() == [IGNORED]
    assert matches.truth_ids == []


def test_no_detections_and_no_microbleeds_are_no_error(recwarn):
    labels = labels_of(series(2), [])
    assert match_lesions(labels, []).score.tolist() == []
    assert lesion_table(labels, match_lesions(labels, [])).empty
    assert not recwarn.list


def test_labels_without_the_keys_of_the_lesion_level_are_an_error_that_names_them():
    for key in ("patient_id", "slice_index", "pixel_spacing_mm"):
        labels = labels_of(series(2), [(1, "a", T)])
        del labels["images"][1][key]
        with pytest.raises(InputError, match=f"image 2 has no {key}"):
            match_lesions(labels, [])
    labels = labels_of(series(2), [(1, "a", T)])
    del labels["annotations"][0]["lesion_id"]
    with pytest.raises(InputError, match="annotation 1 has no lesion_id"):
        match_lesions(labels, [])
    with pytest.raises(ValueError, match="link_mm is 0"):
        match_lesions(labels_of(series(1), []), [], link_mm=0)


def example_of_three_lesions():
    boxes = [
        (1, "a", [10, 10, 4, 4], {"location": "lobar"}),
        (2, "a", [10, 10, 8, 4], {"location": "lobar"}),
        (3, "b", [50, 50, 4, 5], {"location": "deep"}),
        (4, "c", [66, 68, 20, 13], {"location": "lobar", "tight_bbox": [70, 70, 12, 9]}),
    ]
    return labels_of(series(5), boxes)


def test_the_lesion_table_has_each_microbleed_and_gives_sensitivity_by_size_and_location():
    labels = example_of_three_lesions()
    detections = [detection(2, 0.9, [10, 10, 8, 4]), detection(3, 0.2, [50, 50, 4, 5])]
    rows = lesion_table(labels, match_lesions(labels, detections))
    table = rows.set_index("lesion_id")
    assert table["size_mm"].to_dict() == {"a": 4, "b": 2.5, "c": 6}
    assert table["slices"].to_dict() == {"a": 2, "b": 1, "c": 1}
    assert table["location"].to_dict() == {"a": "lobar", "b": "deep", "c": "lobar"}
    assert table["score"].fillna(-1).to_dict() == {"a": 0.9, "b": 0.2, "c": -1}
    by_location = sensitivity_by(rows, 0.5, rows["location"])
    assert by_location["hits"].to_dict() == {"deep": 0, "lobar": 1}
    assert by_location["cmbs"].to_dict() == {"deep": 1, "lobar": 2}
    by_size = sensitivity_by_size(rows, 0.2)
    assert by_size["sensitivity"].to_dict() == {"0 to 3 mm": 1, "3 to 5 mm": 1, "5 mm and more": 0}


def test_false_positives_are_counted_by_the_kind_of_mimic_that_they_hit():
    labels = example_of_three_lesions()
    kinds = [{"id": 1, "name": "vein"}, {"id": 2, "name": "calcification"}]
    boxes = [(1, [30, 30, 6, 6], 1), (1, [60, 30, 6, 6], 2), (2, [30, 30, 6, 6], 1), (99, T, 2)]
    annotations = [dict(zip(("image_id", "bbox", "category_id"), box, strict=True)) for box in boxes]
    mimics = {"images": [], "annotations": annotations, "categories": kinds}
    boxes = [(1, [10, 10, 4, 4]), (1, [30, 30, 6, 6]), (1, [31, 30, 6, 6]), (2, [80, 80, 6, 6]), (1, [60, 30, 6, 6])]
    detections = [detection(image, 0.9 - k / 10, box) for k, (image, box) in enumerate(boxes)]
    table = false_positives_by_mimic(labels, mimics, detections, [1, 2, 3, 4])
    assert table["mimics"].to_dict() == {"calcification": 1, "vein": 2, "none": 0}
    assert table["false_positives"].to_dict() == {"calcification": 1, "vein": 2, "none": 1}
    assert table["share"].sum() == pytest.approx(1)
    nobody = false_positives_by_mimic(labels, mimics, detections, [])
    assert nobody["false_positives"].sum() == 0
    assert np.isnan(nobody["share"]).all()
