"""Bad input on the command line: one line that names the file and the reason, exit status 2, and no files."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
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


def truncated(file: Path, missing: int = 50) -> None:
    file.write_bytes(file.read_bytes()[:-missing])


@pytest.mark.parametrize("change", [{"bbox": [1, 2, 0, 4]}, {"image_id": 99}])
def test_bad_labels_are_named(refused_line, tmp_path, change):
    labels = dicom_labels(dicom_head(tmp_path / "in"))
    labels["annotations"][0].update(change)
    file = dump(tmp_path / "in" / LABELS_FILE, labels)
    found = dump(tmp_path / "found.json", [])
    out = tmp_path / "deep" / "out"
    training = ["train", "ssd300", "--data", tmp_path / "in", *SMOKE, "--out", out]
    for arguments in (["import", "dicom", tmp_path / "in", out], ["evaluate", file, found, "--out", out], training):
        assert f"{file}: annotation 1: " in refused_line(*arguments)


def test_an_image_that_cannot_be_read_is_named(refused_line, tmp_path, model):
    labelled_images(tmp_path / "in", 3)
    (tmp_path / "in" / "P2" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n nonsense")
    for command in (
        ["detect", tmp_path / "in", "--model", model],
        ["train", "ssd300", "--data", tmp_path / "in", *SMOKE],
    ):
        assert "000.png: " in refused_line(*command, "--out", tmp_path / "deep" / "out")


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
    "truncated weights": (lambda folder: truncated(folder / "model.safetensors", 9), "model.safetensors"),
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


def test_detect_never_costs_its_own_model_or_threshold(refused_line, tmp_path):
    dicom_head(tmp_path / "in")
    out = tmp_path / "out"
    point = dump(out / "metrics.json", {"threshold": 0.5})
    (out / "images.json").touch()  # as an earlier result of detect
    inside, elsewhere = save_tiny_model(out / "model"), save_tiny_model(tmp_path / "m")
    for options in (["--model", inside], ["--model", elsewhere, "--operating-point", point]):
        line = refused_line("detect", tmp_path / "in", "--out", out, *options)
        assert f"{out}: holds the input {options[-1]}" in line


@pytest.mark.parametrize("variant", ["ssd1024", "ssd300-fe-fe", ""])
def test_an_unknown_variant_is_refused_with_those_there_are(refused_line, tmp_path, variant):
    labelled_images(tmp_path / "in", 2)
    arguments = ["train", variant, *SMOKE, "--data", tmp_path / "in", "--out", tmp_path / "out"]
    assert f"named {variant!r}; there are: " in refused_line(*arguments)


def test_settings_that_cannot_be_read_are_named(refused_line, tmp_path):
    settings = yaml.safe_load(profile_file("smoke").read_text())
    settings["training"]["momentum"] = 0.1
    params, absent = tmp_path / "params.yaml", tmp_path / "absent.yaml"
    params.write_text(yaml.safe_dump(settings))
    dicom_head(tmp_path / "in", slices=1)
    for arguments in (["import", "dicom", tmp_path / "in", tmp_path / "out"], ["train", "ssd300", "--out", tmp_path]):
        assert f"{params}: training.momentum: unknown key" in refused_line(*arguments, "--params", params)
        assert f"{absent}: cannot be read" in refused_line(*arguments, "--params", absent)


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--patients", "0", "--dry-run"], "0 patients"),
    (["--jobs", "0"], "--jobs 0"),
    (["--backend", "threads"], "backend threads"),
    (["--profile", "huge"], "'huge'"),
])  # fmt: skip
def test_a_phantom_that_cannot_be_is_refused(refused_line, tmp_path, arguments, reason):
    assert reason in refused_line("phantom", tmp_path / "out", *arguments)


@pytest.mark.parametrize("kind", ["file", "foreign folder", "below a file"])
@pytest.mark.parametrize("command", ["phantom", "import", "train", "detect", "export", "evaluate"])
def test_an_output_that_would_destroy_something_is_refused(refused_line, tmp_path, model, command, kind):
    dicom_head(tmp_path / "dicom", slices=2)
    labels = labelled_images(tmp_path / "images", 2)
    truth, found = dump(tmp_path / "truth.json", labels), dump(tmp_path / "found.json", [])
    thesis = dump(tmp_path / "documents" / "thesis.txt", "precious")
    out = {"file": thesis, "foreign folder": thesis.parent, "below a file": thesis / "out"}[kind]
    arguments = {
        "phantom": [out, "--profile", "smoke"],
        "import": ["dicom", tmp_path / "dicom", out, *SMOKE],
        "train": ["ssd300", "--out", out, "--data", tmp_path / "images", *SMOKE],
        "detect": [tmp_path / "images", "--model", model, "--out", out],
        "export": ["--model", model, "--out", out],
        "evaluate": [truth, found, "--out", out],
    }[command]
    assert str(out) in refused_line(command, *arguments)


def test_a_profile_replaces_no_folder(refused_line, tmp_path):
    assert f"{tmp_path}: " in refused_line("profile", "smoke", "--out", tmp_path)


@pytest.mark.parametrize("name", ["metrics.json", "report.html"])
def test_an_evaluation_does_not_replace_the_folder_that_its_input_lies_in(refused_line, tmp_path, name):
    """As results/VARIANT of the pipeline, which holds metrics.json and detections.json."""
    truth = dump(tmp_path / "truth.json", labelled_images(tmp_path / "in", 2))
    dump(tmp_path / "ssd300" / name, {})
    found = dump(tmp_path / "ssd300" / "detections.json", [])
    assert "ssd300: holds" in refused_line("evaluate", truth, found, "--out", tmp_path / "ssd300")


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
