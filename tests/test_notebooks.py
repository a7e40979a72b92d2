"""Every notebook runs from top to bottom by nbval, in the smoke profile, in a scratch workspace."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmbfe.params import load_params

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRAINING = "03_training"
DEFAULT_VARIANT = "ssd300-fe"

pytestmark = pytest.mark.pipeline


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
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
        for variant in set(load_params(smoke / "params.yaml").variants) - {DEFAULT_VARIANT}:
            source = f"notebooks/{notebook.name}"
            run(["papermill", "--no-progress-bar", "-p", "variant", variant, source, f"{variant}.ipynb"], smoke)


def test_the_notebooks_left_what_the_pipeline_promises(smoke):
    for name in ("tables/table1.csv", "tables/table2.csv", "figures/fig4.png", "figures/fig5.png"):
        assert (smoke / "results" / name).stat().st_size > 0
    for variant in load_params(smoke / "params.yaml").variants:
        assert (smoke / "models" / variant / "model.safetensors").stat().st_size > 0
