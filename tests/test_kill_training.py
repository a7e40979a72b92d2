"""A training that is killed ends with the files of one that is not, byte for byte."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_world import labelled_images

from cmbfe.files import sha256_of
from cmbfe.params import load_params, profile_file, save_params

ROOT = Path(__file__).resolve().parent.parent
COMPARED = ("model.safetensors", "history.csv", "best/model.safetensors", "live/plots/**/*.tsv")


def start(folder: Path, out: Path) -> subprocess.Popen:
    """Start the training in a process group of its own, on one thread: sums are then always added in one order."""
    given = {"params": "params.yaml", "data": "train", "validation": "validation", "out": out.name}
    options = [text for name, file in given.items() for text in (f"--{name}", str(folder / file))]
    command = [sys.executable, "-m", "cmbfe", "train", "ssd300-fe", *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **quiet)


def kill(process: subprocess.Popen, checkpoints: Path) -> None:
    """Kill a training while it writes a checkpoint after its first, or, at the latest, after its third."""
    while process.poll() is None:
        whole = [int(file.stem.removeprefix("iteration")) for file in checkpoints.glob("iteration*.pt")]
        writing = any(checkpoints.glob(f".iteration*.{process.pid}.partial.pt"))
        if whole and (writing or max(whole) >= 3):
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.0005)
    assert process.returncode == -signal.SIGKILL


def results(out: Path) -> dict[str, str]:
    """SHA-256 of what a training leaves, by its path in `out`."""
    files = sorted(file for pattern in COMPARED for file in out.glob(pattern))
    return {file.relative_to(out).as_posix(): sha256_of([file]) for file in files}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL and no process groups there")
def test_a_killed_training_ends_with_the_same_files(tmp_path):
    smoke = load_params(profile_file("smoke"))
    schedule = {"iterations": 6, "milestones": (3, 5), "checkpoint_every": 1, "validate_every": 3}
    training = smoke.training.model_copy(update={**schedule, "accelerator": "cpu"})
    save_params(smoke.model_copy(update={"training": training}), tmp_path / "params.yaml")
    for split in ("train", "validation"):
        labelled_images(tmp_path / split, split=split)
    assert start(tmp_path, tmp_path / "whole").wait() == 0
    killed = tmp_path / "killed"
    kill(start(tmp_path, killed), killed / "checkpoints")
    assert start(tmp_path, killed).wait() == 0
    assert results(killed) == results(tmp_path / "whole")
    assert len(results(killed)) >= 4
