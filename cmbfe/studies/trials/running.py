"""Train and test the study's detectors, each on one thread, so that results do not depend on the number of jobs.

The step `train` trains, detects in the test images, and stores model and detections in models/study. The step `test`
matches and measures within seconds, so that a changed metric needs no new training or detection.
"""

from functools import partial
from pathlib import Path
from typing import Literal

from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe import paths
from cmbfe.data.augment import augment_training_set
from cmbfe.data.labelled.detections import DETECTIONS_FILE
from cmbfe.data.labelled.labels import Labels, read_detections
from cmbfe.detector.weights import WEIGHTS_FILE, load_detector
from cmbfe.errors import InputError
from cmbfe.files import read_json, write_json
from cmbfe.metrics.curves import summary
from cmbfe.metrics.matching import match, save_matches
from cmbfe.parallel import at_work, threads
from cmbfe.params import PHASE, Params
from cmbfe.studies.trials.arms import CROSSVALIDATION, PLAIN, arm_of, seeds_of, settings_of, trained_by, variant_of
from cmbfe.studies.trials.patients import fold_labels, fold_test_set, read_mimics, read_test_labels
from cmbfe.studies.trials.phase import kinds_file, kinds_of, save_kinds, write_examples
from cmbfe.training.batches import without_phase
from cmbfe.training.detection import detect_in
from cmbfe.training.devices import make_compute
from cmbfe.training.loop import FINISHED_FILE, train, trained_in

Step = Literal["train", "test"]
STEPS: tuple[Step, ...] = ("train", "test")


def run_arm(
    name: str,
    params: Params,
    root: Path,
    jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
    steps: tuple[Step, ...] = STEPS,
) -> None:
    """Train and test an arm with each of its seeds, or `crossvalidation` with each of its folds.

    Args:
        jobs: number of parallel trainings on this machine; -1 means one per core. The results do not depend on it.
        backend: a joblib backend, or the address of a dask scheduler whose workers see `root` under the same path.
        steps: train, test, or both.

    Raises:
        InputError: no such arm, no patients yet, an untrained arm to start from, or an error of `train`.
    """
    root = root.resolve()
    with at_work(backend, jobs):
        _prepare(name, params, root, jobs, progress)
        tasks = [(treatment, seed) for seed in seeds_of(name, params) for treatment in trained_by(name, params)]
        run = partial(_run, name, params, root, steps)
        done = Parallel(return_as="generator_unordered", batch_size=1)(delayed(run)(*task) for task in tasks)
        bar = tqdm(done, total=len(tasks), desc=name, unit="training", disable=not progress)
        for treatment, seed, ap in bar:
            what = "trained" if ap is None else f"AP {ap:.3f}"
            bar.write(f"{name}: {treatment} with {'fold' if name == CROSSVALIDATION else 'seed'} {seed}: {what}")


def _prepare(name: str, params: Params, root: Path, jobs: int, progress: bool) -> None:
    """Check all inputs before the first training, and make the data that all trainings of the arm share."""
    arm = arm_of(name, params)
    if name == CROSSVALIDATION:
        images = paths.images(root)
        for number in params.crossvalidation.folds:
            fold_test_set(number, params, images)
        for number in params.crossvalidation.folds:
            labels = fold_labels(number, params, images)
            target = paths.fold_data(number, root)
            augment_training_set(labels, images, target, params.augmentation, params.seed, jobs, progress)
        return
    read_test_labels(params, root)
    for treatment in trained_by(name, params):
        for seed in seeds_of(name, params) if arm.start else ():
            if not (_start(name, treatment, seed, params, root) / WEIGHTS_FILE).is_file():
                raise InputError(f"{name}: starts from {arm.start}, which is not trained: cmbfe study {arm.start}")
    if name == PHASE:
        write_examples(params, root)


def _start(name: str, treatment: str, seed: int, params: Params, root: Path) -> Path | None:
    """Folder of the model that a training starts from, with FE if the treatment has FE; None for a normal start."""
    arm = arm_of(name, params)
    if arm.start is None:
        return None
    with_fe = treatment.removesuffix(f"-{PHASE}") not in (PLAIN, PHASE)
    return paths.study_model(arm.start, "fe" if with_fe else PLAIN, seed, root)


def _run(
    name: str, params: Params, root: Path, steps: tuple[Step, ...], treatment: str, seed: int
) -> tuple[str, int, float | None]:
    """Train and test one detector; returns treatment, seed and AP (None without the test)."""
    model = paths.study_model(name, treatment, seed, root)
    labels, images = _test_set(name, seed, params, root)
    if "train" in steps:
        if name == CROSSVALIDATION:
            data = paths.fold_data(seed, root)
        else:
            data = paths.study_training_set(seed, params.study.patients_of(name), root)
        settings, start = settings_of(name, treatment, seed, params), _start(name, treatment, seed, params, root)
        with threads(settings.training.threads):
            train(variant_of(name, treatment, params), settings, data, model, progress=False, start=start)
            _detect(model, settings, labels, images)
    if "test" not in steps:
        return treatment, seed, None
    out = paths.study_result(name, root) / f"{treatment}-{seed}.npz"
    mimics = read_mimics(params, root) if name == PHASE else None
    return treatment, seed, _test(model, labels, params, out, mimics)


def _test_set(name: str, seed: int, params: Params, root: Path) -> tuple[Labels, Path]:
    """The labels of a training's test images, and the folder with these images."""
    if name == CROSSVALIDATION:
        images = paths.images(root)
        return fold_test_set(seed, params, images), images
    labels = read_test_labels(params, root, arm_of(name, params).test_patients)
    return labels, paths.study_data(root) / "pictures"


def _detect(model: Path, settings: Params, labels: Labels, images: Path) -> None:
    """Detect in the test images with a trained detector, with FE off, and write the detections to its folder."""
    compute = make_compute(settings.training.accelerator, settings.training.precision)
    detector = load_detector(model).to(compute.device)
    shown = labels if settings.images.phase else without_phase(labels)
    write_json(model / DETECTIONS_FILE, detect_in(detector, shown, images, compute))


def _test(model: Path, labels: Labels, params: Params, out: Path, mimics: Labels | None) -> float:
    """Write matches and metrics of a training's detections and, if `mimics` are given, the kinds of false positives.

    Returns:
        The AP.
    """
    detections = read_detections(model / DETECTIONS_FILE, labels)
    matches = match(labels, detections, iou=params.evaluation.iou)
    save_matches(matches, out)
    if mimics is not None:
        save_kinds(kinds_of(matches, detections, labels, mimics), kinds_file(out))
    metrics = summary(matches, params.evaluation.sensitivity)
    origin = {"warnings": read_json(model / FINISHED_FILE)["warnings"], "training": trained_in(model)}
    write_json(out.with_suffix(".json"), metrics | origin)
    return metrics["ap"]
