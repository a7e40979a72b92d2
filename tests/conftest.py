"""What several test files share."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cmbfe.cli import main

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch copy of the pipeline with the smoke profile; the checkout stays untouched."""
    folder = tmp_path_factory.mktemp("workspace")
    for name in ("notebooks", "cmbfe", "docs", "studies", "tools"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "dvc.lock")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "cmbfe" / "profiles" / "smoke.yaml", folder / "params.yaml")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=folder, check=True)
    return folder


@pytest.fixture
def run_cmbfe(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: exit status, stdout, stderr."""

    def run_it(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cmbfe", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run_it
