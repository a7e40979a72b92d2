"""Every notebook runs from top to bottom by nbval, in the smoke profile, in a scratch workspace."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_pipeline import notebook_of, stages, written

from cmbfe import paths
from cmbfe.baselines import Baseline
from cmbfe.evaluation.trained import measure
from cmbfe.params import PHANTOM, load_params
from cmbfe.studies.examples import write_examples
from cmbfe.training.loop import train

ROOT = Path(__file__).resolve().parent.parent
LAST = "paper_map"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"), key=lambda path: (path.stem == LAST, path.stem))
"""In an order in which each finds what it reads; the map reads what the others have written."""
OWN_DATA = "own_data"
ORDER = ["01_data", OWN_DATA]
NOTEBOOKS.sort(key=lambda path: ORDER.index(path.stem) if path.stem in ORDER else len(ORDER))
TRAINING = "03_training"
BEFORE = {
    OWN_DATA: ["import dicom data/raw data/mine --key-file key.json --params params.yaml --backend threading"],
    "phantom": ["describe data/pictures --slice-mm 2 --out results/tables/patients.csv"],
    "09_baselines": [f"baseline {name} --out results/{name}" for name in Baseline],
    "10_crossvalidation": ["study crossvalidation --jobs 1"],
    "11_ablation": ["study patients ssd300 phase --jobs 1"],
    "12_other_detectors": ["study ssdlite-small --jobs 1"],
}
"""The commands that make what a notebook reads."""
SMALLER = {
    "params.yaml": {"iterations: 5": "iterations: 2", "milestones: [3, 4]": "milestones: [1]"},
    "notebooks/05_backbones.ipynb": {"batch = 8": "batch = 2", "rounds = 5": "rounds = 2"},
    "notebooks/phantom.ipynb": {"patients = 3": "patients = 1"},
}
"""Sizes in the smoke profile and in notebooks, in full and as here: that all of it runs is what these tests see."""

pytestmark = pytest.mark.pipeline


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
def test_a_notebook_runs_by_nbval(notebook, smoke, run_cmbfe, monkeypatch):
    """Each finds what the earlier ones left in the workspace, and what the commands of `BEFORE` did."""
    monkeypatch.chdir(smoke)
    for command in BEFORE.get(notebook.stem, []):
        status, out, err = run_cmbfe(*command.split())
        assert status == 0, out[-6000:] + err[-4000:]
    if notebook.stem == OWN_DATA:
        choose_the_import(smoke)
    if notebook.stem == TRAINING:
        train_all()
    if notebook.stem == "12_other_detectors":
        write_examples(load_params(paths.params_file()), smoke)
    nbval = ["-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", f"notebooks/{notebook.name}"]
    done = subprocess.run([sys.executable, *nbval], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]


def choose_the_import(folder: Path) -> None:
    """As if the phantom's patients were somebody's own: all later notebooks run on the import."""
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8").replace("notebook: 01_data", f"notebook: {OWN_DATA}")
    params.write_text(text.replace(PHANTOM, "data/mine"), encoding="utf-8")


def train_all() -> None:
    """What the stages `train` and `test` do."""
    params = load_params(paths.params_file())
    for name in params.variants:
        live = paths.result(name) / "live"
        train(name, params, paths.augmented(), paths.model(name), False, paths.images(), live)
        measure(name, params)


def test_the_notebooks_left_what_the_pipelines_promise(smoke):
    of_notebooks = [stage for stage in stages().values() if notebook_of(stage)]
    outs = {out for stage in of_notebooks for out in written(stage) if not out.startswith("results/notebooks")}
    for variant in load_params(smoke / "params.yaml").variants:
        outs |= {f"models/{variant}/model.safetensors", f"results/{variant}/metrics.json"}
    for out in (out for out in outs if "${item}" not in out):
        path = smoke / out
        assert path.is_dir() or path.stat().st_size > 0, out
    assert {f"results/figures/{path.name}" for path in (smoke / "results" / "figures").iterdir()} <= outs
