"""Labels and detections are checked at the door: each fault is one line that names file, entry and reason."""

import copy
import json

import pytest

from cmbfe.data.labelled.labels import (
    CATEGORIES,
    check_detections,
    check_labels,
    labels_of_split,
    read_detections,
    read_labels,
    write_labels,
)
from cmbfe.errors import InputError


def two_images() -> dict:
    """Two images of two patients in two splits, one box on the first."""
    image = {"width": 100, "height": 80, "pixel_spacing_mm": [0.5, 0.5], "slice_index": 3}
    return {
        "images": [
            {**image, "id": 1, "file_name": "a.png", "patient_id": "P1", "split": "train"},
            {**image, "id": 2, "file_name": "b.png", "patient_id": "P2", "split": "test"},
        ],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [10, 20, 5, 6], "lesion_id": "P1-1"}],
        "categories": copy.deepcopy(CATEGORIES),
    }


def changed(where: tuple, value: object) -> dict:
    """`two_pictures` with the entry at the path `where` set to `value`."""
    labels = two_images()
    place = labels
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    return labels


def test_labels_come_back_from_the_file_as_they_went_in(tmp_path):
    write_labels(tmp_path / "labels.json", two_images())
    assert read_labels(tmp_path / "labels.json") == two_images()


def test_writing_twice_gives_the_same_bytes(tmp_path):
    write_labels(tmp_path / "a.json", two_images())
    write_labels(tmp_path / "b.json", two_images())
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_files_of_other_tools_without_our_keys_are_accepted():
    labels = two_images()
    for image in labels["images"]:
        for key in ("patient_id", "split", "slice_index", "pixel_spacing_mm"):
            del image[key]
    del labels["annotations"][0]["lesion_id"]
    assert check_labels(labels, "labels.json") is labels


def test_a_box_rounded_to_two_decimals_may_touch_the_edge():
    check_labels(changed(("annotations", 0, "bbox"), [95.005, 0, 5.0, 80.0]), "labels.json")


BOX = ("annotations", 0, "bbox")
FAULTS = {
    "zero width": (BOX, [10, 20, 0, 6], "annotation 7: the box [10, 20, 0, 6] has zero width"),
    "zero height": (BOX, [10, 20, 5, 0], "annotation 7: the box [10, 20, 5, 0] has zero height"),
    "negative width": (BOX, [10, 20, -5, 6], "annotation 7: the box [10, 20, -5, 6] has a negative width"),
    "NaN": (BOX, [10, float("nan"), 5, 6], "annotation 7: bbox [10, nan, 5, 6] holds a value that is not"),
    "infinity": (BOX, [10, 20, float("inf"), 6], "annotation 7: bbox [10, 20, inf, 6] holds a value"),
    "integer beyond float": (BOX, [10, 20, 10**400, 6], "annotation 7: bbox"),
    "text in box": (BOX, [10, 20, "5", 6], "annotation 7: bbox [10, 20, '5', 6] holds a value"),
    "three numbers": (BOX, [10, 20, 5], "annotation 7: bbox [10, 20, 5] is not [x, y, width, height]"),
    "box outside": (BOX, [97, 20, 5, 6], "annotation 7: the box [97, 20, 5, 6] lies 2 px outside"),
    "box above": (BOX, [10, -1, 5, 6], "annotation 7: the box [10, -1, 5, 6] lies 1 px outside"),
    "unknown image": (
        ("annotations", 0, "image_id"),
        99,
        "annotation 7: image_id: 99 is the id of no image",
    ),
    "list as id": (
        ("annotations", 0, "image_id"),
        [1],
        "annotation 7: image_id: [1] is the id of no image",
    ),
    "unknown category": (
        ("annotations", 0, "category_id"),
        2,
        "annotation 7: category_id: 2 is the id of no",
    ),
    "duplicate image": (("images", 1, "id"), 1, "images: id 1 is used 2 times"),
    "id missing": (("annotations", 0), {"image_id": 1}, "annotations[0]: the key 'id' is missing"),
    "id not a number": (("images", 0, "id"), 1.5, "images[0]: id 1.5 is neither"),
    "annotation no object": (("annotations", 0), 3, "annotations[0]: not an object but 3"),
    "box missing": (
        ("annotations", 0),
        {"id": 7, "image_id": 1, "category_id": 1},
        "annotation 7: the key 'bbox'",
    ),
    "image size": (("images", 0, "width"), 0, "image 1: width 0 is not a positive number"),
    "file name missing": (("images", 0), {"id": 1, "width": 9, "height": 9}, "image 1: the key 'file_name'"),
    "pixel spacing": (("images", 0, "pixel_spacing_mm"), [0.5, 0], "image 1: pixel_spacing_mm [0.5, 0]"),
    "slice index": (("images", 0, "slice_index"), 1.5, "image 1: slice_index 1.5 is not an integer"),
    "two splits": (("images", 1, "patient_id"), "P1", "patient 'P1' is in two splits: test, train"),
    "no list": (("annotations",), {}, "no list under the key 'annotations'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_label_file_raises_one_line_that_names_file_entry_and_reason(fault, tmp_path):
    where, value, text = FAULTS[fault]
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(changed(where, value)))
    with pytest.raises(InputError) as caught:
        read_labels(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert text in message
    assert "\n" not in message


def test_faulty_labels_are_not_written(tmp_path):
    with pytest.raises(InputError, match="zero width"):
        write_labels(tmp_path / "labels.json", changed(BOX, [10, 20, 0, 6]))
    assert list(tmp_path.iterdir()) == []


def test_a_patient_id_on_some_images_only_is_a_fault():
    labels = two_images()
    del labels["images"][1]["patient_id"]
    with pytest.raises(InputError, match="image 2 has no patient_id"):
        check_labels(labels, "labels.json")


def test_a_results_file_given_as_labels_is_named_as_such(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match=r"results\.json: not a COCO label file"):
        read_labels(tmp_path / "results.json")


def test_a_split_keeps_its_images_and_their_boxes_and_no_others():
    train = labels_of_split(two_images(), "train")
    test = labels_of_split(two_images(), "test")
    assert [image["id"] for image in train["images"]] == [1]
    assert [box["id"] for box in train["annotations"]] == [7]
    assert [image["id"] for image in test["images"]] == [2]
    assert test["annotations"] == []


def test_an_absent_split_is_an_error_that_lists_the_splits():
    with pytest.raises(InputError, match="split 'val'; there are: test, train"):
        labels_of_split(two_images(), "val")


DETECTION = {"image_id": 1, "category_id": 1, "bbox": [10.0, 20.0, 5.0, 6.0], "score": 0.5}
DETECTION_FAULTS = {
    "unknown image": ({"image_id": 9}, "detection 1: image_id: 9 is the id of no image"),
    "unknown category": ({"category_id": 2}, "detection 1: category_id: 2 is the id of no category"),
    "score NaN": ({"score": float("nan")}, "detection 1: score nan is not a finite number"),
    "score text": ({"score": "high"}, "detection 1: score 'high' is not a finite number"),
    "box NaN": ({"bbox": [1, 2, float("nan"), 4]}, "detection 1: bbox [1, 2, nan, 4] holds a value"),
    "negative width": ({"bbox": [1, 2, -3, 4]}, "detection 1: the box [1, 2, -3, 4] has a negative width"),
}


@pytest.mark.parametrize("fault", DETECTION_FAULTS)
def test_a_faulty_detection_raises_one_line_that_names_file_entry_and_reason(fault, tmp_path):
    change, text = DETECTION_FAULTS[fault]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([DETECTION, {**DETECTION, **change}]))
    with pytest.raises(InputError) as caught:
        read_detections(path, two_images())
    assert str(caught.value).startswith(f"{path}: {text}")
    assert "\n" not in str(caught.value)


def test_a_detection_without_score_is_a_fault():
    detection = {key: value for key, value in DETECTION.items() if key != "score"}
    with pytest.raises(InputError, match="detection 0: the key 'score' is missing"):
        check_detections([detection], two_images(), "detections.json")


def test_detections_must_be_a_list():
    with pytest.raises(InputError, match="not a COCO results file"):
        check_detections(two_images(), two_images(), "detections.json")


def test_detections_without_extent_or_beyond_the_image_are_kept_as_false_positives():
    detections = [{**DETECTION, "bbox": [10, 20, 0, 6]}, {**DETECTION, "bbox": [-5, -5, 20, 20]}]
    assert check_detections(detections, two_images(), "detections.json") == detections
