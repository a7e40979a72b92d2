"""Results of the workspace: matched per variant, on the test set that the seed draws."""

import pytest
from tiny_world import BOX, SIDE, tiny_params

from cmbfe import paths
from cmbfe.data.labelled.detections import DETECTIONS_FILE, VALIDATION_FILE, match_results
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE, write_labels
from cmbfe.data.labelled.splits import read_test_set
from cmbfe.errors import InputError
from cmbfe.files import write_json


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A workspace with one test image with a microbleed, one with a mimic only, and one of training."""
    (tmp_path / "params.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    images = [
        {"id": k, "file_name": f"{k}.png", "width": SIDE, "height": SIDE, "split": split, "patient_id": split}
        for k, split in ((1, "test"), (2, "test"), (3, "train"))
    ]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX}
    write_labels(paths.images() / LABELS_FILE, {"images": images, "annotations": [box], "categories": CATEGORIES})
    mimics = {"images": images, "annotations": [{**box, "image_id": 2}], "categories": [{"id": 1, "name": "vein"}]}
    write_labels(paths.images() / MIMICS_FILE, mimics)
    return tmp_path


def test_each_variant_is_matched_to_the_test_images(world):
    test = read_test_set(tiny_params())
    assert [image["id"] for image in test["images"]] == [1, 2]
    for variant, box in (("ssd300", BOX), ("ssd300-fe", [1, 1, 3, 3])):
        paths.result(variant).mkdir(parents=True)
        found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5}]
        write_json(paths.result(variant) / DETECTIONS_FILE, found)
    matches = match_results(test, ("ssd300", "ssd300-fe"), 0.5)
    assert [matches[name].truth.tolist() for name in ("ssd300", "ssd300-fe")] == [[0], [-1]]


def test_another_file_of_detections_is_matched_to_its_own_images(world):
    labels = read_test_set(tiny_params())
    paths.result("ssd300").mkdir(parents=True)
    found = [{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.5}]
    write_json(paths.result("ssd300") / VALIDATION_FILE, found)
    assert match_results(labels, ["ssd300"], 0.5, VALIDATION_FILE)["ssd300"].truth.tolist() == [0]
    with pytest.raises(InputError, match=r"detections\.json"):
        match_results(labels, ["ssd300"], 0.5)


def test_a_variant_without_detections_is_named(world):
    with pytest.raises(InputError, match="ssd512"):
        match_results(read_test_set(tiny_params()), ("ssd512",), 0.5)
