"""Kill a training again and again; whatever it ends with has to equal an uninterrupted training, byte for byte.

    python tools/kill_training.py [--kills 20] [--seed 0]

Trains the smoke profile's ssd300-fe on a few drawn images, a checkpoint after every iteration, as a process of its
own (`python -m cmbfe train`): once without interruption, then killed at random moments (SIGKILL) and started again. A
quarter of the kills hit while a checkpoint is being written. Each training that comes to its end is compared with the
uninterrupted one, and a new one begins until all kills are used. Exit status 1 if any file differed; the files are
then kept.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cmbfe.data.labelled.images import save_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, write_labels
from cmbfe.errors import InputError
from cmbfe.files import sha256_of
from cmbfe.params import load_params, profile_file, save_params

ROOT = Path(__file__).resolve().parent.parent
VARIANT = "ssd300-fe"
COMPARED = ("model.safetensors", "history.csv", "best/model.safetensors", "live/plots/**/*.tsv")
SIDE, DOT = 64, 6
"""Side of an image and of the dark dot in it, px."""
POLL_SECONDS = 0.0005
START_SHARE = 0.2
"""Of the kills that are not aimed at a checkpoint, how many may hit while the program still starts."""
MISSED_KILLS = 20
"""How many kills may come too late for the checkpoint that they were aimed at."""


class Kill(NamedTuple):
    """Where a kill hit."""

    seconds: float
    """After the start of the process."""
    iteration: int
    """Of the newest whole checkpoint; 0 where there was none."""
    inside: bool
    """While a checkpoint was being written."""

    def __str__(self) -> str:
        where = ", inside the writing of the next" if self.inside else ""
        return f"killed after {self.seconds:.2f} s, last checkpoint {self.iteration}{where}"


@dataclass
class Outcome:
    """What came of all kills."""

    kills: list[Kill] = field(default_factory=list)
    finished: int = 0
    """Trainings that came to their end after kills."""
    different: list[Path] = field(default_factory=list)
    """Their files that differ from those of the uninterrupted training, or exist on one side only."""

    @property
    def inside(self) -> int:
        """How many kills hit while a checkpoint was being written."""
        return sum(kill.inside for kill in self.kills)

    def __str__(self) -> str:
        result = f"differ from an uninterrupted training: {', '.join(map(str, self.different))}"
        if not self.different:
            result = "every file equals that of an uninterrupted training"
        return (
            f"{len(self.kills)} kills, {self.inside} of them inside the writing of a checkpoint; "
            f"trainings that were killed and came to their end: {self.finished}; {result}"
        )


class Pace(NamedTuple):
    """How the uninterrupted training went."""

    iterations: int
    first_checkpoint: float
    """Seconds from the start to the first checkpoint."""
    whole: float
    """Seconds from the start to the end."""

    @property
    def of_iteration(self) -> float:
        """Seconds of an iteration with its checkpoint."""
        return (self.whole - self.first_checkpoint) / self.iterations


class Moment(NamedTuple):
    """When a training is to be killed: some seconds after it has written a checkpoint, or after its start."""

    checkpoint: int
    """Of this iteration or a later one; 0: the start."""
    seconds: float
    inside: bool
    """Not at once then, but while the next checkpoint is being written."""


def draw_images(folder: Path, split: str, pixels: int, seed: int) -> None:
    """Grey noise with one dark dot in each image, and its box: a labelled set."""
    rng = np.random.default_rng(seed)
    images, boxes = [], []
    for number in range(1, pixels + 1):
        x, y = rng.integers(4, SIDE - DOT - 4, 2).tolist()
        image = rng.normal(150, 10, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
        image[y : y + DOT, x : x + DOT] = 20
        save_image(folder / f"{number}.png", image)
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE, "split": split})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, DOT, DOT]})
    write_labels(folder / LABELS_FILE, {"images": images, "annotations": boxes, "categories": CATEGORIES})


def prepare(folder: Path, iterations: int, seed: int) -> None:
    """Write settings, a training set and a validation set into `folder`."""
    smoke = load_params(profile_file("smoke"))
    schedule = {
        "iterations": iterations,
        "milestones": (iterations // 2, iterations * 3 // 4),
        "checkpoint_every": 1,
        "validate_every": max(iterations // 4, 1),
        "accelerator": "cpu",
    }
    training = smoke.training.model_copy(update=schedule)
    save_params(smoke.model_copy(update={"seed": seed, "training": training}), folder / "params.yaml")
    draw_images(folder / "train", "train", 5, seed)
    draw_images(folder / "validation", "validation", 3, seed + 1)


def start(folder: Path, out: Path) -> subprocess.Popen:
    """Start the training, in a process group of its own; what it says goes to a file beside `out`."""
    # One thread: sums are then added up in one order whatever else the machine does.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):  # else every start would compile PyTorch anew
        environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    given = {
        "params": folder / "params.yaml",
        "data": folder / "train",
        "validation": folder / "validation",
        "out": out,
    }
    options = [text for name, path in given.items() for text in (f"--{name}", str(path))]
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "cmbfe", "train", VARIANT, "--out", str(out), *options],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def check_ended(process: subprocess.Popen, out: Path) -> None:
    """Raise `RuntimeError` with the end of what the training said if it did not end well."""
    if process.wait() != 0:
        said = out.with_suffix(".log").read_text()[-2000:]
        raise RuntimeError(f"the training ended with status {process.returncode}:\n{said}")


def newest_checkpoint(out: Path) -> int:
    """The iteration of the newest whole checkpoint, 0 where there is none."""
    names = [file.stem for file in (out / "checkpoints").glob("iteration*.pt")]
    return max((int(name.removeprefix("iteration")) for name in names), default=0)


def writes_checkpoint(out: Path, process_id: int) -> bool:
    """Whether there is half a checkpoint of this process; those of killed ones lie about until the next start."""
    return any((out / "checkpoints").glob(f".iteration*.{process_id}.partial.pt"))


def kill_once(folder: Path, out: Path, moment: Moment) -> Kill | None:
    """Start the training and kill it; None if it came to its end before."""
    begin, due = time.perf_counter(), None
    process = start(folder, out)
    try:
        while process.poll() is None:
            now = time.perf_counter()
            if due is None and newest_checkpoint(out) >= moment.checkpoint:
                due = now + moment.seconds
            if due is not None and now >= due and (not moment.inside or writes_checkpoint(out, process.pid)):
                _kill(process)
                if process.wait() == -signal.SIGKILL:
                    return Kill(now - begin, newest_checkpoint(out), writes_checkpoint(out, process.pid))
            time.sleep(POLL_SECONDS)
    finally:
        if process.poll() is None:  # this program itself is being stopped
            _kill(process)
    check_ended(process, out)
    return None


def _kill(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended just now; macOS permits no signal then
        os.killpg(process.pid, signal.SIGKILL)


def uninterrupted(folder: Path, iterations: int) -> Pace:
    """Train once without a kill, into `folder`/uninterrupted."""
    out, begin, first = folder / "uninterrupted", time.perf_counter(), None
    process = start(folder, out)
    while process.poll() is None:
        if first is None and newest_checkpoint(out):
            first = time.perf_counter() - begin
        time.sleep(0.01)
    check_ended(process, out)
    whole = time.perf_counter() - begin
    return Pace(iterations, whole if first is None else first, whole)


def results(out: Path) -> dict[str, str]:
    """SHA-256 of what a training leaves, by its path in `out`."""
    files = sorted(file for pattern in COMPARED for file in out.glob(pattern))
    return {file.relative_to(out).as_posix(): sha256_of([file]) for file in files}


def differing(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Files whose hashes differ, or that exist on one side only."""
    return [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]


def aims_inside(kills_left: int, inside_left: int, rng: random.Random) -> bool:
    """Whether the next kill is aimed at a checkpoint, so that `inside_left` of `kills_left` are, in random order."""
    return inside_left > 0 and rng.random() * kills_left < inside_left


def draw_moment(done: int, inside: bool, pace: Pace, rng: random.Random) -> Moment:
    """A moment in what is left of a training whose newest checkpoint is that of iteration `done`.

    One kill in five hits anywhere from the process's start on, the others after a checkpoint of its own. The end of a
    training writes no checkpoint, so that a kill after the last one hits the last iteration or the writing of results.
    """
    last = pace.iterations - 1
    if done >= last or (not inside and rng.random() < START_SHARE):
        return Moment(0, rng.uniform(0, pace.first_checkpoint + pace.of_iteration), inside)
    if inside:
        return Moment(rng.randint(done, last - 1), 0.0, inside)
    return Moment(rng.randint(done + 1, last), rng.uniform(0, 2 * pace.of_iteration), inside)


def kill_again_and_again(
    folder: Path, iterations: int, kills: int, inside: int, seed: int, say: Callable[[Kill], None] = lambda kill: None
) -> Outcome:
    """Kill trainings at least `kills` times, of which at least `inside` hit the writing of a checkpoint.

    `folder` is that of `prepare`. A kill that was aimed at a checkpoint and missed it is followed by another.
    """
    rng, outcome = random.Random(seed), Outcome()
    pace = uninterrupted(folder, iterations)
    expected = results(folder / "uninterrupted")
    while (left := kills - len(outcome.kills)) > 0 or outcome.inside < inside:
        if len(outcome.kills) >= kills + MISSED_KILLS:
            raise RuntimeError(
                f"only {outcome.inside} of {len(outcome.kills)} kills hit inside a checkpoint's writing"
            )
        out = folder / f"killed{outcome.finished + 1}"
        aimed = aims_inside(left, inside - outcome.inside, rng)
        if kill := kill_once(folder, out, draw_moment(newest_checkpoint(out), aimed, pace, rng)):
            outcome.kills.append(kill)
            say(kill)
        else:
            _compare(out, expected, outcome)
    out = folder / f"killed{outcome.finished + 1}"
    if out.exists():
        check_ended(start(folder, out), out)
        _compare(out, expected, outcome)
    return outcome


def _compare(out: Path, expected: dict[str, str], outcome: Outcome) -> None:
    outcome.finished += 1
    outcome.different += [out / name for name in differing(expected, results(out))]


def main() -> int:
    """Print each kill and a summary; 1 if a file differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments, and of the training")
    parser.add_argument("--iterations", type=int, default=40, help="of each training")
    given = parser.parse_args()
    if given.kills < 1 or given.iterations < 4:
        raise InputError("--kills: give at least 1; --iterations: give at least 4")
    folder = Path(tempfile.mkdtemp(prefix="kill_training"))
    print(f"trains in {folder}, once without interruption first", flush=True)
    prepare(folder, given.iterations, given.seed)
    with tqdm(total=given.kills, desc="kills", unit="kill") as bar:

        def say(kill: Kill) -> None:
            bar.write(str(kill))
            bar.update()

        outcome = kill_again_and_again(folder, given.iterations, given.kills, -(-given.kills // 4), given.seed, say)
    print(outcome)
    if outcome.different:
        return 1  # the files stay, to be looked at
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
