"""No stale results: a changed metric changes those of the study at the next `dvc repro`, and repeats no training."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline_world import copy_pipelines
from study_world import study_params, study_patients

from cmbfe import paths
from cmbfe.files import read_json
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


def test_a_changed_metric_changes_the_studys_results_and_repeats_no_training(tmp_path):
    copy_pipelines(tmp_path)
    params = study_params({"ssd300": {}})
    save_params(params, tmp_path / "params.yaml")
    study_patients(tmp_path)
    run_arm("ssd300", params, tmp_path, progress=False)
    dvc(tmp_path, "commit", "--force", TRAIN, TEST)  # what `run_arm` has made is what these stages make
    file = paths.study_result("ssd300", tmp_path) / "fe-1.json"
    before = read_json(file)
    for module, edit in (("metrics/curves.py", HALVED), ("figures/style.py", "# a new look\n")):
        with (tmp_path / "cmbfe" / module).open("a") as code:
            code.write(edit)
    said = dvc(tmp_path, "repro", "--single-item", TRAIN, TEST)
    assert re.findall(r"Running stage '([^']+)'", said) == [TEST]
    after = read_json(file)
    assert after["ap"] == pytest.approx(0.5 * before["ap"])
    assert {key: after[key] for key in ("hits", "cmbs")} == {key: before[key] for key in ("hits", "cmbs")}
