"""`cmbfe baseline`: what it writes, that it looks at the test images' truth only to measure, and how it refuses."""

import json

import pytest
from baseline_world import SETTINGS, write_images

from cmbfe.baselines import Baseline
from cmbfe.baselines.run import METHODS
from cmbfe.data.labelled.detections import DETECTIONS_FILE, VALIDATION_FILE
from cmbfe.data.labelled.labels import read_detections, write_labels
from cmbfe.files import read_json
from cmbfe.paper.facts import PUBLISHED
from cmbfe.params import load_params, profile_file, save_params
from cmbfe.training.validation import validation_labels

WRITTEN = ["baseline.json", DETECTIONS_FILE, "metrics.json", VALIDATION_FILE]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images of five patients with labels and mimics, and settings that are quick."""
    folder = tmp_path_factory.mktemp("world")
    labels = write_images(folder / "data", {"train": 3, "validation": 1, "test": 1})
    write_labels(folder / "data" / "annotations.json", labels)
    mimics = [
        {"id": image["id"], "image_id": image["id"], "category_id": 1, "bbox": [32, 8, 8, 8]}
        for image in labels["images"]
    ]
    content = {**labels, "annotations": mimics, "categories": [{"id": 1, "name": "vein"}]}
    write_labels(folder / "data" / "mimics.json", content)
    params = load_params(profile_file("smoke")).model_copy(update={"baselines": SETTINGS})
    save_params(params, folder / "params.yaml")
    return folder


def arguments(world, out, name="thresholding", data=None):
    return ("baseline", name, "--params", world / "params.yaml", "--data", data or world / "data", "--out", out)


@pytest.mark.parametrize("name", ["radial-symmetry", "thresholding"])
def test_a_baseline_writes_what_every_detector_has_the_same_each_time(name, world, tmp_path, run_cmbfe):
    for out in (tmp_path / "one", tmp_path / "two"):
        status, said, _ = run_cmbfe(*arguments(world, out, name))
        assert (status, said.startswith(f"{out}: AP ")) == (0, True)
        assert sorted(file.name for file in out.iterdir()) == WRITTEN
    for file in WRITTEN:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    metrics = read_json(tmp_path / "one" / "metrics.json")
    assert (metrics["cmbs"], metrics["patients"]) == (6, 1)
    assert metrics["ap"] > 0.3
    labels = validation_labels(world / "data", load_params(world / "params.yaml").seed)
    assert read_detections(tmp_path / "one" / VALIDATION_FILE, labels)
    assert read_json(tmp_path / "one" / "baseline.json")["baseline"] == name


def test_the_truth_of_the_test_images_is_measured_against_and_not_looked_at(world, tmp_path, run_cmbfe):
    content = json.loads((world / "data" / "annotations.json").read_text())
    test = {image["id"] for image in content["images"] if image["split"] == "test"}
    moved = tmp_path / "data"
    moved.mkdir()
    for name in {image["patient_id"] for image in content["images"]}:
        (moved / name).symlink_to(world / "data" / name)
    (moved / "mimics.json").write_bytes((world / "data" / "mimics.json").read_bytes())
    for box in content["annotations"]:
        if box["image_id"] in test:
            box["bbox"] = [1, 1, 5, 5]
    write_labels(moved / "annotations.json", content)
    run_cmbfe(*arguments(world, tmp_path / "as it is"))
    run_cmbfe(*arguments(world, tmp_path / "moved", data=moved))
    detections = [(tmp_path / name / DETECTIONS_FILE).read_bytes() for name in ("as it is", "moved")]
    assert detections[0] == detections[1]


def test_an_unknown_baseline_and_a_folder_of_something_else_are_refused(world, tmp_path, run_cmbfe):
    assert run_cmbfe(*arguments(world, tmp_path / "out", "magic"))[0] == 2
    (tmp_path / "metrics.json").write_text("{}")
    status, _, error = run_cmbfe(*arguments(world, tmp_path))
    assert (status, str(tmp_path) in error) == (2, True)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_a_folder_without_labels_and_a_broken_image_end_in_one_line(world, tmp_path, run_cmbfe):
    data = tmp_path / "data"
    data.mkdir()
    status, _, error = run_cmbfe(*arguments(world, tmp_path / "out", data=data))
    assert (status, error.count("\n"), "annotations.json" in error) == (2, 1, True)
    for name in ("annotations.json", "mimics.json"):
        content = json.loads((world / "data" / name).read_text())
        images = [{**image, "file_name": "one.png"} for image in content["images"]]
        write_labels(data / name, {**content, "images": images})
    (data / "one.png").write_bytes(b"no image")
    status, _, error = run_cmbfe(*arguments(world, tmp_path / "out", data=data))
    assert (status, error.count("\n"), "one.png" in error) == (2, 1, True)
    assert not (tmp_path / "out").exists()


def test_every_baseline_has_a_method_and_what_its_paper_prints():
    assert list(METHODS) == list(Baseline) == list(PUBLISHED.index)
