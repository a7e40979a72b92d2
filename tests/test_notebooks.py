"""Every notebook runs from top to bottom by nbval, in the smoke profile, in a scratch workspace."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_pipeline import notebook_of, stages, written

from cmbfe.baselines import Baseline
from cmbfe.params import PHANTOM, load_params

ROOT = Path(__file__).resolve().parent.parent
LAST = "paper_map"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"), key=lambda path: (path.stem == LAST, path.stem))
"""In an order in which each finds what it reads; the map reads what the others have written."""
OWN_DATA = "own_data"
ORDER = ["01_data", OWN_DATA]
NOTEBOOKS.sort(key=lambda path: ORDER.index(path.stem) if path.stem in ORDER else len(ORDER))
TRAINING = "03_training"
TRAIN_ALL = """
from cmbfe import paths
from cmbfe.evaluation.trained import measure
from cmbfe.params import load_params
from cmbfe.training.loop import train

params = load_params(paths.params_file())
for name in params.variants:
    live = paths.result(name) / "live"
    train(name, params, paths.augmented(), paths.model(name), False, paths.images(), live)
    measure(name, params)
"""
"""What the stages `train` and `test` do, in one process."""
BEFORE = {
    "phantom": [["describe", "data/pictures", "--slice-mm", "2", "--out", "results/tables/patients.csv"]],
    "09_baselines": [["baseline", name, "--out", f"results/{name}"] for name in Baseline],
    "10_crossvalidation": [["study", "crossvalidation", "--jobs", "1"]],
    "11_ablation": [["study", "patients", "ssd300", "placement-source", "phase", "--jobs", "1"]],
    "12_other_detectors": [["study", "ssdlite-small", "--jobs", "1"]],
}
"""The commands that make what a notebook reads."""
SMALLER = {
    "params.yaml": {"iterations: 5": "iterations: 2", "milestones: [3, 4]": "milestones: [1]"},
    "notebooks/05_backbones.ipynb": {"batch = 8": "batch = 2", "rounds = 5": "rounds = 2"},
    "notebooks/phantom.ipynb": {"patients = 3": "patients = 1"},
}
"""Sizes in the smoke profile and in notebooks, in full and as here: that all of it runs is what these tests see."""

pytestmark = pytest.mark.pipeline


def run(command: list[str], folder: Path) -> None:
    """In one process: each of joblib's would import all libraries and derive the phantom's template anew."""
    whole, environment = [sys.executable, "-m", *command], os.environ | {"LOKY_MAX_CPU_COUNT": "1"}
    done = subprocess.run(whole, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def smoke(workspace: Path) -> Path:
    shutil.copy(ROOT / "cmbfe" / "profiles" / "smoke.yaml", workspace / "params.yaml")
    for name, changes in SMALLER.items():
        text = (workspace / name).read_text(encoding="utf-8")
        for in_full, here in changes.items():
            assert text.count(in_full) == 1, in_full
            text = text.replace(in_full, here)
        (workspace / name).write_text(text, encoding="utf-8")
    return workspace


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_by_nbval(notebook, smoke):
    """Each finds what the earlier ones left in the workspace, and what the commands of `BEFORE` did."""
    for command in BEFORE.get(notebook.stem, []):
        run(["cmbfe", *command], smoke)
    if notebook.stem == "12_other_detectors":
        run(["cmbfe.studies.examples"], smoke)
    if notebook.stem == OWN_DATA:
        import_the_phantom(smoke)
    if notebook.stem == TRAINING:
        (smoke / "train_all.py").write_text(TRAIN_ALL, encoding="utf-8")
        run(["train_all"], smoke)
    run(["pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", f"notebooks/{notebook.name}"], smoke)


def import_the_phantom(folder: Path) -> None:
    """As if its patients were somebody's own: all later notebooks run on the import."""
    options = ["--key-file", "key.json", "--params", "params.yaml", "--backend", "threading"]
    run(["cmbfe", "import", "dicom", "data/raw", "data/mine", *options], folder)
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8").replace("notebook: 01_data", f"notebook: {OWN_DATA}")
    params.write_text(text.replace(PHANTOM, "data/mine"), encoding="utf-8")


def test_the_notebooks_left_what_the_pipelines_promise(smoke):
    of_notebooks = [stage for stage in stages().values() if notebook_of(stage)]
    outs = {out for stage in of_notebooks for out in written(stage) if not out.startswith("results/notebooks")}
    for variant in load_params(smoke / "params.yaml").variants:
        outs |= {f"models/{variant}/model.safetensors", f"results/{variant}/metrics.json"}
    for out in (out for out in outs if "${item}" not in out):
        path = smoke / out
        assert path.is_dir() or path.stat().st_size > 0, out
    assert {f"results/figures/{path.name}" for path in (smoke / "results" / "figures").iterdir()} <= outs
