"""Two processes with half of each batch are one training: the losses of one process, one set of files."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tiny_world import labelled_images, tiny_params

from cmbfe.params import save_params

SETTINGS = {"batch": 4, "iterations": 20, "milestones": (), "checkpoint_every": 7, "validate_every": 10}


def start(folder: Path, out: str, *launcher: str, data: str = "data") -> subprocess.CompletedProcess:
    command = ["-m", "cmbfe", "train", "ssd300-fe", "--params", "params.yaml", "--data", data, "--out", out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole = [sys.executable, *launcher, *command, "--validation", "validation"]
    return subprocess.run(
        whole, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def torchrun(processes: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A slow learning rate: at 1e-3 rounding alone, as by another number of threads, moves losses by percents."""
    folder = tmp_path_factory.mktemp("processes")
    labelled_images(folder / "data", 16)
    labels = folder / "validation" / "annotations.json"
    labelled_images(folder / "validation", 4)
    labels.write_text(labels.read_text().replace('"train"', '"validation"'))
    save_params(tiny_params(learning_rate=1e-5, **SETTINGS), folder / "params.yaml")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_two_processes_follow_the_losses_of_one_and_write_one_set_of_files(folder):
    for out, launcher in (("one", []), ("two", torchrun(2))):
        done = start(folder, out, *launcher)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"{out}: ssd300-fe after 20 iterations") == 1
        assert done.stdout.count("s per iteration") == 1
    assert "2 processes" in done.stdout
    one, two = (pd.read_csv(folder / name / "history.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(two, one, rtol=1e-3)
    assert one["classification"].iloc[-1] < one["classification"].iloc[0]
    assert files(folder / "two") == files(folder / "one")
