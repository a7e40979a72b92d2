"""What several test files share."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline_world import ROOT, copy_pipelines

from cmbfe.cli import main


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch copy of the pipeline with the smoke profile; the checkout stays untouched."""
    more = ("docs", "tools", "README.md", "CONTRIBUTING.md")
    folder = copy_pipelines(tmp_path_factory.mktemp("workspace"), *more)
    shutil.copy(ROOT / "cmbfe" / "profiles" / "smoke.yaml", folder / "params.yaml")
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
