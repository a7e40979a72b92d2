"""The command line: each command explains itself and passes on what it is given."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_world import dicom_head, dicom_labels, save_tiny_model, tiny_params
from typer.main import get_command

from cmbfe.cli import commands
from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.evaluation import evaluate
from cmbfe.params import load_params, profile_file, save_params

COMMANDS = get_command(commands.app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_its_own_parser_takes(run_cmbfe, name):
    status, out, _ = run_cmbfe(name, "--help")
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
    expected = {"profile", "phantom", "import", "train", "detect", "export", "evaluate", "crossval", "study"}
    expected |= {"objects", "objects-study", "phase", "baseline", "others"}
    assert set(COMMANDS) == expected
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["phantom", "OUT", "--patients", "many"],
        ["phantom", "OUT", "--seed", "-1"],
        ["import", "nrrd", "SRC", "OUT"],
        ["import", "dicom", "SRC"],
        ["train", "ssd300"],
        ["detect", "SRC", "--model", "M", "--out", "OUT", "--threshold", "2"],
        ["detect", "SRC", "--out", "OUT"],
        ["export", "--model", "M"],
        ["evaluate", "T.json", "D.json", "--out", "OUT", "--iou", "1.5"],
        ["evaluate", "T.json", "D.json", "--out", "OUT", "--threshold", "low"],
        ["objects", "OUT"],
        ["profile"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_explained_and_ends_with_status_2(run_cmbfe, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run_cmbfe(*arguments)
    assert (status, out) == (2, "")
    assert "Usage: " in err
    assert not list(tmp_path.iterdir())


def test_a_profile_is_written(run_cmbfe, tmp_path):
    status, out, _ = run_cmbfe("profile", "smoke", "--out", tmp_path / "deep" / "params.yaml")
    assert (status, out) == (0, f"wrote {tmp_path / 'deep' / 'params.yaml'}\n")
    assert load_params(tmp_path / "deep" / "params.yaml").profile == "smoke"


def test_import_train_detect_and_evaluate_go_on_from_each_others_files(run_cmbfe, tmp_path):
    """Each command's output is the next one's input."""
    images = dicom_head(tmp_path / "raw")
    (tmp_path / "raw" / LABELS_FILE).write_text(json.dumps(dicom_labels(images, split="test")))
    save_params(tiny_params(iterations=2, milestones=(), batch=1), tmp_path / "params.yaml")
    params = ["--params", tmp_path / "params.yaml"]
    pixels, found, out = (tmp_path / name for name in ("pictures", "found", "out"))
    threads = ["--backend", "threading"]  # new processes would take seconds to start
    status, said, _ = run_cmbfe("import", "dicom", tmp_path / "raw", pixels, *params, *threads)
    assert (status, said.splitlines()[-1]) == (0, f"{pixels}: 4 images, 1 microbleed boxes")
    status, said, _ = run_cmbfe("train", "ssd300", "--out", tmp_path / "model", "--data", pixels, *params)
    assert (status, said.splitlines()[-1]) == (0, f"{tmp_path / 'model'}: ssd300 after 2 iterations")
    status, said, _ = run_cmbfe("detect", pixels, "--model", tmp_path / "model", "--out", found)
    assert status == 0
    assert said.startswith(f"{found}: {len(json.loads((found / 'detections.json').read_text()))} detections")
    truth = pixels / LABELS_FILE
    assert [image["id"] for image in read_labels(truth)["images"]] == [1, 2, 3, 4]
    assert run_cmbfe("evaluate", truth, found / "detections.json", "--out", out)[0] == 0
    assert {"metrics.json", "pr.csv", "froc.csv"} <= {path.name for path in out.iterdir()}


def test_detect_takes_the_threshold_of_validation_and_names_what_it_leaves_out(run_cmbfe, tmp_path):
    dicom_head(tmp_path / "in" / "a", "A", slices=1)
    dicom_head(tmp_path / "in" / "b", "B", slices=1, BurnedInAnnotation="YES")
    model = save_tiny_model(tmp_path / "model")
    (tmp_path / "points.csv").write_text("variant,threshold\nssd300-fe,0.9\n")
    point = ["--operating-point", tmp_path / "points.csv"]
    arguments = ["detect", tmp_path / "in", "--model", model, "--out", tmp_path / "found"]
    status, said, err = run_cmbfe(*arguments, *point)
    assert status == 0
    assert "with a score of at least 0.9, which make" in said
    assert said.endswith("; 1 series left out\n")
    assert "cmbfe: left out: " in err
    assert "000.dcm: BurnedInAnnotation (0028,0301) is YES" in err
    status, said, err = run_cmbfe(*arguments, *point, "--threshold", 0.5)
    assert (status, said) == (2, "")
    assert "two thresholds; give one" in err


def test_phantom_takes_number_seed_and_size(run_cmbfe, tmp_path, monkeypatch):
    from cmbfe.phantom import writing

    seen: list[tuple] = []
    parallel: list[dict] = []
    empty = {"images": [], "annotations": [], "categories": []}

    def spy(*arguments: object, **options: object) -> dict:
        seen.append(arguments)
        parallel.append(options)
        return empty

    monkeypatch.setattr(writing, "write_cohort", spy)
    assert run_cmbfe("phantom", tmp_path / "a", "--patients", 58, "--seed", 3, "--profile", "smoke")[0] == 0
    options = ["--profile", "smoke", "--jobs", 3, "--backend", "threading"]
    assert run_cmbfe("phantom", tmp_path / "a", *options)[0] == 0
    assert parallel == [{"jobs": -1, "backend": "loky"}, {"jobs": 3, "backend": "threading"}]
    smoke = load_params(profile_file("smoke"))
    assert seen[0][0] == tmp_path / "a"
    assert seen[0][1].patients.model_dump() == {"train": 33, "test": 17, "validation": 8}
    assert (seen[0][1].matrix_px, seen[0][2]) == (smoke.phantom.matrix_px, 3)
    assert seen[1][1:] == (smoke.phantom, smoke.seed)


def test_a_dry_run_prints_table_1_writes_nothing_and_loads_no_torch(tmp_path):
    code = f"import sys; sys.argv[1:] = ['phantom', {str(tmp_path / 'out')!r}, '--profile', 'paper', '--dry-run'];"
    code += "from cmbfe.cli.commands import app; app(standalone_mode=False); sys.exit(int('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ["total", "58", "6613", "723", "1301"] in [line.split() for line in done.stdout.splitlines()]
    assert not list(tmp_path.iterdir())


def test_every_option_of_evaluate_reaches_the_library(run_cmbfe, tmp_path, monkeypatch):
    seen: list[tuple] = []

    def spy(*arguments: object, **options: object) -> dict:
        seen.append((arguments, options))
        return {"ap": 0.5}

    monkeypatch.setattr(evaluate, "evaluate_files", spy)
    options = ["--against", "b.json", "--split", "test", "--mimics", "m.json", "--threshold", "0.3", "--iou", "0.4"]
    status, out, _ = run_cmbfe("evaluate", "t.json", "a.json", "--out", tmp_path / "out", *options, "--seed", "5")
    assert status == 0
    assert "AP 0.500" in out
    files = tuple(Path(name) for name in ("t.json", "a.json", tmp_path / "out", "b.json"))
    given = {"split": "test", "mimics": Path("m.json"), "threshold": 0.3, "iou": 0.4, "seed": 5}
    assert seen == [(files, given)]


def test_detect_never_costs_its_own_model_or_threshold(run_cmbfe, tmp_path):
    dicom_head(tmp_path / "in")
    out = tmp_path / "out"
    model = save_tiny_model(out / "model")
    (out / "images.json").touch()  # as an earlier result of detect
    point = out / "metrics.json"
    point.write_text('{"threshold": 0.5}')
    for options in (["--model", model], ["--model", save_tiny_model(tmp_path / "m"), "--operating-point", point]):
        status, _, err = run_cmbfe("detect", tmp_path / "in", "--out", out, *options)
        assert status == 2
        assert f"{out}: holds {options[-1]}, which would be lost" in err
    assert point.is_file()
    assert (model / "config.json").is_file()


@pytest.mark.parametrize("spoil", ["nan", "params", "config"])
def test_a_spoilt_model_is_one_line(run_cmbfe, tmp_path, spoil):
    dicom_head(tmp_path / "in")
    model = save_tiny_model(tmp_path / "model")
    if spoil == "nan":
        weights = load_file(model / "model.safetensors")
        weights[next(iter(weights))].view(-1)[0] = float("nan")
        with safe_open(model / "model.safetensors", "pt") as opened:
            save_file(weights, model / "model.safetensors", opened.metadata())
    else:
        file = model / {"params": "params.yaml", "config": "config.json"}[spoil]
        file.write_text("[" * 100_000)
    status, said, err = run_cmbfe("detect", tmp_path / "in", "--model", model, "--out", tmp_path / "out")
    assert (status, said, err.count("\n")) == (2, "", 1)
    assert f"{model}" in err
    assert not (tmp_path / "out").exists()
