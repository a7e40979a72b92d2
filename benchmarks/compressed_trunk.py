"""Benefit of the compressed trunk: AP of SSD-512 trained from it and from scratch.

    python benchmarks/compressed_trunk.py data [--iterations 225] [--seeds 3] [--jobs 2]

Settings are the laptop profile with a shorter schedule. SSD-512 trains on DATA/augmented and is tested on the test
patients in DATA/pictures. A seed fixes image order and random weights for both starts. A training has one thread.
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from joblib import Parallel, delayed

from cmbfe.data.labelled.splits import read_test_set
from cmbfe.detector.weights import load_model
from cmbfe.errors import InputError
from cmbfe.metrics.curves import average_precision
from cmbfe.metrics.matching import match
from cmbfe.params import Params, load_params, profile_file
from cmbfe.training.detection import detect_in
from cmbfe.training.devices import make_compute
from cmbfe.training.loop import train

STARTS = {"from scratch": {"vgg16": None}, "compressed": {"vgg16": "compressed"}}


def settings(start: str, seed: int, iterations: int) -> Params:
    """The laptop profile with this start, seed and number of iterations. From scratch, no blocks are frozen."""
    params = load_params(profile_file("laptop"))
    weights = params.detector.weights.model_copy(update=STARTS[start])
    frozen = params.training.frozen_blocks if weights.vgg16 else 0
    schedule = params.training.scaled_to(iterations).model_copy(update={"threads": 1, "frozen_blocks": frozen})
    detector = params.detector.model_copy(update={"weights": weights})
    return params.model_copy(update={"seed": seed, "detector": detector, "training": schedule})


def test_ap(data: Path, start: str, seed: int, iterations: int) -> float:
    """AP on the test patients after a training."""
    params = settings(start, seed, iterations)
    with TemporaryDirectory() as folder:
        train("ssd512", params, data / "augmented", Path(folder), progress=False)
        model = load_model(folder)
    labels = read_test_set(load_params(profile_file("laptop")), data / "pictures")
    detections = detect_in(model, labels, data / "pictures", make_compute("cpu"))
    return float(average_precision(match(labels, detections, iou=params.evaluation.iou)))


def main() -> None:
    """Print the AP of both starts for each seed, and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with augmented and pictures, as stages 01 and 02 leave it")
    parser.add_argument("--iterations", type=int, default=225)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    given = parser.parse_args()
    runs = list(product(range(1, given.seeds + 1), STARTS))
    aps = Parallel(given.jobs)(delayed(test_ap)(given.data, start, seed, given.iterations) for seed, start in runs)
    index = pd.MultiIndex.from_tuples(runs, names=["seed", "AP"])
    table = (
        pd.Series(aps, index).unstack()[list(STARTS)].assign(gain=lambda row: row["compressed"] - row["from scratch"])
    )
    print(pd.concat([table, table.mean().to_frame("mean").T]).round(3).to_string())


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
