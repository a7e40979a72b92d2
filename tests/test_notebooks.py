"""Every notebook runs from top to bottom by nbval, in the smoke profile, in a scratch workspace."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from cmbfe.baselines import Baseline
from cmbfe.baselines.run import run_baseline
from cmbfe.data.labelled.detections import DETECTIONS_FILE, VALIDATION_FILE
from cmbfe.params import PHANTOM, load_params

ROOT = Path(__file__).resolve().parent.parent
MAP = "paper_map"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"), key=lambda path: (path.stem == MAP, path.stem))
"""In an order in which each finds what it reads: the map reads what the others have written."""
TRAINING = "03_training"
BASELINE = "09_baselines"
DEFAULT_VARIANT = "ssd300-fe"
FOLD = "10_crossvalidation"
DEFAULT_FOLD = 1
STUDIES = {
    "11_ablation": ["study"],
    "11_ablation": ["phase"],
    "12_other_detectors": ["others", "--jobs", "1"],
    "09_small_objects": ["objects-study", "--jobs", "1"],
}
"""Notebooks that read what a command has trained, and the command."""
OWN_DATA = "own_data"
TIMING = ("05_backbones.ipynb", r"batch = 8\nrounds = 5", r"batch = 2\nrounds = 2")
"""What 05 times, in full and as here: that it is timed matters to these tests, and not how exactly."""

pytestmark = pytest.mark.pipeline


def run(command: list[str], folder: Path, **environment: str) -> None:
    whole = [sys.executable, "-m", *command]
    done = subprocess.run(
        whole, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def smoke(workspace: Path) -> Path:
    shutil.copy(ROOT / "cmbfe" / "profiles" / "smoke.yaml", workspace / "params.yaml")
    name, in_full, here = TIMING
    notebook = workspace / "notebooks" / name
    text = notebook.read_text(encoding="utf-8")
    assert text.count(in_full) == 1
    notebook.write_text(text.replace(in_full, here), encoding="utf-8")
    return workspace


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_by_nbval(notebook, smoke):
    """Each finds what the earlier ones left in the workspace, and those of `STUDIES` what their command did."""
    if notebook.stem in STUDIES:
        run(["cmbfe", *STUDIES[notebook.stem]], smoke)
    if notebook.stem == OWN_DATA:
        import_the_phantom(smoke)
    run(["pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", f"notebooks/{notebook.name}"], smoke)
    params = load_params(smoke / "params.yaml")
    if notebook.stem == TRAINING:
        run_the_others(notebook, "variant", {*params.variants} - {DEFAULT_VARIANT}, smoke)
    if notebook.stem == BASELINE:  # it has run for the first; the notebook adds nothing for the others
        for name in list(Baseline)[1:]:
            run_baseline(name, params, smoke / "data" / "pictures", smoke / "results" / name, progress=False)
    if notebook.stem == FOLD:
        run_the_others(notebook, "fold", {*params.crossvalidation.folds} - {DEFAULT_FOLD}, smoke)


def import_the_phantom(folder: Path) -> None:
    """As if its patients were somebody's own: all later notebooks run on the import."""
    options = ["--key-file", "key.json", "--params", "params.yaml", "--backend", "threading"]
    run(["cmbfe", "import", "dicom", "data/raw", "data/mine", *options], folder)
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8").replace("notebook: 01_data", "notebook: own_data")
    params.write_text(text.replace(PHANTOM, "data/mine"), encoding="utf-8")


def run_the_others(notebook: Path, parameter: str, values: set, folder: Path) -> None:
    """Run a notebook for every other value of its parameter, two at a time on a thread each."""

    def run_for(value: str | int) -> None:
        given = ["-p", parameter, str(value), f"notebooks/{notebook.name}", f"{notebook.stem}-{value}.ipynb"]
        run(["papermill", "--no-progress-bar", *given], folder, OMP_NUM_THREADS="1")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run_for, sorted(values)))


def test_the_notebooks_left_what_the_pipeline_promises(smoke):
    names = (
        "table1",
        "table2",
        "table3",
        "table4",
        "froc",
        "coverage",
        "mimics",
        "fe_by_map",
        "fe_steps",
        "fe_channels",
        "operating_point",
    )
    names += ("architecture", "false_positives", "found_only", "crossvalidation", "study", "small_objects", "phase")
    names += ("others", "others_relatives")
    names += ("paper_map", "open_points", "deviations", "contradictions")
    figures = (
        *(f"fig{number}" for number in range(1, 8)),
        "table3",
        "coverage",
        "crossvalidation",
        "study",
        "small_objects",
        "phase",
        "others",
        "reliability",
        "figure5_baselines",
    )
    files = [f"tables/{name}.csv" for name in names]
    files += [f"figures/{name}.{suffix}" for name in figures for suffix in ("png", "svg")]
    for name in files:
        assert (smoke / "results" / name).stat().st_size > 0
    for variant in load_params(smoke / "params.yaml").variants:
        assert (smoke / "models" / variant / "model.safetensors").stat().st_size > 0
    for name in Baseline:
        for file in (DETECTIONS_FILE, VALIDATION_FILE, "metrics.json", "baseline.json"):
            assert (smoke / "results" / name / file).stat().st_size > 0
    section = load_params(smoke / "params.yaml").crossvalidation
    for fold, variant in product(section.folds, section.variants):
        for name in (DETECTIONS_FILE, "metrics.json"):
            assert (smoke / "results" / "crossvalidation" / f"fold{fold}" / variant / name).stat().st_size > 0
