"""What several test files share."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline_world import ROOT, copy_pipelines
from tiny_world import tree

from cmbfe.cli import main

os.environ["LOKY_MAX_CPU_COUNT"] = "1"
"""What takes a process per core stays in this one: each would import all libraries and derive the phantom's template
anew, and tests run beside each other already."""


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch copy of the pipeline with the smoke profile; the checkout stays untouched."""
    more = ("docs", "README.md", "CONTRIBUTING.md")
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


@pytest.fixture
def refused_line(run_cmbfe, tmp_path) -> Callable[..., str]:
    """Run a command that must end with status 2, one line on stderr, none on stdout, and no change on disk."""

    def line(*arguments: object) -> str:
        before = tree(tmp_path)
        status, out, err = run_cmbfe(*arguments)
        last = err.splitlines()[-1]  # above it a progress bar, where checking takes over a second
        assert (status, out, err.count("cmbfe: error: ")) == (2, "", 1), f"{out}\n{err}"
        assert last.startswith("cmbfe: error: "), err
        assert tree(tmp_path) == before
        return last

    return line
