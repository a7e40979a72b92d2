"""What the study trains and tests: arms, seeds, phase, folds; that seeds and settings arrive, and what is repeated."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from study_world import study_params, study_patients, write_pipeline_patients
from tiny_world import tree

from cmbfe import paths
from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import LABELS_FILE, read_labels, write_labels
from cmbfe.errors import InputError
from cmbfe.files import read_json, write_json, write_table
from cmbfe.metrics import curves
from cmbfe.params import load_params, save_params
from cmbfe.phantom.plan import patient_plan
from cmbfe.studies import examples
from cmbfe.studies.trials import running
from cmbfe.studies.trials.arms import CROSSVALIDATION, seeds_of, settings_of, text_of, trained_by, variant_of
from cmbfe.studies.trials.patients import (
    contrast,
    fold_labels,
    fold_test_set,
    list_test_cmbs,
    read_mimics,
    read_test_labels,
    study_phantom,
    training_labels,
)
from cmbfe.studies.trials.phase import count_mimics, load_kinds
from cmbfe.studies.trials.running import run_arm

ARMS = (*study_params().study.every_arm, CROSSVALIDATION)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder with every arm trained and tested."""
    root = tmp_path_factory.mktemp("study")
    study_patients(root)
    write_pipeline_patients(root)
    for name in ARMS:
        run_arm(name, study_params(), root, progress=False)
    write_table(list_test_cmbs(study_params(), root), paths.study_cmbs(root))
    return root


def patients_of(labels: dict) -> set[str]:
    return {image["patient_id"] for image in labels["images"]}


def used_by(root: Path, arm: str, treatment: str, seed: int = 2):
    return load_params(paths.study_model(arm, treatment, seed, root) / "params.yaml")


def key_of(root: Path, arm: str, treatment: str, seed: int = 2) -> dict:
    return read_json(paths.study_model(arm, treatment, seed, root) / "finished.json")["key"]


def test_an_arm_trains_the_plain_detector_and_each_treatment_one_that_changes_fe_only_only_fe(done):
    trained = {
        arm: sorted({folder.name[:-2] for folder in (done / "models" / "study" / arm).iterdir()}) for arm in ARMS
    }
    assert trained == {
        "ssd300": ["fe", "plain"],
        "placement-source": ["fe"],
        "few": ["fe", "plain"],
        "ssdlite-small": ["fe", "plain", "segmentation"],
        "phase": ["fe", "fe-phase", "phase", "plain"],
        CROSSVALIDATION: ["fe", "plain"],
    }
    names = [("ssd300", "fe"), ("ssdlite-small", "segmentation"), ("phase", "phase"), ("phase", "fe-phase")]
    variants = [variant_of(*name, study_params()) for name in names]
    assert variants == ["ssd300-fe", "ssdlite-small-segmentation", "ssd300", "ssd300-fe"]


def test_a_training_has_the_settings_of_its_arm_and_seed(done):
    assert used_by(done, "placement-source", "fe").detector.fe.placement == "source"
    assert used_by(done, "ssd300", "fe").detector.fe.placement == "trunk"
    assert used_by(done, "ssdlite-small", "fe").training.iterations == 1
    more = study_params().training.model_copy(update={"threads": 8})
    on_more = study_params().model_copy(update={"training": more})
    assert {settings_of(arm, "fe", 1, on_more).training.threads for arm in ARMS} == {1}
    assert [used_by(done, "phase", name).images.phase for name in ("plain", "phase", "fe-phase")] == [0, 1, 1]
    for arm in ("ssd300", "few", "ssdlite-small"):
        assert used_by(done, arm, "plain").seed == 2
        assert used_by(done, arm, "plain").detector.detections_per_image == 10
    slow = study_params({"ssd300": {}, "slow": {"settings": {"training.learning_rate": 1e-4}}})
    assert settings_of("slow", "fe", 1, slow).training.learning_rate == 1e-4
    assert trained_by("slow", slow) == ("plain", "fe")
    assert text_of("slow", slow) == "training.learning_rate = 0.0001"
    long = study_params({"ssd300": {"longer": 3.0}, "source": {"longer": 3.0, "settings": {"detector.fe.beta": 2.0}}})
    times = {
        settings_of(arm, "fe", 1, long).training.iterations / long.training.iterations for arm in long.study.arms
    }
    assert times == {3}
    assert trained_by("source", long) == ("fe",)
    assert text_of("ssd300", long) == ""


def test_an_arm_of_fewer_patients_is_trained_on_these_only(done):
    sets = [read_labels(paths.study_training_set(1, patients, done) / LABELS_FILE) for patients in (1, 2)]
    assert [len(patients_of(labels)) for labels in sets] == [1, 2]
    assert key_of(done, "few", "plain")["data_sha256"] != key_of(done, "ssd300", "plain")["data_sha256"]


def test_every_seed_has_training_patients_of_its_own_and_smaller_sets_are_part_of_larger(done):
    labels, params = read_labels(paths.study_data(done) / "pictures" / LABELS_FILE), study_params()
    chosen = {seed: training_labels(labels, seed, 2, params) for seed in (1, 2)}
    assert [len(patients_of(of_seed)) for of_seed in chosen.values()] == [2, 2]
    assert not patients_of(chosen[1]) & patients_of(chosen[2])
    assert patients_of(training_labels(labels, 1, 1, params)) < patients_of(chosen[1])
    assert not patients_of(read_test_labels(params, done)) & (patients_of(chosen[1]) | patients_of(chosen[2]))
    assert {box["image_id"] for box in chosen[2]["annotations"]} <= {image["id"] for image in chosen[2]["images"]}


def test_the_cohort_is_as_large_as_its_parts_and_none_of_the_pipelines_patients():
    params = study_params()
    cohort, seed = study_phantom(params)
    assert cohort.patients.model_dump() == {"train": 4, "test": 3, "validation": 1}
    ours = {tuple(plan["seed"]) for plan in patient_plan(cohort, seed).values()}
    assert not ours & {tuple(plan["seed"]) for plan in patient_plan(params.phantom, params.seed).values()}


def test_trainings_beside_each_other_give_the_same_bytes_and_a_finished_one_is_not_repeated(done, tmp_path, capsys):
    study_patients(tmp_path)
    run_arm("placement-source", study_params(), tmp_path, jobs=2, progress=False)
    mine, expected = (tree(root / "results" / "study") for root in (tmp_path, done))
    assert {name: expected[name] for name in mine} == mine
    capsys.readouterr()
    run_arm("placement-source", study_params(), tmp_path, progress=False)
    assert capsys.readouterr().out.count("trained already") == 2
    assert tree(tmp_path / "results" / "study") == mine


def test_a_test_is_computed_each_time_without_training_or_detecting(done, tmp_path, monkeypatch):
    shutil.copytree(done, tmp_path / "root")
    for name in ("train", "detect_in"):
        monkeypatch.setattr(running, name, lambda *_, **__: pytest.fail("trained or detected again"))
    changed = lambda matches, sensitivity: {**curves.summary(matches, sensitivity), "ap": 0.123}  # noqa: E731
    monkeypatch.setattr(running, "summary", changed)
    run_arm("ssd300", study_params(), tmp_path / "root", backend="threading", progress=False, steps=("test",))
    after = read_json(paths.study_result("ssd300", tmp_path / "root") / "fe-1.json")
    assert after["ap"] == 0.123
    assert after["warnings"] == []
    assert after["training"] == {"precision": "32-true", "threads": 1}


def test_detectors_with_phase_start_from_the_trained_ones_and_differ_in_the_images_alone(done):
    plain, phase = key_of(done, "phase", "fe"), key_of(done, "phase", "fe-phase")
    assert {name for name in phase if phase[name] != plain[name]} == {"data_sha256"}
    start = paths.study_model("ssd300", "fe", 2, done)
    folders = [start, *(paths.study_model("phase", name, 2, done) for name in ("fe", "fe-phase"))]
    first = [load_file(folder / "model.safetensors")["stem.0.weight"] for folder in folders]
    assert all(0 < float((weight - first[0]).abs().max()) < 0.1 for weight in first[1:])
    assert not torch.equal(*first[1:])


def test_the_arm_with_phase_has_kinds_of_false_positives_examples_and_counts_of_mimics(done):
    folder = paths.study_result("phase", done)
    kinds = load_kinds(folder / "phase-1-kinds.npz")
    with np.load(folder / "phase-1.npz") as matches:
        np.testing.assert_array_equal(kinds == "", matches["outcome"] != 0)
        assert matches["patients"].tolist() == ["P5", "P6"]  # the first two test patients
    for name in ("cmb", "calcification"):
        assert read_image(paths.phase_example(name, done)).shape == (48, 48)
        assert paths.phase_example(name, done).with_suffix(".phase.png").is_file()
    counts = count_mimics(read_test_labels(study_params(), done, 2), read_mimics(study_params(), done))
    assert counts.loc["calcification"].tolist() == [2, 2]
    assert counts.loc["vein"].tolist() == [0, 0]
    (folder / "broken.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"broken\.npz"):
        load_kinds(folder / "broken.npz")
    (folder / "broken.npz").unlink()


def test_examples_are_images_of_several_patients_with_what_the_first_seed_finds_in_them(done, tmp_path):
    params = study_params()
    study_patients(tmp_path)
    with pytest.raises(InputError, match="no arm is trained"):
        examples.write_examples(params, tmp_path)
    assert set(examples.write_examples(params, done)) >= {"ssd300-plain", "ssd300-fe", "placement-source-fe"}
    folder = examples.folder_of(done)
    labels = read_labels(folder / LABELS_FILE)
    assert [image["patient_id"] for image in labels["images"]] == ["P5", "P6", "P7"]
    shown = {image["id"] for image in labels["images"]}
    found = read_json(paths.study_model("ssd300", "fe", 1, done) / "detections.json.gz")
    assert read_json(folder / "ssd300-fe.json") == [each for each in found if each["image_id"] in shown]
    # Detections of an arm that was trained elsewhere stay only while the images are the same.
    write_json(folder / "elsewhere-fe.json", found[:1])
    assert "elsewhere-fe" in examples.write_examples(params, done)
    assert read_json(folder / "elsewhere-fe.json") == found[:1]
    write_labels(folder / LABELS_FILE, examples.of_images(labels, {labels["images"][0]["id"]}))
    assert "elsewhere-fe" not in examples.write_examples(params, done)
    assert not (folder / "elsewhere-fe.json").exists()


def test_a_fold_trains_on_the_other_patients_and_is_tested_on_its_own(done):
    images, params = paths.images(done), study_params()
    whole = read_labels(images / LABELS_FILE)
    tested = []
    for fold in seeds_of(CROSSVALIDATION, params):
        test = fold_test_set(fold, params, images)
        tested.append(patients_of(test))
        assert patients_of(read_labels(paths.fold_data(fold, done) / LABELS_FILE)) == patients_of(whole) - tested[-1]
        metrics = json.loads((paths.study_result(CROSSVALIDATION, done) / f"fe-{fold}.json").read_text())
        assert (metrics["cmbs"], metrics["patients"], metrics["pictures"]) == (2, 2, 4)
    assert not tested[0] & tested[1]
    assert tested[0] | tested[1] == patients_of(whole)
    folded = fold_labels(2, params, images)
    assert folded["annotations"] == whole["annotations"]
    assert [{**image, "split": "validation"} for image in folded["images"]] == whole["images"]


def test_what_cannot_be_folded_is_refused_before_anything_is_written(tmp_path):
    for folds, bleeding, backend, reason in (
        (5, 4, "loky", "5 folds of 4 patients"),
        (4, 3, "loky", "have no microbleed"),
        (2, 0, "loky", "fold 1: .* have no microbleed"),
        (2, 4, "tcp://", "tcp://"),
    ):
        write_pipeline_patients(tmp_path, bleeding)
        before, params = tree(tmp_path), study_params()
        crossvalidation = params.crossvalidation.model_copy(update={"folds": tuple(range(1, folds + 1))})
        params = params.model_copy(update={"crossvalidation": crossvalidation})
        with pytest.raises(InputError, match=reason):
            run_arm(CROSSVALIDATION, params, tmp_path, backend=backend, progress=False)
        assert tree(tmp_path) == before


def test_what_lacks_an_arm_patients_a_start_or_a_training_is_refused(tmp_path):
    for arm, reason in (("nothing", "no arm 'nothing'"), ("ssd300", "cmbfe study patients")):
        with pytest.raises(InputError, match=reason):
            run_arm(arm, study_params(), tmp_path)
    study_patients(tmp_path)
    with pytest.raises(InputError, match="starts from ssd300, which is not trained"):
        run_arm("phase", study_params(), tmp_path)
    with pytest.raises(InputError, match=r"plain-1/detections\.json\.gz"):
        run_arm("ssd300", study_params(), tmp_path, progress=False, steps=("test",))


def test_the_command_runs_parts_and_steps(tmp_path, run_cmbfe):
    study_patients(tmp_path)
    save_params(study_params(), tmp_path / "params.yaml")
    options = ["--params", tmp_path / "params.yaml", "--out", tmp_path, "--jobs", 1]
    assert run_cmbfe("study", "placement-source", "--only", "train", *options)[0] == 0
    assert not (tmp_path / "results").exists()
    assert run_cmbfe("study", "placement-source", "--only", "test", *options)[0] == 0
    assert len(list((tmp_path / "results" / "study" / "placement-source").glob("*.npz"))) == 2
    status, _, said = run_cmbfe("study", "nothing", *options)
    assert status == 2
    assert "nothing" in said


def test_the_test_microbleeds_are_listed_with_size_and_contrast(done):
    cmbs = list_test_cmbs(study_params(), done)
    assert len(cmbs) == 3
    assert cmbs["contrast"].between(0.5, 1).all()  # of the tiny head's dark dot
    assert set(cmbs["location"]) == {"lobar"}


def test_contrast_is_the_share_of_the_surroundings_that_is_missing_inside():
    for inside, expected in ((100, 0.0), (50, 0.5), (0, 1.0), (150, -0.5)):
        image = np.full((40, 40), 100, np.uint8)
        image[15:25, 15:25] = inside
        assert contrast(image, [15, 15, 10, 10]) == pytest.approx(expected)
    image = np.full((10, 10), 100, np.uint8)
    image[4, 4] = 0
    assert contrast(image, [4.4, 4.4, 0.3, 0.3]) == 0.0  # no pixel is around so small a box
    assert contrast(image, [0, 0, 10, 10]) == 0.0  # and none around so large a one
