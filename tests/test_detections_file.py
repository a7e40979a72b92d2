"""Detections belong to the images of labels by UID or name where `cmbfe detect` says which, else by id."""

import json

import pytest
from metric_examples import detection, labels_of

from cmbfe.data.labelled.detections import IMAGES_FILE, detections_of, images_file
from cmbfe.errors import InputError

T = [10, 10, 10, 10]


@pytest.fixture
def labels() -> dict:
    """Images 1 and 2, called P1/000.png and P2/000.png."""
    labels = labels_of({1: [T], 2: []})
    for image in labels["images"]:
        image["file_name"] = f"P{image['id']}/000.png"
    return labels


def detected(folder, images: dict[int, dict], detections: list[dict]):
    """What `cmbfe detect` leaves: detections, and beside them which image has which id."""
    size = {"width": 100, "height": 100}
    content = {"images": [{"id": key, **size, **image} for key, image in images.items()], "annotations": []}
    (folder / IMAGES_FILE).write_text(json.dumps(content | {"categories": [{"id": 1, "name": "cmb"}]}))
    (folder / "detections.json").write_text(json.dumps(detections))
    return folder / "detections.json"


def test_by_id_where_nothing_says_which_image_is_which(tmp_path, labels):
    found = [detection(2, 0.5, T)]
    (tmp_path / "detections.json").write_text(json.dumps(found))
    assert images_file(tmp_path / "detections.json") is None
    for given in (found, tmp_path / "detections.json"):
        assert [one["image_id"] for one in detections_of(given, labels)] == [2]


def test_by_name_whatever_the_suffix_and_without_those_of_other_images(tmp_path, labels):
    images = {1: {"file_name": "P2/000.jpg"}, 2: {"file_name": "P9/000.jpg"}, 3: {"file_name": "P1/000.jpg"}}
    file = detected(tmp_path, images, [detection(key, key / 10, T) for key in images])
    joined = detections_of(file, labels, all_looked_at=True)
    assert {one["image_id"]: one["score"] for one in joined} == {2: 0.1, 1: 0.3}


def test_the_uid_of_the_dicom_instance_goes_before_the_name(tmp_path, labels):
    labels["images"][0]["sop_instance_uid"] = "1.2.3"
    images = {7: {"file_name": "P2/000.png", "sop_instance_uid": "1.2.3"}}
    file = detected(tmp_path, images, [detection(7, 0.5, T)])
    assert [one["image_id"] for one in detections_of(file, labels)] == [1]


def test_frames_of_one_dicom_file_are_told_apart_by_name(tmp_path, labels):
    for image in labels["images"]:
        image["sop_instance_uid"] = "1.2.3"
    images = {key: {"file_name": f"P{key}/000.png", "sop_instance_uid": "1.2.3"} for key in (2, 1)}
    file = detected(tmp_path, images, [detection(key, key / 10, T) for key in images])
    assert {one["image_id"]: one["score"] for one in detections_of(file, labels)} == {2: 0.2, 1: 0.1}


def test_a_number_behind_a_dot_is_no_suffix(tmp_path, labels):
    images = {3: {"file_name": "IM.0001", "sop_instance_uid": None}, 4: {"file_name": "IM.0002"}}
    for image, name in zip(labels["images"], ("IM.0001", "IM.0002"), strict=True):
        image["file_name"] = name
    file = detected(tmp_path, images, [detection(4, 0.5, T), detection(3, 0.9, T)])
    assert [one["image_id"] for one in detections_of(file, labels, all_looked_at=True)] == [2, 1]
    labels["images"].pop()
    assert [one["image_id"] for one in detections_of(file, labels)] == [1]


def test_two_images_never_become_one(tmp_path, labels):
    images = {1: {"file_name": "P1/000.png"}, 2: {"file_name": "P1/000.jpg"}}
    file = detected(tmp_path, images, [detection(key, 0.5, T) for key in images])
    assert [one["image_id"] for one in detections_of(file, labels)] == [1]
    labels["images"][0]["sop_instance_uid"] = "1.2.3"
    images[3] = {"file_name": "other.png", "sop_instance_uid": "1.2.3"}
    with pytest.raises(InputError, match=r"images\.json: has two images that by UID or name are image 1"):
        detections_of(detected(tmp_path, images, []), labels)


@pytest.mark.parametrize("name", ["", "/", 3, None])
def test_a_image_needs_the_name_of_a_file(tmp_path, labels, name):
    with pytest.raises(InputError, match=r"images\.json: image 1: file_name .* is not the name of a file"):
        detections_of(detected(tmp_path, {1: {"file_name": name}}, []), labels)


def test_detections_of_other_images_and_images_without_a_look_are_named(tmp_path, labels):
    file = detected(tmp_path, {1: {"file_name": "P9/000.png"}}, [])
    with pytest.raises(InputError, match="names none of the images of the labels"):
        detections_of(file, labels)
    file = detected(tmp_path, {1: {"file_name": "P1/000.png"}}, [])
    assert detections_of(file, labels) == []
    with pytest.raises(InputError, match=r"1 images of the labels are not in it, P2/000\.png first"):
        detections_of(file, labels, all_looked_at=True)
