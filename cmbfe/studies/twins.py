"""One training of many and its test, on one thread; what is done already is not repeated.

The study and the comparison on generated objects are made of these.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe.data.labelled.labels import LABELS_FILE, Labels
from cmbfe.detector.weights import WEIGHTS_FILE, load_model
from cmbfe.files import read_json, sha256_of, write_json
from cmbfe.metrics.curves import summary
from cmbfe.metrics.matching import Matches, load_matches, match, save_matches
from cmbfe.parallel import at_work, one_thread
from cmbfe.params import Params
from cmbfe.training.detection import detect_in
from cmbfe.training.devices import make_compute
from cmbfe.training.loop import train

Run = Callable[[str, int], tuple[str, int, float]]
"""One training and its test: detector and seed, and with them its AP."""


def run_all(name: str, tasks: Sequence[tuple[str, int]], run: Run, jobs: int, backend: str, progress: bool) -> None:
    """Run trainings, several at a time, with a bar and a line for each: its AP.

    Args:
        tasks: detector (or what tells its trainings apart) and seed.
        run: does one and returns it with its AP.
        jobs: at a time on this machine; -1: one per core. They change the time, not the results.
        backend: of joblib, or the address of a dask scheduler.
    """
    with at_work(backend, jobs):
        made = Parallel(return_as="generator_unordered", batch_size=1)(delayed(run)(*task) for task in tasks)
        for detector, seed, ap in (
            bar := tqdm(made, total=len(tasks), desc=name, unit="training", disable=not progress)
        ):
            bar.write(f"{name}: {detector} with seed {seed}: AP {ap:.3f}")


def train_and_test(
    variant: str, params: Params, data: Path, model: Path, test: Labels, images: Path, out: Path
) -> float:
    """Train a detector on one thread, and write what it finds on test images.

    Args:
        data: training set, as `train` takes it.
        model: folder for the model.
        test: labels of the test images, with file names relative to the folder `images`.
        out: the .npz of its matches; its metrics come beside it, as .json.

    Returns:
        Its AP on the test images.

    Raises:
        InputError: as `train`, or test images that cannot be read.
    """
    with one_thread():
        train(variant, params, data, model, progress=False)
        return _tested(model, params, test, images, out)


def _tested(model: Path, params: Params, test: Labels, images: Path, out: Path) -> float:
    """Write matches and metrics of a trained detector, unless those of these weights and labels are there; its AP."""
    belongs_to = {
        "weights_sha256": sha256_of([model / WEIGHTS_FILE]),
        "labels_sha256": sha256_of([images / LABELS_FILE]),
        "iou": params.evaluation.iou,
    }

    def found() -> Matches:
        compute = make_compute(params.training.accelerator, params.training.precision)
        detector = load_model(model).to(compute.device)
        return match(test, detect_in(detector, test, images, compute), iou=params.evaluation.iou)

    return measured_once(found, belongs_to, params.evaluation.sensitivity, out)


def measured_once(found: Callable[[], Matches], belongs_to: dict[str, Any], sensitivity: float, out: Path) -> float:
    """Write matches and their metrics, unless those that belong to the same are there; the AP.

    Args:
        found: detects and matches; called only if need be.
        belongs_to: what decides the result; JSON, stored with the metrics.
        sensitivity: where precision is read.
        out: the .npz of the matches; the metrics come beside it, as .json.
    """
    file = out.with_suffix(".json")
    if file.is_file() and out.is_file() and (known := read_json(file))["belongs_to"] == belongs_to:
        return known["ap"]
    matches = found()
    metrics = summary(matches, sensitivity)
    save_matches(matches, out)
    write_json(file, metrics | {"belongs_to": belongs_to})
    return metrics["ap"]


def load_twins(files: list[Path]) -> tuple[list[Matches], list[Matches]]:
    """Matches of detectors without FE and of those with, by seed.

    Args:
        files: those without FE first, then as many with.

    Raises:
        InputError: one is missing.
    """
    found = [load_matches(file) for file in files]
    return found[: len(found) // 2], found[len(found) // 2 :]
