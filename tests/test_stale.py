"""No stale results: a changed metric changes results at the next `dvc repro`, and repeats no training of the study."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pipeline_world import copy_pipelines
from study_world import study_params, study_patients, write_patients
from tiny_world import BOX

from cmbfe import paths
from cmbfe.data.labelled.detections import DETECTIONS_FILE
from cmbfe.data.labelled.labels import read_labels
from cmbfe.files import read_json, write_json
from cmbfe.params import save_params
from cmbfe.studies.trials.running import run_arm

HALVED = """

_average_precision = average_precision


def average_precision(*arguments, **options):
    return 0.5 * _average_precision(*arguments, **options)
"""
"""Appended to a module, it halves the AP wherever that is computed."""
TRAIN, TEST = "studies/dvc.yaml:train@ssd300", "studies/dvc.yaml:test@ssd300"

pytestmark = pytest.mark.pipeline


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC in a workspace whose own copy of cmbfe is imported."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(folder), "PATH": path}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def repro(folder: Path, *stages: str) -> None:
    dvc(folder, "repro", "--single-item", *stages)


def would_run(folder: Path, *stages: str) -> list[str]:
    """Which of these stages would run now."""
    return re.findall(r"Running stage '([^']+)'", dvc(folder, "repro", "--single-item", "--dry", *stages))


@pytest.fixture
def scratch(tmp_path) -> Path:
    """A workspace with code and pipelines of its own, and the patients and a trained arm of a tiny study."""
    copy_pipelines(tmp_path)
    save_params(study_params({"ssd300": {}}), tmp_path / "params.yaml")
    return tmp_path


def test_a_changed_metric_changes_the_studys_results_and_repeats_no_training(scratch):
    study_patients(scratch)
    run_arm("ssd300", study_params({"ssd300": {}}), scratch, progress=False)
    dvc(scratch, "commit", "--force", TRAIN, TEST)  # what `run_arm` has made is what these stages make
    file = paths.study_result("ssd300", scratch) / "fe-1.json"
    before = read_json(file)
    with (scratch / "cmbfe" / "metrics" / "curves.py").open("a") as code:
        code.write(HALVED)
    with (scratch / "cmbfe" / "figures" / "style.py").open("a") as code:
        code.write("# a new look\n")
    assert would_run(scratch, TRAIN, TEST) == [TEST]
    repro(scratch, TEST)
    after = read_json(file)
    assert after["ap"] == pytest.approx(0.5 * before["ap"])
    assert {key: after[key] for key in ("hits", "cmbs")} == {key: before[key] for key in ("hits", "cmbs")}
    with (scratch / "cmbfe" / "detector" / "fe.py").open("a") as code:
        code.write("# another layer\n")
    assert would_run(scratch, TRAIN) == [TRAIN]


def test_a_changed_metric_changes_the_tables_of_the_main_pipeline(scratch):
    images = paths.images(scratch)
    write_patients(images, ["test"] * 4 + ["validation"])
    hits = [
        {"image_id": box["image_id"], "category_id": 1, "bbox": BOX, "score": 0.9}
        for box in read_labels(images / "annotations.json")["annotations"][:3]
    ]
    for number, variant in enumerate(("ssd512", "ssd512-fe", "ssd300", "ssd300-fe")):
        write_json(scratch / "results" / variant / DETECTIONS_FILE, hits[: 3 - number % 2])
    repro(scratch, "froc")
    table = paths.table("table2", scratch)
    before = pd.read_csv(table, index_col="variant")["our_ap"]
    assert before["ssd512"] == pytest.approx(0.75)  # three of four microbleeds, and nothing else
    with (scratch / "cmbfe" / "metrics" / "curves.py").open("a") as code:
        code.write(HALVED)
    repro(scratch, "froc")
    after = pd.read_csv(table, index_col="variant")["our_ap"]
    pd.testing.assert_series_equal(after, 0.5 * before, atol=1e-4)
