"""The command line: each command explains itself and passes on what it is given."""

import json
import re
import shlex
import subprocess
import sys
from unittest import mock

import pandas as pd
import pytest
from tiny_world import dicom_head, dicom_labels, labelled_images, save_tiny_model, tiny_params
from typer.main import get_command

from cmbfe.cli import commands
from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.params import load_params, profile_file, save_params

COMMANDS = get_command(commands.app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_its_own_parser_takes(run_cmbfe, name):
    status, out, _ = run_cmbfe(name, "--help")
    assert (status, f"Example: cmbfe {name}" in out) == (0, True)
    example = next(line for line in COMMANDS[name].help.splitlines() if line.strip().startswith("Example: "))
    assert COMMANDS[name].make_context(name, shlex.split(example)[3:]).params


@pytest.mark.parametrize("arguments", [["--help"], ["phantom", "out", "--profile", "paper", "--dry-run"]])
def test_help_and_a_dry_run_load_no_torch_and_write_nothing(arguments, tmp_path):
    code = f"import sys; from cmbfe.cli import main; sys.argv[1:] = {arguments}\ntry: main()\n"
    code += "finally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if arguments == ["--help"]:
        words = [line.split()[1:2] for line in done.stdout.splitlines()]  # the first is the frame
        assert [word for (word,) in filter(None, words) if word in COMMANDS] == list(COMMANDS)
    else:
        assert ["total", "58", "6613", "723", "1301"] in [line.split() for line in done.stdout.splitlines()]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [
    ["phantom", "OUT", "--patients", "many"],
    ["import", "nrrd", "SRC", "OUT"],
    ["detect", "SRC", "--model", "M", "--out", "OUT", "--threshold", "2"],
    ["nonsense"],
])  # fmt: skip
def test_wrong_usage_is_explained_and_ends_with_status_2(run_cmbfe, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run_cmbfe(*arguments)
    assert (status, out, "Usage: " in err) == (2, "", True)
    status, out, _ = run_cmbfe()
    shown = re.findall(r"cmbfe ([a-z]+)", out)
    assert (status, set(shown) <= set(COMMANDS), len(shown) >= 5) == (0, True, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "extra"), [("dvclive", "replicate"), ("onnx", "export")])
def test_a_package_that_is_missing_is_named_with_its_extra(run_cmbfe, module, extra, monkeypatch):
    def needs_it(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named '{module}'", name=f"{module}.part")

    monkeypatch.setattr("cmbfe.params.write_profile", needs_it)
    status, out, err = run_cmbfe("profile", "smoke")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"[{extra}]" in err


def test_import_train_detect_and_evaluate_take_each_others_files(run_cmbfe, tmp_path):
    """Each command's output is the next one's input."""
    slices = dicom_head(tmp_path / "raw")
    (tmp_path / "raw" / LABELS_FILE).write_text(json.dumps(dicom_labels(slices, split="train")))
    save_params(tiny_params(iterations=2, milestones=(), batch=1), tmp_path / "params.yaml")
    params = ["--params", tmp_path / "params.yaml"]
    images, found, out = (tmp_path / name for name in ("images", "found", "out"))
    threads = ["--backend", "threading"]  # new processes would take seconds to start
    status, said, _ = run_cmbfe("import", "dicom", tmp_path / "raw", images, *params, *threads)
    assert (status, said.splitlines()[-2]) == (0, f"{images}: 4 images, 1 microbleed boxes")
    status, said, _ = run_cmbfe("train", "ssd300", "--out", tmp_path / "model", "--data", images, *params)
    assert (status, said.splitlines()[-2]) == (0, f"{tmp_path / 'model'}: ssd300 after 2 iterations")
    status, said, _ = run_cmbfe("detect", images, "--model", tmp_path / "model", "--out", found)
    assert status == 0
    assert said.startswith(f"{found}: {len(json.loads((found / 'detections.json').read_text()))} detections")
    options = ["--split", "train", "--threshold", "0.3", "--iou", "0.4", "--seed", "5", "--out", out]
    assert run_cmbfe("evaluate", images / LABELS_FILE, found / "detections.json", *options)[0] == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["threshold"], metrics["settings"]["iou"], metrics["settings"]["seed"]) == (0.3, 0.4, 5)


def test_an_import_is_augmented_and_trains_twins_that_its_validation_patients_judge(run_cmbfe, tmp_path):
    labels = labelled_images(tmp_path / "in", 4)
    for image, split in zip(labels["images"], ["train", "train", "validation", "test"], strict=True):
        image |= {"patient_id": f"P{image['id']}", "pixel_spacing_mm": [1, 1], "split": split}
    (tmp_path / "in" / LABELS_FILE).write_text(json.dumps(labels))
    params = tiny_params(iterations=2, milestones=())
    augmentation = params.augmentation.model_copy(update={"target_images": 3})
    save_params(params.model_copy(update={"augmentation": augmentation}), tmp_path / "params.yaml")
    images, out, options = tmp_path / "mine", tmp_path / "models", ["--params", tmp_path / "params.yaml"]
    assert run_cmbfe("import", "coco", tmp_path / "in", images, *options, "--backend", "threading")[0] == 0
    assert run_cmbfe("train", "ssd300", "--twins", "--data", images, "--out", out, *options)[0] == 0
    augmented = read_labels(tmp_path / "mine-augmented" / LABELS_FILE)["images"]
    split_of = {image["id"]: image["split"] for image in read_labels(images / LABELS_FILE)["images"]}
    assert [split_of[image["source_image_id"]] for image in augmented] == ["train"] * 3
    for name in ("ssd300", "ssd300-fe"):
        assert pd.read_csv(out / name / "history.csv")["validation_ap"].notna().any()


def test_detect_takes_the_threshold_of_validation_and_names_what_it_leaves_out(run_cmbfe, tmp_path):
    dicom_head(tmp_path / "in" / "a", "A", slices=1)
    dicom_head(tmp_path / "in" / "b", "B", slices=1, BurnedInAnnotation="YES")
    (tmp_path / "points.csv").write_text("variant,threshold\nssd300-fe,0.9\n")
    point = ["--operating-point", tmp_path / "points.csv"]
    model, out = save_tiny_model(tmp_path / "model"), tmp_path / "found"
    arguments = ["detect", tmp_path / "in", "--model", model, "--out", out, *point]
    status, said, err = run_cmbfe(*arguments)
    assert status == 0
    assert "with a score of at least 0.9" in said
    assert "1 series or files refused" in said
    assert "000.dcm: BurnedInAnnotation" in err
    assert run_cmbfe(*arguments, "--threshold", 0.5)[:2] == (2, "")


def test_phantom_takes_number_seed_and_size(run_cmbfe, tmp_path, monkeypatch):
    empty = {"info": {"box_margin_mm": 1.0}, "images": [], "annotations": [], "categories": []}
    spy = mock.Mock(return_value=empty)
    monkeypatch.setattr("cmbfe.phantom.cohort.write_cohort", spy)
    smoke, phantom = load_params(profile_file("smoke")), ["phantom", tmp_path / "a", "--profile", "smoke"]
    assert run_cmbfe(*phantom, "--patients", 58, "--seed", 3)[0] == 0
    (folder, cohort, seed), options = spy.call_args
    assert (folder, seed, options) == (tmp_path / "a", 3, {"jobs": -1, "backend": "loky"})
    assert cohort.patients.model_dump() == {"train": 33, "test": 17, "validation": 8}
    assert cohort.matrix_px == smoke.phantom.matrix_px
    assert run_cmbfe(*phantom, "--jobs", 3, "--backend", "threading")[0] == 0
    spy.assert_called_with(tmp_path / "a", smoke.phantom, smoke.seed, jobs=3, backend="threading")
