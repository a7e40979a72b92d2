"""A training that is killed again and again ends with the files of one that is not, byte for byte."""

import os
import random
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
ITERATIONS, KILLS = 8, 2


def start(folder: Path, out: Path) -> subprocess.Popen:
    """Start the training in a process group of its own, on one thread: sums are then always added in one order."""
    given = {"params": "params.yaml", "data": "train", "validation": "validation", "out": out.name}
    options = [text for name, file in given.items() for text in (f"--{name}", str(folder / file))]
    command = [sys.executable, "-m", "cmbfe", "train", "ssd300-fe", *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **quiet)


def newest_checkpoint(out: Path) -> int:
    """The iteration of the newest whole checkpoint, 0 where there is none."""
    names = [file.stem.removeprefix("iteration") for file in (out / "checkpoints").glob("iteration*.pt")]
    return max(map(int, names), default=0)


def kill_once(folder: Path, out: Path, inside: bool, seconds: float) -> bool:
    """Start the training and kill it after its next checkpoint; `inside`: while it writes the one after that.

    Returns:
        Whether it was killed; else it came to its end before.
    """
    before, process = newest_checkpoint(out), start(folder, out)
    while process.poll() is None:
        writing = any((out / "checkpoints").glob(f".iteration*.{process.pid}.partial.pt"))
        if newest_checkpoint(out) > before and (writing or not inside):
            time.sleep(0 if inside else seconds)
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(0.0005)
    assert process.returncode == 0
    return False


def results(out: Path) -> dict[str, str]:
    """SHA-256 of what a training leaves, by its path in `out`."""
    files = sorted(file for pattern in COMPARED for file in out.glob(pattern))
    return {file.relative_to(out).as_posix(): sha256_of([file]) for file in files}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL and no process groups there")
def test_killed_twice_a_training_ends_with_the_same_files(tmp_path):
    smoke = load_params(profile_file("smoke"))
    schedule = {"iterations": ITERATIONS, "milestones": (4, 6), "checkpoint_every": 1, "validate_every": 2}
    training = smoke.training.model_copy(update={**schedule, "accelerator": "cpu"})
    save_params(smoke.model_copy(update={"training": training}), tmp_path / "params.yaml")
    for split in ("train", "validation"):
        labelled_images(tmp_path / split, split=split)
    assert start(tmp_path, tmp_path / "whole").wait() == 0
    rng, killed = random.Random(0), tmp_path / "killed"
    kills = [kill_once(tmp_path, killed, number == 0, rng.uniform(0, 0.1)) for number in range(KILLS)]
    assert any(kills)
    assert start(tmp_path, killed).wait() == 0
    assert results(killed) == results(tmp_path / "whole")
    assert len(results(killed)) >= 4
