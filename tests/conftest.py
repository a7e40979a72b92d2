"""What several test files share."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch copy of the pipeline with the smoke profile; the checkout stays untouched."""
    folder = tmp_path_factory.mktemp("workspace")
    for name in ("notebooks", "cmbfe"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / "profiles" / "smoke.yaml", folder / "params.yaml")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=folder, check=True)
    return folder
