"""One training of many and its test, on one thread; what is done already is not repeated.

The study and the comparison on generated objects are made of these.
"""

from pathlib import Path

from cmbfe.data.labels import LABELS_FILE, Labels
from cmbfe.detect import detect_in
from cmbfe.detector.weights import WEIGHTS_FILE, load_model
from cmbfe.devices import make_compute
from cmbfe.files import read_json, sha256_of, write_json
from cmbfe.matches_file import load_matches, save_matches
from cmbfe.matching import Matches, match
from cmbfe.metrics import summary
from cmbfe.params import Params
from cmbfe.threads import one_thread
from cmbfe.train import train


def train_and_test(
    variant: str, params: Params, data: Path, model: Path, test: Labels, pictures: Path, out: Path
) -> float:
    """Train a detector on one thread, and write what it finds on test pictures.

    Args:
        data: training set, as `train` takes it.
        model: folder for the model.
        test: labels of the test pictures, with file names relative to the folder `pictures`.
        out: the .npz of its matches; its metrics come beside it, as .json.

    Returns:
        Its AP on the test pictures.

    Raises:
        InputError: as `train`, or test pictures that cannot be read.
    """
    with one_thread():
        train(variant, params, data, model, progress=False)
        return _tested(model, params, test, pictures, out)


def _tested(model: Path, params: Params, test: Labels, pictures: Path, out: Path) -> float:
    """Write matches and metrics of a trained detector, unless those of these weights and labels are there; its AP."""
    belongs_to = {
        "weights_sha256": sha256_of([model / WEIGHTS_FILE]),
        "labels_sha256": sha256_of([pictures / LABELS_FILE]),
        "iou": params.evaluation.iou,
    }
    file = out.with_suffix(".json")
    if file.is_file() and out.is_file() and (known := read_json(file))["belongs_to"] == belongs_to:
        return known["ap"]
    compute = make_compute(params.training.accelerator, params.training.precision)
    detector = load_model(model).to(compute.device)
    matches = match(test, detect_in(detector, test, pictures, compute), iou=params.evaluation.iou)
    metrics = summary(matches, params.evaluation.sensitivity)
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
