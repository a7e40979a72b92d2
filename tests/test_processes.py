"""Two processes with half of each batch are one training: the losses of one process, one set of files."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
from tiny_world import labelled_images, tiny_params, tree

from cmbfe.params import save_params

SETTINGS = {"batch": 4, "iterations": 8, "milestones": (), "checkpoint_every": 3, "validate_every": 8}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(folder: Path, out: str, *launcher: str) -> subprocess.CompletedProcess:
    command = ["-m", "cmbfe", "train", "ssd300-fe", "--params", "params.yaml", "--data", "data", "--out", out]
    whole = [sys.executable, *launcher, *command, "--validation", "validation"]
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(whole, cwd=folder, check=False, **options)


def test_two_processes_follow_the_losses_of_one_and_write_one_set_of_files(tmp_path):
    folder = tmp_path
    labelled_images(folder / "data", 16)
    labelled_images(folder / "validation", 2, split="validation")
    # A slow learning rate: at 1e-3 rounding alone, as by another number of threads, moves losses by percents.
    save_params(tiny_params(learning_rate=1e-5, **SETTINGS), folder / "params.yaml")
    for out, launcher in (("one", ()), ("two", TORCHRUN)):
        done = start(folder, out, *launcher)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"{out}: ssd300-fe after 8 iterations") == 1
        assert done.stdout.count("s per iteration") == 1
    assert "2 processes" in done.stdout
    one, two = (pd.read_csv(folder / name / "history.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(two, one, rtol=1e-3)
    assert one["classification"][4:].mean() < one["classification"][:4].mean()  # of the same images
    assert tree(folder / "two").keys() == tree(folder / "one").keys()
