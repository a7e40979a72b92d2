"""Detectors with phase beside the study's: same images and seeds, nothing done twice, what is missing is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cmbfe.studies.phase_images import make_images, phase_seeds, read_test
from phase_world import phase_series
from safetensors.torch import load_file
from study_world import study_params
from tiny_world import BOX, dicom_head, tiny_params, tree

from cmbfe import paths
from cmbfe.data.augment import augment_training_set
from cmbfe.data.conversion import import_dicom
from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE
from cmbfe.errors import InputError
from cmbfe.files import sha256_of
from cmbfe.params import Params, PhaseStudy, load_params
from cmbfe.studies import phase_study
from cmbfe.studies.trials.patients import training_labels
from cmbfe.studies.phase_effect import read_complete
from cmbfe.studies.phase_examples import count_mimics, typical
from cmbfe.studies.phase_study import run_detectors
from cmbfe.studies.study import run_arm

SPLITS = ["train"] * 4 + ["test"] * 3


def params(**changes: object) -> Params:
    phase = PhaseStudy(**{"seeds": 2, "iterations": 3, **changes})
    return study_params({"ssd300": {}}).model_copy(update={"phase": phase})


def study_dicom(root: Path) -> None:
    """What `cmbfe study patients` leaves, of seven heads: on one slice a microbleed, on one a calcification."""
    raw = paths.study_data(root) / "raw"
    images, boxes, decoys = [], [], []
    known = {"category_id": 1, "area": BOX[2] * BOX[3], "bbox": BOX, "visible_diameter_mm": 4.0, "location": "lobar"}
    for number, split in enumerate(SPLITS, 1):
        patient = f"P{number}"
        slices = dicom_head(raw / patient / "m", patient, slices=2)
        phase_series(raw / patient / "p", patient, volume=np.full((2, 64, 64), -100 * number, np.int16))
        for index, one in enumerate(slices):
            image = {"id": 2 * number + index, "file_name": f"{patient}/{index}.dcm", "width": 64, "height": 64}
            images.append(image | {"sop_instance_uid": str(one.SOPInstanceUID), "split": split})
            box = {"id": number, "image_id": image["id"], "lesion_id": patient, **known}
            (decoys if index else boxes).append(box)
    labels = {"images": images, "annotations": boxes, "categories": CATEGORIES}
    kinds = [{"id": 1, "name": "calcification"}, {"id": 2, "name": "vein"}]
    (raw / LABELS_FILE).write_text(json.dumps(labels))
    (raw / MIMICS_FILE).write_text(json.dumps({**labels, "annotations": decoys, "categories": kinds}))
    pixels = paths.study_data(root) / "pictures"
    made = import_dicom(raw, pixels, tiny_params().pixels, 1, jobs=1, progress=False)
    for seed in (1, 2):
        chosen, target = training_labels(made, seed, 2, params()), paths.study_training_set(seed, 2, root)
        augment_training_set(chosen, pixels, target, params().augmentation, seed, jobs=1, progress=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder with both kinds of detectors trained and tested."""
    root = tmp_path_factory.mktemp("phase")
    study_dicom(root)
    run_arm("ssd300", params(), root, progress=False)
    make_images(params(), root, jobs=1, progress=False)
    run_detectors(params(), root, progress=False)
    return root


def shown(folder: Path) -> dict[str, bytes | None]:
    """The images of a folder that are no phase."""
    return {name: content for name, content in tree(folder).items() if name.endswith(".png") and ".phase" not in name}


def test_the_magnitude_is_that_of_the_study_and_the_phase_that_of_the_same_slice(done):
    assert len(shown(paths.phase_data(done) / "pictures")) == 14
    assert shown(paths.phase_data(done) / "pictures") == shown(paths.study_data(done) / "pictures")
    assert shown(paths.phase_training_set(2, done)) == shown(paths.study_training_set(2, 2, done))
    steps = {number: round(-100 * number * 127 / (1000 * np.pi)) for number in (1, 7)}  # by hand: -4 and -28
    for number, step in steps.items():
        phase = read_image(paths.phase_data(done) / "pictures" / f"P{number}" / "001.phase.png")
        assert set(phase.ravel().tolist()) == {128 + step}


def test_both_go_on_from_the_studys_detector_and_differ_in_the_images_alone(done):
    folders = [paths.phase_model(channels, "ssd300-fe", 2, done) for channels in phase_study.CHANNELS]
    without, with_phase = (json.loads((folder / "finished.json").read_text()) for folder in folders)
    assert {key for key in with_phase if with_phase[key] != without[key]} == {"data_sha256"}
    assert [load_params(folder / "params.yaml").images.phase for folder in folders] == [False, True]
    start = paths.study_model("ssd300", "ssd300-fe", 2, done) / "model.safetensors"
    assert with_phase["start_sha256"] == sha256_of([start])
    weights = [load_file(folder / "model.safetensors")["stem.0.weight"] for folder in (start.parent, *folders)]
    far = [float((one - weights[0]).abs().max()) for one in weights[1:]]
    assert all(
        0 < distance < 4 * params().phase.learning_rate for distance in far
    )  # Adam: about a rate per iteration
    assert not torch.equal(*weights[1:])


def test_the_tests_are_on_the_first_of_the_studys_test_patients(done):
    test, _ = read_test(params(test_patients=2), done)
    assert {image["patient_id"] for image in test["images"]} == {"P5", "P6"}
    assert {box["lesion_id"] for box in test["annotations"]} == {"P5", "P6"}


def test_all_is_read_back_with_a_kind_for_each_false_positive_and_what_is_not_there_is_left_out(done):
    found = read_complete(params(), done)
    assert list(found) == ["ssd300", "ssd300-fe"]
    for matches, kinds in found["ssd300"]["phase"]:
        np.testing.assert_array_equal(kinds == "", matches.outcome != 0)
    file = paths.phase_result("phase", done) / "ssd300-fe-2.npz"
    file.rename(done / "away.npz")
    assert list(read_complete(params(), done)) == ["ssd300"]
    (done / "away.npz").rename(file)


def test_what_is_done_is_not_repeated(done, monkeypatch):
    before = tree(done / "results" / "phase")
    monkeypatch.setattr(phase_study, "detect_in", lambda *_: pytest.fail("tested again"))
    monkeypatch.setattr(phase_study, "Run", lambda *_: pytest.fail("trained again"))
    run_detectors(params(), done, progress=False)
    assert tree(done / "results" / "phase") == before


def test_examples_have_their_phase_and_mimics_are_counted_on_the_test_images(done):
    assert read_image(paths.phase_example("cmb", done)).shape == (48, 48)
    assert read_image(paths.phase_example("calcification", done).with_suffix(".phase.png")).shape == (48, 48)
    counts = count_mimics(*read_test(params(), done))
    assert counts.loc["calcification"].tolist() == [3, 3]
    assert counts.loc["vein"].tolist() == [0, 0]


def test_the_typical_box_is_in_the_middle_slice_of_a_lesion_that_is_larger_than_most():
    sizes = [("a", 5.0), ("b", 2.0), ("c", 9.0), ("c", 4.0), ("c", 1.0), ("d", 6.0), ("e", 8.0), ("e", 8.0)]
    boxes = [{"id": n, "image_id": n, "lesion_id": lesion, "area": size} for n, (lesion, size) in enumerate(sizes)]
    assert typical(boxes)["id"] == 5  # of the middle slices 2, 4, 5, 6; that of e lies between two
    assert typical(boxes[:5][::-1])["id"] == 0
    assert typical(boxes[6:]) is None


def test_what_is_missing_or_does_not_fit_is_said_in_one_line(done, tmp_path):
    with pytest.raises(InputError, match="raw: the study's patients are not there; make them: cmbfe study patients"):
        make_images(params(), tmp_path)
    with pytest.raises(InputError, match="images with phase are not there; make them: cmbfe phase images"):
        run_detectors(params(), tmp_path)
    with pytest.raises(
        InputError, match=r"phase\.arm: 'few' is no arm of the study without changes; there are: ssd300"
    ):
        phase_seeds(params(arm="few"))
    with pytest.raises(InputError, match=r"phase\.seeds: 3, but the study's arm ssd300 has 2"):
        phase_seeds(params(seeds=3))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "phase").symlink_to(paths.phase_data(done))
    with pytest.raises(InputError, match="the study's detector is not trained: cmbfe study ssd300"):
        run_detectors(params(), tmp_path)
