"""Bad input on the command line: one line that names the file and the reason, exit status 2, and no files."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_world import dicom_head, dicom_labels, labelled_images, save_tiny_model

from cmbfe.data.labelled.labels import LABELS_FILE
from cmbfe.params import profile_file

SMOKE = ["--params", profile_file("smoke")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "ssd300")


def dump(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("change", [{"bbox": [1, 2, 0, 4]}, {"image_id": 99}])
def test_bad_labels_are_named(refused_line, tmp_path, change):
    labels = dicom_labels(dicom_head(tmp_path / "in"))
    labels["annotations"][0].update(change)
    file, found = dump(tmp_path / "in" / LABELS_FILE, labels), dump(tmp_path / "found.json", [])
    out = ["--out", tmp_path / "deep" / "out"]
    training = ["train", "ssd300", "--data", tmp_path / "in", *SMOKE, *out]
    for arguments in (["import", "dicom", tmp_path / "in", out[1]], ["evaluate", file, found, *out], training):
        assert f"{file}: annotation 1: " in refused_line(*arguments)


def test_an_image_that_cannot_be_read_and_an_unknown_variant_are_named(refused_line, tmp_path, model):
    labelled_images(tmp_path / "in", 3)
    data, out = ["--data", tmp_path / "in", *SMOKE], ["--out", tmp_path / "deep" / "out"]
    for variant in ("ssd1024", ""):
        assert f"named {variant!r}; there are: " in refused_line("train", variant, *data, *out)
    (tmp_path / "in" / "P2" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n nonsense")
    for command in (["detect", tmp_path / "in", "--model", model], ["train", "ssd300", *data]):
        assert "000.png: " in refused_line(*command, *out)


def not_a_number(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    with safe_open(file, "pt") as opened:
        save_file(weights, file, opened.metadata())


SPOILED_MODELS = {
    "no folder": (shutil.rmtree, ""),
    "the folder above": (
        lambda folder: shutil.copytree(folder, folder / "a") and (folder / "config.json").unlink(),
        "",
    ),
    "no settings": (lambda folder: (folder / "params.yaml").unlink(), "params.yaml"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "deep settings": (lambda folder: (folder / "params.yaml").write_text("[" * 100_000), ""),
    "deep config": (lambda folder: (folder / "config.json").write_text("[" * 100_000), ""),
    "no such variant": (lambda folder: (folder / "config.json").write_text('{"variant": "ssd9"}'), "config.json"),
    "zeros": (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), "model.safetensors"),
    "truncated weights": (lambda folder: os.truncate(folder / "model.safetensors", 100_000), "model.safetensors"),
    "NaN": (not_a_number, ""),
}


@pytest.mark.parametrize("case", SPOILED_MODELS)
def test_a_model_that_cannot_be_loaded_is_named(refused_line, tmp_path, model, case):
    spoil, name = SPOILED_MODELS[case]
    shutil.copytree(model, tmp_path / "model")
    spoil(tmp_path / "model")
    dicom_head(tmp_path / "in", slices=1)
    line = refused_line("detect", tmp_path / "in", "--model", tmp_path / "model", "--out", tmp_path / "deep" / "out")
    assert str(tmp_path / "model" / name) in line


def test_detect_and_evaluate_never_cost_their_own_input(refused_line, tmp_path, model):
    dicom_head(tmp_path / "in")
    out = tmp_path / "out"
    point = dump(out / "metrics.json", {"threshold": 0.5})
    (out / "images.json").touch()  # as an earlier result of detect
    inside = shutil.copytree(model, out / "model")
    for options in (["--model", inside], ["--model", model, "--operating-point", point]):
        line = refused_line("detect", tmp_path / "in", "--out", out, *options)
        assert f"{out}: holds the input {options[-1]}" in line
    truth = dump(tmp_path / "truth.json", labelled_images(tmp_path / "images", 2))
    for name in ("metrics.json", "report.html"):  # as results/VARIANT of the pipeline, beside detections.json
        found = dump(dump(tmp_path / name / name, {}).with_name("detections.json"), [])
        assert f"{name}: holds" in refused_line("evaluate", truth, found, "--out", found.parent)


def test_settings_that_cannot_be_read_are_named(refused_line, tmp_path):
    params, absent = tmp_path / "params.yaml", tmp_path / "absent.yaml"
    params.write_text(profile_file("smoke").read_text().replace("\ntraining:", "\ntraining:\n  momentum: 0.1"))
    dicom_head(tmp_path / "in", slices=1)
    for arguments in (["import", "dicom", tmp_path / "in", tmp_path / "out"], ["train", "ssd300", "--out", tmp_path]):
        assert f"{params}: training.momentum: unknown key" in refused_line(*arguments, "--params", params)
        assert f"{absent}: cannot be read" in refused_line(*arguments, "--params", absent)


@pytest.mark.parametrize(("arguments", "reason"), [
    (["phantom", "OUT", "--patients", "0", "--dry-run"], "0 patients"),
    (["phantom", "OUT", "--jobs", "0"], "--jobs 0"),
    (["phantom", "OUT", "--backend", "threads"], "backend threads"),
    (["phantom", "OUT", "--profile", "huge"], "'huge'"),
    (["profile", "smoke", "--out", "OUT"], "OUT: "),
])  # fmt: skip
def test_a_phantom_that_cannot_be_or_a_profile_in_place_of_a_folder_is_refused(
    refused_line, tmp_path, monkeypatch, arguments, reason
):
    (tmp_path / "OUT").mkdir()
    monkeypatch.chdir(tmp_path)
    assert reason in refused_line(*arguments)


@pytest.mark.parametrize("kind", ["file", "foreign folder", "below a file"])
@pytest.mark.parametrize("command", ["phantom", "import", "train", "detect", "export", "evaluate"])
def test_an_output_that_would_destroy_something_is_refused(refused_line, tmp_path, model, command, kind):
    truth = dump(tmp_path / "truth.json", labelled_images(tmp_path / "images", 2))
    thesis = dump(tmp_path / "documents" / "thesis.txt", "precious")
    out = {"file": thesis, "foreign folder": thesis.parent, "below a file": thesis / "out"}[kind]
    if command == "import":
        dicom_head(tmp_path / "dicom", slices=2)
    arguments = {
        "phantom": [out, "--profile", "smoke"],
        "import": ["dicom", tmp_path / "dicom", out, *SMOKE],
        "train": ["ssd300", "--out", out, "--data", tmp_path / "images", *SMOKE],
        "detect": [tmp_path / "images", "--model", model, "--out", out],
        "export": ["--model", model, "--out", out],
        "evaluate": [truth, dump(tmp_path / "found.json", []), "--out", out],
    }[command]
    assert str(out) in refused_line(command, *arguments)


def test_a_cross_validation_that_cannot_be_is_refused(refused_line, tmp_path):
    images = tmp_path / "data" / "pictures"
    labels = labelled_images(images, 3)
    for number, image in enumerate(labels["images"]):
        image["patient_id"] = f"P{number}"
    dump(images / LABELS_FILE, labels)
    mimics = dump(images / "mimics.json", {**labels, "annotations": []})
    options = ["study", "crossvalidation", "--out", tmp_path]
    assert "--jobs 0" in refused_line(*options, *SMOKE, "--jobs", "0")
    assert str(mimics) in refused_line(*options[:-1], mimics, *SMOKE)
    assert "10 folds of 3 patients" in refused_line(*options, "--params", profile_file("paper"))
    mimics.unlink()
    assert "mimics.json: no such file" in refused_line(*options, *SMOKE)
    assert "'ssd1024'" in refused_line("study", "ssd1024", *SMOKE, "--out", tmp_path)
