"""The command line: each command explains itself; bad input gives one line, exit status 2 and no files."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
import yaml
from dicom_series import uid
from pydicom import dcmread
from tiny_world import BOX, dicom_head, dicom_labels, labelled_pictures, save_tiny_model, tiny_params, tree
from typer.main import get_command

from cmbfe import cli, evaluate
from cmbfe.data.labels import LABELS_FILE, read_labels
from cmbfe.params import load_params, profile_file, save_params

COMMANDS = get_command(cli.app).commands
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "ssd300")


@pytest.fixture
def run(monkeypatch, capsys) -> Run:
    """Run the command line in this process: exit status, stdout, stderr."""

    def run_it(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cmbfe", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run_it


@pytest.fixture
def refused(run, tmp_path) -> Callable[..., str]:
    """Run a command that must end with status 2, one line on stderr, none on stdout, and no change on disk."""

    def refused_line(*arguments: object) -> str:
        before = tree(tmp_path)
        status, out, err = run(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), f"{status}\n{out}\n{err}"
        assert err.startswith("cmbfe: error: ")
        assert tree(tmp_path) == before
        return err

    return refused_line


def dump(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


# --- help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_its_own_parser_takes(run, name):
    status, out, _ = run(name, "--help")
    assert status == 0
    assert f"Example: cmbfe {name}" in out
    example = next(line for line in COMMANDS[name].help.splitlines() if line.strip().startswith("Example: "))
    arguments = shlex.split(example)[3:]
    assert COMMANDS[name].make_context(name, arguments).params


def test_help_lists_every_command_and_loads_no_torch():
    code = "import sys; from cmbfe import cli; sys.argv[1:] = ['--help']\ntry: cli.main()\n"
    code += "except SystemExit as end: sys.exit(int('torch' in sys.modules) or end.code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert set(COMMANDS) == {"profile", "phantom", "import", "train", "detect", "evaluate"}
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["phantom", "OUT", "--patients", "many"],
        ["phantom", "OUT", "--seed", "-1"],
        ["import", "nifti", "SRC", "OUT"],
        ["import", "dicom", "SRC"],
        ["train", "ssd300"],
        ["detect", "SRC", "--model", "M", "--out", "OUT", "--threshold", "2"],
        ["detect", "SRC", "--out", "OUT"],
        ["evaluate", "T.json", "D.json", "--out", "OUT", "--iou", "1.5"],
        ["evaluate", "T.json", "D.json", "--out", "OUT", "--threshold", "low"],
        ["profile"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_explained_and_ends_with_status_2(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "Usage: " in err
    assert not list(tmp_path.iterdir())


# --- commands that succeed


def test_a_profile_is_written(run, tmp_path):
    status, out, _ = run("profile", "smoke", "--out", tmp_path / "deep" / "params.yaml")
    assert (status, out) == (0, f"wrote {tmp_path / 'deep' / 'params.yaml'}\n")
    assert load_params(tmp_path / "deep" / "params.yaml").profile == "smoke"


def test_import_train_detect_and_evaluate_go_on_from_each_others_files(run, tmp_path):
    """Each command's output is the next one's input."""
    images = dicom_head(tmp_path / "raw")
    dump(tmp_path / "raw" / LABELS_FILE, dicom_labels(images, split="test"))
    save_params(tiny_params(iterations=2, milestones=(), batch=1), tmp_path / "params.yaml")
    params = ["--params", tmp_path / "params.yaml"]
    pictures, found, out = (tmp_path / name for name in ("pictures", "found", "out"))
    with joblib.parallel_config("threading"):  # new processes would take seconds to start
        status, said, _ = run("import", "dicom", tmp_path / "raw", pictures, *params)
    assert (status, said) == (0, f"{pictures}: 4 pictures, 1 microbleed boxes\n")
    status, said, _ = run("train", "ssd300", "--out", tmp_path / "model", "--data", pictures, *params)
    assert (status, said.splitlines()[-1]) == (0, f"{tmp_path / 'model'}: ssd300 after 2 iterations")
    status, said, _ = run("detect", tmp_path / "raw", "--model", tmp_path / "model", "--out", found)
    assert status == 0
    assert said.startswith(f"{found}: {len(json.loads((found / 'detections.json').read_text()))} detections")
    truth = pictures / LABELS_FILE
    assert [image["id"] for image in read_labels(truth)["images"]] == [1, 2, 3, 4]
    assert run("evaluate", truth, found / "detections.json", "--out", out)[0] == 0
    assert {"metrics.json", "pr.csv", "froc.csv"} <= {path.name for path in out.iterdir()}


def test_phantom_takes_number_seed_and_size(run, tmp_path, monkeypatch):
    from cmbfe.data import phantom

    seen: list[tuple] = []
    parallel: list[dict] = []
    empty = {"images": [], "annotations": [], "categories": []}

    def spy(*arguments: object, **options: object) -> dict:
        seen.append(arguments)
        parallel.append(options)
        return empty

    monkeypatch.setattr(phantom, "write_cohort", spy)
    assert run("phantom", tmp_path / "a", "--patients", 58, "--seed", 3, "--profile", "smoke")[0] == 0
    assert run("phantom", tmp_path / "a", "--profile", "smoke", "--jobs", 3, "--backend", "threading")[0] == 0
    assert parallel == [{"jobs": -1, "backend": "loky"}, {"jobs": 3, "backend": "threading"}]
    smoke = load_params(profile_file("smoke"))
    assert seen[0][0] == tmp_path / "a"
    assert seen[0][1].patients.model_dump() == {"train": 33, "test": 17, "validation": 8}
    assert (seen[0][1].matrix_px, seen[0][2]) == (smoke.phantom.matrix_px, 3)
    assert seen[1][1:] == (smoke.phantom, smoke.seed)


def test_a_dry_run_prints_table_1_writes_nothing_and_loads_no_torch(tmp_path):
    code = f"import sys; sys.argv[1:] = ['phantom', {str(tmp_path / 'out')!r}, '--profile', 'paper', '--dry-run'];"
    code += "from cmbfe.cli import app; app(standalone_mode=False); sys.exit(int('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ["total", "58", "6613", "723", "1301"] in [line.split() for line in done.stdout.splitlines()]
    assert not list(tmp_path.iterdir())


def test_every_option_of_evaluate_reaches_the_library(run, tmp_path, monkeypatch):
    seen: list[tuple] = []

    def spy(*arguments: object, **options: object) -> dict:
        seen.append((arguments, options))
        return {"ap": 0.5}

    monkeypatch.setattr(evaluate, "evaluate_files", spy)
    options = ["--against", "b.json", "--split", "test", "--mimics", "m.json", "--threshold", "0.3", "--iou", "0.4"]
    status, out, _ = run("evaluate", "t.json", "a.json", "--out", tmp_path / "out", *options, "--seed", "5")
    assert status == 0
    assert "AP 0.500" in out
    files = tuple(Path(name) for name in ("t.json", "a.json", tmp_path / "out", "b.json"))
    given = {"split": "test", "mimics": Path("m.json"), "threshold": 0.3, "iou": 0.4, "seed": 5}
    assert seen == [(files, given)]


# --- DICOM that is wrong


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


# --- labels that are wrong


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [1, 2, 0, 4]}, "annotation 1: the box [1, 2, 0, 4] has zero width"),
        ({"image_id": 99}, "annotation 1: image_id: 99 is the id of no picture"),
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


def test_a_picture_that_cannot_be_read_is_named_in_one_line(refused, tmp_path, model):
    labelled_pictures(tmp_path / "in", 3)
    (tmp_path / "in" / "P2" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n nonsense")
    out = tmp_path / "deep" / "out"
    for arguments in (
        ["detect", tmp_path / "in", "--model", model, "--out", out],
        ["train", "ssd300", "--data", tmp_path / "in", "--params", profile_file("smoke"), "--out", out],
    ):
        assert "000.png: not a readable picture" in refused(*arguments)


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
    truth = dump(tmp_path / "truth.json", labelled_pictures(tmp_path / "in", 2))
    found = dump(tmp_path / "found.json", [])
    spoil(truth, found)
    assert reason in refused("evaluate", truth, found, "--out", tmp_path / "deep" / "out")


def test_a_split_that_does_not_exist_is_named_with_those_that_do(refused, tmp_path):
    truth = dump(tmp_path / "truth.json", labelled_pictures(tmp_path / "in", 2))
    found = dump(tmp_path / "found.json", [])
    line = refused("evaluate", truth, found, "--split", "tset", "--out", tmp_path / "out")
    assert "no picture of the labels is in split 'tset'; there are: train" in line


# --- models that are wrong


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


# --- settings that are wrong


def test_an_unknown_variant_is_refused_with_those_there_are(refused, tmp_path):
    labelled_pictures(tmp_path / "in", 2)
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


# --- outputs that are wrong


@pytest.mark.parametrize("kind", ["file", "foreign folder", "below a file"])
@pytest.mark.parametrize("command", ["phantom", "import", "train", "detect", "evaluate"])
def test_an_output_that_would_destroy_something_is_refused(refused, tmp_path, model, command, kind):
    dicom_head(tmp_path / "dicom", slices=2)
    labels = labelled_pictures(tmp_path / "pictures", 2)
    truth, found = dump(tmp_path / "truth.json", labels), dump(tmp_path / "found.json", [])
    thesis = dump(tmp_path / "documents" / "thesis.txt", "precious")
    out = {"file": thesis, "foreign folder": thesis.parent, "below a file": thesis / "out"}[kind]
    params = ["--params", profile_file("smoke")]
    arguments = {
        "phantom": [out, "--profile", "smoke"],
        "import": ["dicom", tmp_path / "dicom", out, *params],
        "train": ["ssd300", "--out", out, "--data", tmp_path / "pictures", *params],
        "detect": [tmp_path / "pictures", "--model", model, "--out", out],
        "evaluate": [truth, found, "--out", out],
    }[command]
    assert str(out) in refused(command, *arguments)


def test_a_profile_does_not_replace_a_folder(refused, tmp_path):
    (tmp_path / "params.yaml").mkdir()
    assert f"{tmp_path / 'params.yaml'}: " in refused("profile", "smoke", "--out", tmp_path / "params.yaml")


def test_an_evaluation_does_not_replace_the_folder_that_its_input_lies_in(refused, tmp_path):
    """As results/VARIANT of the pipeline, which holds metrics.json and detections.json."""
    truth = dump(tmp_path / "truth.json", labelled_pictures(tmp_path / "in", 2))
    for name in ("metrics.json", "report.html"):
        dump(tmp_path / "ssd300" / name, {})
        found = dump(tmp_path / "ssd300" / "detections.json", [])
        assert "ssd300: holds" in refused("evaluate", truth, found, "--out", tmp_path / "ssd300")
