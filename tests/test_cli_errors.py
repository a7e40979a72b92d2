"""Bad input on the command line: one line that names the file and the reason, exit status 2, and no files."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dicom_series import uid
from pydicom import dcmread
from tiny_world import BOX, dicom_head, dicom_labels, labelled_images, save_tiny_model, tree

from cmbfe.data.labelled.labels import LABELS_FILE
from cmbfe.params import profile_file


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "ssd300")


@pytest.fixture
def refused(run_cmbfe, tmp_path) -> Callable[..., str]:
    """Run a command that must end with status 2, one line on stderr, none on stdout, and no change on disk."""

    def refused_line(*arguments: object) -> str:
        before = tree(tmp_path)
        status, out, err = run_cmbfe(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), f"{status}\n{out}\n{err}"
        assert err.startswith("cmbfe: error: ")
        assert tree(tmp_path) == before
        return err

    return refused_line


def dump(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def truncated(folder: Path) -> None:
    file = folder / "002.dcm"
    file.write_bytes(file.read_bytes()[:-50])


def another_at_one_position(folder: Path) -> None:
    series = dcmread(folder / "000.dcm").SeriesInstanceUID
    dicom_head(folder / "copy", slices=1, SOPInstanceUID=uid("other"), SeriesInstanceUID=series)


SPOILED_DICOM = {
    "truncated file": (truncated, r"002.dcm: truncated"),
    "text named .dcm": (lambda folder: (folder / "notes.dcm").write_text("notes"), "notes.dcm: not a DICOM file"),
    "missing slice": (lambda folder: (folder / "001.dcm").unlink(), "000.dcm: slice missing"),
    "two slices at one position": (another_at_one_position, "two slices at one position"),
    "empty folder": (lambda folder: [file.unlink() for file in folder.iterdir()], "in: the folder is empty"),
    "no such folder": (shutil.rmtree, "in: no such file or folder"),
}


@pytest.mark.parametrize("case", SPOILED_DICOM)
@pytest.mark.parametrize("command", ["import", "detect"])
def test_bad_dicom_is_named_in_one_line(refused, tmp_path, model, command, case):
    spoil, reason = SPOILED_DICOM[case]
    dicom_head(tmp_path / "in")
    spoil(tmp_path / "in")
    out = tmp_path / "deep" / "out"
    line = {
        "import": lambda: refused("import", "dicom", tmp_path / "in", out),
        "detect": lambda: refused("detect", tmp_path / "in", "--model", model, "--out", out),
    }[command]()
    assert reason in line


def test_the_installed_command_writes_one_line_to_stderr_and_exits_with_2(tmp_path):
    dicom_head(tmp_path / "in")
    truncated(tmp_path / "in")
    before = tree(tmp_path)
    command = [Path(sys.executable).with_name("cmbfe"), "import", "dicom", tmp_path / "in", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "002.dcm: truncated" in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [1, 2, 0, 4]}, "annotation 1: the box [1, 2, 0, 4] has zero width"),
        ({"image_id": 99}, "annotation 1: image_id: 99 is the id of no image"),
    ],
)
def test_bad_labels_are_named_in_one_line(refused, tmp_path, change, reason):
    labels = dicom_labels(dicom_head(tmp_path / "in"))
    labels["annotations"][0].update(change)
    file = dump(tmp_path / "in" / LABELS_FILE, labels)
    found = dump(tmp_path / "found.json", [])
    out = tmp_path / "deep" / "out"
    for arguments in (
        ["import", "dicom", tmp_path / "in", out],
        ["evaluate", file, found, "--out", out],
        ["train", "ssd300", "--data", tmp_path / "in", "--params", profile_file("smoke"), "--out", out],
    ):
        assert f"{file}: {reason}" in refused(*arguments)


def test_a_image_that_cannot_be_read_is_named_in_one_line(refused, tmp_path, model):
    labelled_images(tmp_path / "in", 3)
    (tmp_path / "in" / "P2" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n nonsense")
    out = tmp_path / "deep" / "out"
    for arguments in (
        ["detect", tmp_path / "in", "--model", model, "--out", out],
        ["train", "ssd300", "--data", tmp_path / "in", "--params", profile_file("smoke"), "--out", out],
    ):
        assert "000.png: not a readable image" in refused(*arguments)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda truth, found: truth.unlink(), "truth.json: no such file"),
        (lambda truth, found: found.unlink(), "found.json: no such file"),
        (lambda truth, found: found.write_text("{"), "found.json: not JSON: line 1"),
        (lambda truth, found: found.write_text("{}"), "found.json: not a COCO results file"),
        (
            lambda truth, found: dump(found, [{"image_id": 99, "category_id": 1, "bbox": BOX, "score": 1}]),
            "99 is the id",
        ),
    ],
)
def test_files_that_cannot_be_evaluated_are_named_in_one_line(refused, tmp_path, spoil, reason):
    truth = dump(tmp_path / "truth.json", labelled_images(tmp_path / "in", 2))
    found = dump(tmp_path / "found.json", [])
    spoil(truth, found)
    assert reason in refused("evaluate", truth, found, "--out", tmp_path / "deep" / "out")


def test_a_split_that_does_not_exist_is_named_with_those_that_do(refused, tmp_path):
    truth = dump(tmp_path / "truth.json", labelled_images(tmp_path / "in", 2))
    found = dump(tmp_path / "found.json", [])
    line = refused("evaluate", truth, found, "--split", "tset", "--out", tmp_path / "out")
    assert "no image of the labels is in split 'tset'; there are: train" in line


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shutil.rmtree, "model/params.yaml: "),
        (lambda folder: (folder / "params.yaml").unlink(), "model/params.yaml: "),
        (lambda folder: (folder / "config.json").unlink(), "model/config.json: no such file"),
        (lambda folder: (folder / "config.json").write_text('{"variant": "ssd9"}'), "config.json: variant 'ssd9'"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model/model.safetensors: no such file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), "model.safetensors: cannot be read"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-9]
            ),
            "model.safetensors: cannot be read",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named_in_one_line(refused, tmp_path, model, spoil, reason):
    shutil.copytree(model, tmp_path / "model")
    spoil(tmp_path / "model")
    dicom_head(tmp_path / "in", slices=1)
    line = refused("detect", tmp_path / "in", "--model", tmp_path / "model", "--out", tmp_path / "deep" / "out")
    assert reason in line


def test_an_unknown_variant_is_refused_with_those_there_are(refused, tmp_path):
    labelled_images(tmp_path / "in", 2)
    arguments = ["--params", profile_file("smoke"), "--data", tmp_path / "in", "--out", tmp_path / "out"]
    for variant in ("ssd1024", "ssd300-fe-fe", ""):
        assert f"no variant named {variant!r}; there are: " in refused("train", variant, *arguments)


def test_settings_that_cannot_be_read_are_named_in_one_line(refused, tmp_path):
    settings = yaml.safe_load(profile_file("smoke").read_text())
    settings["training"]["momentum"] = 0.1
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(settings))
    dicom_head(tmp_path / "in", slices=1)
    for arguments in (
        ["import", "dicom", tmp_path / "in", tmp_path / "out", "--params", params],
        ["train", "ssd300", "--out", tmp_path / "out", "--params", params],
    ):
        assert f"{params}: training.momentum: unknown key" in refused(*arguments)
    assert "absent.yaml: cannot be read" in refused(
        "train", "ssd300", "--out", tmp_path / "out", "--params", tmp_path / "absent.yaml"
    )


def test_cohorts_and_profiles_that_cannot_be_are_refused(refused, tmp_path):
    assert "2 patients cannot fill 3 splits" in refused("phantom", tmp_path / "out", "--patients", "2")
    assert "0 patients cannot fill 3 splits" in refused("phantom", tmp_path / "out", "--patients", "0", "--dry-run")
    assert "--jobs 0" in refused("phantom", tmp_path / "out", "--jobs", "0")
    assert "backend threads: " in refused("phantom", tmp_path / "out", "--backend", "threads")
    assert "no profile named 'huge'" in refused("phantom", tmp_path / "out", "--profile", "huge")
    assert "no profile named 'huge'" in refused("profile", "huge", "--out", tmp_path / "params.yaml")


@pytest.mark.parametrize("kind", ["file", "foreign folder", "below a file"])
@pytest.mark.parametrize("command", ["phantom", "import", "train", "detect", "export", "evaluate"])
def test_an_output_that_would_destroy_something_is_refused(refused, tmp_path, model, command, kind):
    dicom_head(tmp_path / "dicom", slices=2)
    labels = labelled_images(tmp_path / "pictures", 2)
    truth, found = dump(tmp_path / "truth.json", labels), dump(tmp_path / "found.json", [])
    thesis = dump(tmp_path / "documents" / "thesis.txt", "precious")
    out = {"file": thesis, "foreign folder": thesis.parent, "below a file": thesis / "out"}[kind]
    params = ["--params", profile_file("smoke")]
    arguments = {
        "phantom": [out, "--profile", "smoke"],
        "import": ["dicom", tmp_path / "dicom", out, *params],
        "train": ["ssd300", "--out", out, "--data", tmp_path / "pictures", *params],
        "detect": [tmp_path / "pictures", "--model", model, "--out", out],
        "export": ["--model", model, "--out", out],
        "evaluate": [truth, found, "--out", out],
    }[command]
    assert str(out) in refused(command, *arguments)


def test_a_profile_does_not_replace_a_folder(refused, tmp_path):
    (tmp_path / "params.yaml").mkdir()
    assert f"{tmp_path / 'params.yaml'}: " in refused("profile", "smoke", "--out", tmp_path / "params.yaml")


def test_an_evaluation_does_not_replace_the_folder_that_its_input_lies_in(refused, tmp_path):
    """As results/VARIANT of the pipeline, which holds metrics.json and detections.json."""
    truth = dump(tmp_path / "truth.json", labelled_images(tmp_path / "in", 2))
    for name in ("metrics.json", "report.html"):
        dump(tmp_path / "ssd300" / name, {})
        found = dump(tmp_path / "ssd300" / "detections.json", [])
        assert "ssd300: holds" in refused("evaluate", truth, found, "--out", tmp_path / "ssd300")


def test_a_cross_validation_that_cannot_be_is_refused(refused, tmp_path):
    labels = labelled_images(tmp_path / "pictures", 3)
    for number, image in enumerate(labels["images"]):
        image["patient_id"] = f"P{number}"
    dump(tmp_path / "pictures" / LABELS_FILE, labels)
    mimics = dump(tmp_path / "pictures" / "mimics.json", {**labels, "annotations": []})
    thesis = dump(tmp_path / "documents" / "thesis.txt", "precious")
    options = ["crossval", "--params", profile_file("smoke"), "--pictures", tmp_path / "pictures"]
    assert "--jobs 0" in refused(*options, "--jobs", "0")
    assert "backend threads: " in refused(*options, "--backend", "threads", "--out", tmp_path / "out")
    assert "absent/annotations.json: no such file" in refused(*options, "--pictures", tmp_path / "absent")
    assert str(thesis) in refused(*options, "--out", thesis)
    paper = ["--params", profile_file("paper"), "--out", tmp_path / "out"]
    assert "10 folds of 3 patients" in refused(*options, *paper)
    mimics.unlink()
    assert "mimics.json: no such file" in refused(*options, "--out", tmp_path / "out")
