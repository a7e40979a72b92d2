"""Trainings of torchvision's detectors, with FE or a relative and without, over seeds, and their tests.

    run_detector("fcos-small", params, Path())

Patients, augmented training sets and seeds are those of the study (`cmbfe.studies.study`); tested are the first of its test
patients. Files: models/others and results/others in the folder `root`.
"""

from functools import partial
from pathlib import Path

from cmbfe import paths
from cmbfe.data.labelled.labels import LABELS_FILE, Labels
from cmbfe.detector import alternatives
from cmbfe.detector.alternatives import PLAIN
from cmbfe.detector.weights import WEIGHTS_FILE
from cmbfe.errors import InputError
from cmbfe.files import sha256_of
from cmbfe.metrics.matching import Matches, match
from cmbfe.parallel import one_thread
from cmbfe.params import Params, Training
from cmbfe.studies.other_training import Spec, train_any
from cmbfe.studies.patients import read_test_labels
from cmbfe.studies.twins import measured_once, run_all
from cmbfe.training.detection import detect_in
from cmbfe.training.devices import make_compute


def schedule_of(detector: str, params: Params) -> Training:
    """The training of a detector and its twins: milestones fall where they do in the section `training`."""
    others, training = params.others, params.training
    iterations = others.detectors[detector]
    milestones = sorted({max(1, round(one * iterations / training.iterations)) for one in training.milestones})
    changed = {"iterations": iterations, "milestones": tuple(one for one in milestones if one < iterations)}
    own = others.model_dump(include={"learning_rate", "warm_up_iterations", "clip_gradient_norm"})
    return training.model_copy(update=changed | own)


def run_detector(
    detector: str, params: Params, root: Path, jobs: int = 1, backend: str = "loky", progress: bool = True
) -> None:
    """Train and test a detector with each seed, without and with FE (and its relatives, where params.yaml says so).

    What is done already is not repeated.

    Args:
        jobs: trainings at a time, on one thread each.
        backend: of joblib, or the address of a dask scheduler.

    Raises:
        InputError: the detector is not in `others.detectors`, no patients yet, or as `train_any`.
    """
    others = params.others
    if detector not in others.detectors:
        known = ", ".join(others.detectors)
        raise InputError(f"no detector {detector!r} in others.detectors of params.yaml; there are: {known}")
    for name in others.relatives_on(detector):
        alternatives.find(name)
    tested_labels(params, root)
    tasks = [(relative, seed) for seed in others.seeds for relative in (PLAIN, *others.relatives_on(detector))]
    run_all(detector, tasks, partial(_run, detector, params, root.resolve()), jobs, backend, progress)


def tested_labels(params: Params, root: Path) -> Labels:
    """The study's test images of its first so many test patients.

    Raises:
        InputError: the study's patients were not made yet.
    """
    labels = read_test_labels(params, root)
    patients = sorted({image["patient_id"] for image in labels["images"]})[: params.others.test_patients]
    images = [image for image in labels["images"] if image["patient_id"] in patients]
    shown = {image["id"] for image in images}
    return {**labels, "images": images, "annotations": [b for b in labels["annotations"] if b["image_id"] in shown]}


def _run(detector: str, params: Params, root: Path, relative: str, seed: int) -> tuple[str, int, float]:
    """One training and its test, on one thread."""
    schedule = schedule_of(detector, params)
    spec = Spec(detector, relative, params.others.layer, seed, params.phantom.matrix_px, schedule)
    data = paths.study_training_set(seed, params.study.training_patients[-1], root)
    folder, out = paths.others_model(detector, relative, seed, root), paths.others_result(detector, root)
    with one_thread():
        compute = make_compute(schedule.accelerator, schedule.precision)
        model = train_any(spec, data, folder, compute, progress=False)
        test = tested_labels(params, root)
        belongs_to = {
            "weights_sha256": sha256_of([folder / WEIGHTS_FILE]),
            "labels_sha256": sha256_of([paths.study_data(root) / "pictures" / LABELS_FILE]),
            "test_patients": params.others.test_patients,
            "iou": params.evaluation.iou,
        }

        def found() -> Matches:
            on_test = detect_in(model, test, paths.study_data(root) / "pictures", compute)
            return match(test, on_test, iou=params.evaluation.iou)

        ap = measured_once(found, belongs_to, params.evaluation.sensitivity, out / f"{relative}-{seed}.npz")
    return relative, seed, ap
