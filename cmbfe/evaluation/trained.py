"""Test a trained variant of the pipeline on the test images, and write results/<variant>.

python -m cmbfe.evaluation.trained ssd300-fe
"""

import sys
from typing import Any

import pandas as pd

from cmbfe import paths
from cmbfe.data.labelled.detections import DETECTIONS_FILE, VALIDATION_FILE
from cmbfe.data.labelled.splits import read_test_set
from cmbfe.detector.weights import load_model
from cmbfe.errors import InputError
from cmbfe.files import write_json
from cmbfe.metrics.curves import summary
from cmbfe.metrics.matching import match
from cmbfe.parallel import threads
from cmbfe.params import Params, load_params
from cmbfe.training.curves import write_curves
from cmbfe.training.detection import detect_in
from cmbfe.training.devices import make_compute
from cmbfe.training.loop import HISTORY_FILE, LIVE, trained_in
from cmbfe.training.validation import validation_labels

METRICS_FILE = "metrics.json"


def measure(variant: str, params: Params) -> dict[str, Any]:
    """Write detections on the test and validation images, metrics on the test images, history and live curves.

    The model is loaded from its file and sees only images: without ground truth, there is no FE. It computes in
    float32, whatever the precision of its training.

    Returns:
        The result of `cmbfe.metrics.curves.summary`.

    Raises:
        InputError: a variant that is not trained, or images that cannot be read.
    """
    folder, out, images = paths.model(variant), paths.result(variant), paths.images()
    compute = make_compute(params.training.accelerator)
    model = load_model(folder).to(compute.device)
    looked_at = {DETECTIONS_FILE: read_test_set(params), VALIDATION_FILE: validation_labels(images, params.seed)}
    with threads(params.training.threads):
        found = {name: detect_in(model, labels, images, compute) for name, labels in looked_at.items()}
    for name, detections in found.items():
        write_json(out / name, detections)
    matches = match(looked_at[DETECTIONS_FILE], found[DETECTIONS_FILE], iou=params.evaluation.iou)
    metrics = summary(matches, params.evaluation.sensitivity)
    write_json(out / METRICS_FILE, metrics | {"training": trained_in(folder)})
    history = pd.read_csv(folder / HISTORY_FILE)
    history.round(6).to_csv(out / HISTORY_FILE, index=False)
    write_curves(out / LIVE, history)
    return metrics


def main(variant: str) -> None:
    """Test one variant of the workspace."""
    metrics = measure(variant, load_params(paths.params_file()))
    print(f"{paths.result(variant)}: AP {metrics['ap']:.3f} on {metrics['pictures']} test images")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
