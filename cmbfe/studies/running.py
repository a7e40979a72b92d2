"""The study's trainings and their tests, each on one thread, so that no result depends on how many run at a time.

A finished training is not repeated (`cmbfe.training.loop.train`); its test is computed each time.
"""

from functools import partial
from pathlib import Path
from typing import Literal

from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe import paths
from cmbfe.data.augment import augment_training_set
from cmbfe.data.labelled.labels import Labels
from cmbfe.detector.weights import WEIGHTS_FILE, load_detector
from cmbfe.errors import InputError
from cmbfe.files import read_json, write_json
from cmbfe.metrics.cases import kinds
from cmbfe.metrics.curves import summary
from cmbfe.metrics.matching import FALSE_POSITIVE, Matches, match, save_matches
from cmbfe.parallel import at_work, one_thread
from cmbfe.params import PHASE, Params
from cmbfe.studies.arms import CROSSVALIDATION, PLAIN, arm_of, seeds_of, settings_of, trained_by, variant_of
from cmbfe.studies.patients import fold_labels, fold_test_set, read_mimics, read_test_labels
from cmbfe.studies.phase import save_kinds, write_examples
from cmbfe.training.batches import without_phase
from cmbfe.training.detection import detect_in
from cmbfe.training.devices import make_compute
from cmbfe.training.loop import FINISHED_FILE, train

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
        jobs: trainings at a time on this machine; -1: one per core. They change the time, not the results.
        backend: of joblib, or the address of a dask scheduler, whose workers see `root` under the same path.
        steps: train, test, or both.

    Raises:
        InputError: no such arm, no patients yet, a start that is not trained, or as `train`.
    """
    root = root.resolve()
    _prepare(name, params, root, jobs, progress)
    tasks = [(treatment, seed) for seed in seeds_of(name, params) for treatment in trained_by(name, params)]
    run = partial(_run, name, params, root, steps)
    with at_work(backend, jobs):
        done = Parallel(return_as="generator_unordered", batch_size=1)(delayed(run)(*task) for task in tasks)
        bar = tqdm(done, total=len(tasks), desc=name, unit="training", disable=not progress)
        for treatment, seed, ap in bar:
            what = "trained" if ap is None else f"AP {ap:.3f}"
            bar.write(f"{name}: {treatment} with {'fold' if name == CROSSVALIDATION else 'seed'} {seed}: {what}")


def _prepare(name: str, params: Params, root: Path, jobs: int, progress: bool) -> None:
    """Everything that can be refused before the first training, and what all trainings of the arm share."""
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
    """The model that a training starts from: that of its arm's start, with FE where the treatment has FE."""
    arm = arm_of(name, params)
    if arm.start is None:
        return None
    with_fe = treatment.removesuffix(f"-{PHASE}") not in (PLAIN, PHASE)
    return paths.study_model(arm.start, "fe" if with_fe else PLAIN, seed, root)


def _run(
    name: str, params: Params, root: Path, steps: tuple[Step, ...], treatment: str, seed: int
) -> tuple[str, int, float | None]:
    """One training and its test; the AP where it was tested."""
    settings = settings_of(name, treatment, seed, params)
    model = paths.study_model(name, treatment, seed, root)
    data = paths.fold_data(seed, root) if name == CROSSVALIDATION else _training_set(name, seed, params, root)
    with one_thread():
        if "train" in steps:
            start = _start(name, treatment, seed, params, root)
            train(variant_of(name, treatment, params), settings, data, model, progress=False, start=start)
        ap = _test(name, treatment, seed, settings, params, root) if "test" in steps else None
    return treatment, seed, ap


def _training_set(name: str, seed: int, params: Params, root: Path) -> Path:
    return paths.study_training_set(seed, params.study.patients_of(name), root)


def _test(name: str, treatment: str, seed: int, settings: Params, params: Params, root: Path) -> float:
    """Write matches and metrics of a trained detector on its test images, FE off; its AP."""
    is_fold = name == CROSSVALIDATION
    images = paths.images(root) if is_fold else paths.study_data(root) / "pictures"
    test = (
        fold_test_set(seed, params, images)
        if is_fold
        else read_test_labels(params, root, arm_of(name, params).test_patients)
    )
    model, out = paths.study_model(name, treatment, seed, root), paths.study_result(name, root)
    if not (model / FINISHED_FILE).is_file():
        raise InputError(f"{model}: no finished training; run cmbfe study {name} without --only test")
    compute = make_compute(settings.training.accelerator, settings.training.precision)
    detector = load_detector(model).to(compute.device)
    shown = test if settings.images.phase else without_phase(test)
    detections = detect_in(detector, shown, images, compute)
    matches = match(test, detections, iou=params.evaluation.iou)
    save_matches(matches, out / f"{treatment}-{seed}.npz")
    if name == PHASE:
        of_each = kinds_of(matches, detections, test, read_mimics(params, root))
        save_kinds(of_each, out / f"{treatment}-{seed}-kinds.npz")
    metrics = summary(matches, params.evaluation.sensitivity)
    warnings = read_json(model / FINISHED_FILE)["warnings"]
    write_json(out / f"{treatment}-{seed}.json", metrics | {"warnings": warnings})
    return metrics["ap"]


def kinds_of(matches: Matches, detections: list[dict], labels: Labels, mimics: Labels) -> list[str]:
    """What each detection of `matches` is on if it is a false positive (`cases.kinds`), else an empty text."""
    is_false = matches.outcome == FALSE_POSITIVE
    of_false = iter(kinds([detections[index] for index in matches.detection[is_false]], labels, mimics))
    return [next(of_false) if false else "" for false in is_false]
