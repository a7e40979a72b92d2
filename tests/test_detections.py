"""Detections of the workspace, matched per variant; those of `cmbfe detect`, joined by UID or name, else by id."""

import json

import pytest
from metric_examples import T, detection, labels_of
from tiny_world import BOX, tiny_params

from cmbfe import paths
from cmbfe.data.labelled.detections import (
    DETECTIONS_FILE,
    IMAGES_FILE,
    VALIDATION_FILE,
    detections_of,
    match_results,
)
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, write_labels
from cmbfe.data.labelled.splits import read_test_set
from cmbfe.errors import InputError
from cmbfe.files import write_json


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


@pytest.mark.parametrize(("ours", "theirs", "joined"), [
    # names, or names and UIDs, of images 1 and 2; of theirs by id; and which of theirs each of ours is
    (["P1/000.png", "P2/000.png"], {1: "P2/000.jpg", 2: "P9/000.jpg", 3: "P1/000.jpg"}, {1: 3, 2: 1}),
    ([("P1/000.png", "1.2.3"), "P2/000.png"], {7: ("P2/000.png", "1.2.3")}, {1: 7}),
    ([("P1/0.png", "1.2"), ("P2/0.png", "1.2")], {2: ("P2/0.png", "1.2"), 1: ("P1/0.png", "1.2")}, {1: 1, 2: 2}),
    (["IM.0001", "IM.0002"], {3: ("IM.0001", None), 4: "IM.0002"}, {1: 3, 2: 4}),
    (["P1\\000.png", "P2\\000.png"], {1: "P2/000.jpg", 2: "P1/000.jpg"}, {1: 2, 2: 1}),
    (["P1/000.png", "P2/000.png"], {}, {2: 2}),
], ids=["any suffix", "UID before name", "frames of a file", "no suffix", "backslashes", "by id"])  # fmt: skip
def test_images_are_joined_by_uid_else_by_name_else_by_id(tmp_path, labels, ours, theirs, joined):
    def entry(image: str | tuple) -> dict:
        values = [image] if isinstance(image, str) else image
        return dict(zip(("file_name", "sop_instance_uid"), values, strict=False))

    for image, own in zip(labels["images"], ours, strict=True):
        image.update(entry(own))
    images = {key: entry(image) for key, image in theirs.items()}
    file = detected(tmp_path, images, [detection(key, key / 10, T) for key in images or joined])
    if not images:
        file.with_name(IMAGES_FILE).unlink()
    scores = {box["image_id"]: box["score"] for box in detections_of(file, labels, all_looked_at=len(joined) == 2)}
    assert scores == {image: key / 10 for image, key in joined.items()}


@pytest.mark.parametrize("change", [
    lambda content: content["images"],
    lambda content: {"images": content["images"]},
    lambda content: content | {"info": {}},
    lambda content: content | {"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": T}]},
])  # fmt: skip
def test_an_images_file_of_another_tool_is_passed_over(tmp_path, labels, change):
    file = detected(tmp_path, {9: {"file_name": "P1/000.png"}}, [detection(1, 0.5, T)])
    beside = file.with_name(IMAGES_FILE)
    write_json(beside, change(json.loads(beside.read_text())))
    assert [one["image_id"] for one in detections_of(file, labels)] == [1]


def test_two_images_never_become_one(tmp_path, labels):
    images = {1: {"file_name": "P1/000.png"}, 2: {"file_name": "P1/000.jpg"}}
    file = detected(tmp_path, images, [detection(key, 0.5, T) for key in images])
    assert [one["image_id"] for one in detections_of(file, labels)] == [1]
    labels["images"][0]["sop_instance_uid"] = "1.2.3"
    images[3] = {"file_name": "other.png", "sop_instance_uid": "1.2.3"}
    with pytest.raises(InputError, match=r"images\.json: two images by UID or name are image 1"):
        detections_of(detected(tmp_path, images, []), labels)


def test_a_folder_with_the_same_number_may_be_another_series(tmp_path, labels):
    """Detection has looked at a series more than the labels have, so its folders are numbered differently."""
    for image, series in zip(labels["images"], ("B", "C"), strict=True):
        image |= {"series_uid": series, "slice_index": 0}
    named = zip((1, 2, 3), ("P1/000.png", "P2/000.png", "P3/000.png"), ("A", "B", "C"), strict=True)
    images = {key: {"file_name": name, "series_uid": series, "slice_index": 0} for key, name, series in named}
    file = detected(tmp_path, images, [detection(key, key / 10, T) for key in images])
    assert {one["image_id"]: one["score"] for one in detections_of(file, labels)} == {1: 0.2, 2: 0.3}


def test_series_in_only_one_of_the_files_do_not_become_one_by_their_path(tmp_path, labels):
    for image, series in zip(labels["images"], ("A", "B"), strict=True):
        image["series_uid"] = series
    named = {1: ("P1/000.png", "A"), 2: ("P2/000.png", "C")}
    images = {key: {"file_name": name, "series_uid": series} for key, (name, series) in named.items()}
    file = detected(tmp_path, images, [detection(key, 0.5, T) for key in images])
    assert [one["image_id"] for one in detections_of(file, labels)] == [1]


def test_numbered_folders_match_only_if_a_patient_has_as_many_series(tmp_path, labels):
    """Import calls a NIfTI series ses-1, which detection calls ses-1/swi.nii.gz."""
    for image in labels["images"]:
        image |= {"file_name": f"P-{image['id']}/000.png", "patient_id": "P", "series_uid": f"ses-{image['id']}"}
    names = ("ses-1/swi.nii.gz", "ses-2/swi.nii.gz", "ses-3/swi.nii.gz")
    images = {
        key: {"file_name": f"P-{key}/000.png", "patient_id": "P", "series_uid": name}
        for key, name in enumerate(names, 1)
    }
    with pytest.raises(InputError, match=r"images\.json: patient P has 3 series, but 2 of other names"):
        detections_of(detected(tmp_path, images, []), labels)
    del images[3]
    file = detected(tmp_path, images, [detection(key, 0.5, T) for key in images])
    assert [one["image_id"] for one in detections_of(file, labels)] == [1, 2]


@pytest.mark.parametrize("size", [{"width": 50, "height": 50}, {"width": 200}])
def test_boxes_on_another_pixel_grid_are_refused(tmp_path, labels, size):
    file = detected(tmp_path, {1: {"file_name": "P1/000.png", **size}}, [detection(1, 0.5, T)])
    with pytest.raises(InputError, match=r"P1/000\.png has \d+ x \d+ px"):
        detections_of(file, labels)


def test_detections_of_other_images_images_without_a_look_and_nameless_ones_are_refused(tmp_path, labels):
    file = detected(tmp_path, {1: {"file_name": "P9/000.png"}}, [])
    with pytest.raises(InputError, match="names none of the images of the labels"):
        detections_of(file, labels)
    file = detected(tmp_path, {1: {"file_name": "P1/000.png"}}, [])
    assert detections_of(file, labels) == []
    with pytest.raises(InputError, match=r"lacks 1 images of the labels, as P2/000\.png"):
        detections_of(file, labels, all_looked_at=True)
    for name in ("", "/", 3, None):
        with pytest.raises(InputError, match=r"images\.json: image 1: file_name "):
            detections_of(detected(tmp_path, {1: {"file_name": name}}, []), labels)


def test_detections_of_each_variant_are_matched_to_the_test_images_and_a_missing_file_is_named(tmp_path, monkeypatch):
    """One test image with a microbleed, one with a mimic only, and one of training."""
    (tmp_path / "params.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    labels = labels_of({1: [BOX], 2: [], 3: []})
    for image in labels["images"]:
        image["split"] = image["patient_id"] = "train" if image["id"] == 3 else "test"
    write_labels(paths.images() / LABELS_FILE, labels)
    mimics = {**labels, "annotations": [{**labels["annotations"][0], "image_id": 2}]}
    write_labels(paths.images() / MIMICS_FILE, {**mimics, "categories": [{"id": 1, "name": "vein"}]})
    test = read_test_set(tiny_params())
    assert [image["id"] for image in test["images"]] == [1, 2]
    for file in (DETECTIONS_FILE, VALIDATION_FILE):
        for variant, place in (("ssd300", BOX), ("ssd300-fe", [1, 1, 3, 3])):
            write_json(paths.result(variant) / file, [detection(1, 0.5, place)])
        matches = match_results(test, ("ssd300", "ssd300-fe"), 0.5, file)
        assert [matches[name].truth.tolist() for name in ("ssd300", "ssd300-fe")] == [[0], [-1]]
    with pytest.raises(InputError, match=r"ssd512/detections\.json\.gz"):
        match_results(test, ["ssd512"], 0.5)
