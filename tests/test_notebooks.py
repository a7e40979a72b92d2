"""Every notebook runs from top to bottom by nbval, in the smoke profile, in a scratch workspace."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmbfe.params import load_params

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRAINING = "03_training"
DEFAULT_VARIANT = "ssd300-fe"

pytestmark = pytest.mark.pipeline


def run(command: list[str], folder: Path, **environment: str) -> None:
    whole = [sys.executable, "-m", *command]
    done = subprocess.run(
        whole, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def smoke(workspace: Path) -> Path:
    shutil.copy(ROOT / "profiles" / "smoke.yaml", workspace / "params.yaml")
    return workspace


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_by_nbval(notebook, smoke):
    """In the notebooks' order: each finds what the earlier ones left in the workspace."""
    run(["pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", f"notebooks/{notebook.name}"], smoke)
    if notebook.stem == TRAINING:
        train_the_others(f"notebooks/{notebook.name}", smoke)


def train_the_others(source: str, folder: Path) -> None:
    """Run the training notebook for every other variant, two at a time on a thread each."""

    def train(variant: str) -> None:
        arguments = ["papermill", "--no-progress-bar", "-p", "variant", variant, source, f"{variant}.ipynb"]
        run(arguments, folder, OMP_NUM_THREADS="1")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, sorted({*load_params(folder / "params.yaml").variants} - {DEFAULT_VARIANT})))


def test_the_notebooks_left_what_the_pipeline_promises(smoke):
    tables = [f"tables/{name}.csv" for name in ("table1", "table2", "table3", "coverage", "fe_by_map")]
    figures = [f"figures/{name}.png" for name in ("fig1", "fig2", "fig4", "fig5", "table3", "coverage")]
    for name in [*tables, *figures]:
        assert (smoke / "results" / name).stat().st_size > 0
    for variant in load_params(smoke / "params.yaml").variants:
        assert (smoke / "models" / variant / "model.safetensors").stat().st_size > 0
