"""Cross-validation by patient: each patient is tested once, by twins trained on the patients of the other folds.

    run_fold(1, params, Path("data/pictures"), Path())
    run_folds(params, Path("data/pictures"), Path(), backend="tcp://host:8786")
    gather(params, Path("data/pictures"), Path())

The paper compares SSD and SSD-FE in ten folds (section 3). Files of a fold: data/folds, models/folds and
results/crossvalidation in the folder `root`.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from tqdm import tqdm

from cmbfe import paths
from cmbfe.data.augment import augment_training_set
from cmbfe.data.labelled.detections import DETECTIONS_FILE
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, read_detections, read_labels
from cmbfe.data.labelled.splits import labels_of_fold, paper_test_set
from cmbfe.detector.weights import load_model
from cmbfe.errors import InputError
from cmbfe.files import write_json
from cmbfe.metrics import intervals
from cmbfe.metrics.curves import average_precision, summary
from cmbfe.metrics.matching import Matches, match
from cmbfe.paper import facts
from cmbfe.parallel import at_work
from cmbfe.params import Params
from cmbfe.training.detection import detect_in
from cmbfe.training.devices import make_compute
from cmbfe.training.loop import train

METRICS_FILE = "metrics.json"
MEAN, ALL = "mean", "all"
"""Rows of the table after those of the folds: the mean over folds, and all folds' detections together."""
_TRAINING = Lock()
"""A process trains one detector at a time: PyTorch's seed belongs to the process."""


def fold_labels(number: int, params: Params, images: Path) -> Labels:
    """All labels in `images`, the patients of a fold in split "test" and all others in "train".

    Raises:
        InputError: no such fold, unreadable labels, or fewer patients than folds.
    """
    folds = len(params.crossvalidation.folds)
    return labels_of_fold(read_labels(images / LABELS_FILE), number, folds, params.seed)


def fold_test_set(number: int, params: Params, images: Path) -> Labels:
    """The test images of a fold: those with microbleeds, and as many with mimics only, or all of those.

    Raises:
        InputError: as `fold_labels`, or no microbleed in this fold, or none in the others.
    """
    labels, mimics = fold_labels(number, params, images), read_labels(images / MIMICS_FILE)
    split_of = {image["id"]: image["split"] for image in labels["images"]}
    bled = {split_of[box["image_id"]] for box in labels["annotations"]}
    for split, patients in (("test", "its patients"), ("train", "the patients of the others")):
        if split not in bled:
            raise InputError(f"{images / LABELS_FILE}: fold {number}: {patients} have no microbleed; use fewer folds")
    return paper_test_set(labels, mimics, params.seed, fewer=True)


def run_fold(
    number: int, params: Params, images: Path, root: Path, jobs: int = -1, progress: bool = True
) -> dict[str, dict[str, float | int]]:
    """Train both twins on the patients outside a fold, and write what they find in those inside.

    A killed training goes on where it was; a finished one is not repeated.

    Args:
        images: folder with the images, annotations.json and mimics.json.
        root: folder for data/folds, models/folds and results/crossvalidation.
        jobs: processes that augment; they change the time, not the bytes.

    Returns:
        Variant -> all metrics on the fold's test images.

    Raises:
        InputError: as `fold_test_set`, `augment_training_set` and `train`.
    """
    test = fold_test_set(number, params, images)
    labels, data = fold_labels(number, params, images), paths.fold_data(number, root)
    with _TRAINING:
        augment_training_set(labels, images, data, params.augmentation, params.seed, jobs, progress)
        tested = len({image["patient_id"] for image in test["images"]})
        print(f"fold {number} of {len(params.crossvalidation.folds)}: {tested} test patients")
        metrics = {}
        for variant in params.crossvalidation.variants:
            train(variant, params, data, paths.fold_model(number, variant, root), progress)
            metrics[variant] = _test(number, variant, params, test, images, root)
    return metrics


def _test(
    number: int, variant: str, params: Params, test: Labels, images: Path, root: Path
) -> dict[str, float | int]:
    """Write detections and metrics of a trained variant on a fold's test images; without ground truth, so no FE."""
    compute = make_compute(params.training.accelerator, params.training.precision)
    model = load_model(paths.fold_model(number, variant, root)).to(compute.device)
    found = detect_in(model, test, images, compute)
    metrics = summary(match(test, found, iou=params.evaluation.iou), params.evaluation.sensitivity)
    out = paths.fold_result(number, variant, root)
    write_json(out / DETECTIONS_FILE, found)
    write_json(out / METRICS_FILE, metrics)
    return metrics


def run_folds(
    params: Params, images: Path, root: Path, jobs: int = 1, backend: str = "loky", progress: bool = True
) -> dict[int, dict[str, dict[str, float | int]]]:
    """Run every fold: one after another, several at a time on this machine, or on a dask cluster.

    Args:
        jobs: folds at a time on this machine; -1: one per core. With a scheduler, its workers decide.
        backend: of joblib, "loky" (processes); or the address of a dask scheduler, such as "tcp://host:8786", whose
            workers see `images` and `root` under the same paths.

    Returns:
        Fold -> variant -> all metrics on its test images.

    Raises:
        InputError: as `run_fold`, before anything is written where a fold cannot be made; no such backend.
    """
    numbers = params.crossvalidation.folds
    for number in numbers:
        fold_test_set(number, params, images)
    with at_work(backend, jobs):
        at_a_time = min(effective_n_jobs(None), len(numbers))
        alone = at_a_time == 1 and "://" not in backend
        where = (params, images.resolve(), root.resolve(), alone, progress)
        made = Parallel(at_a_time, return_as="generator_unordered", batch_size=1)(
            delayed(_one_of_many)(number, *where) for number in numbers
        )
        bar = tqdm(made, total=len(numbers), desc="cross-validation", unit="fold", disable=not progress or alone)
        done = dict(bar)
    return {number: done[number] for number in numbers}


def _one_of_many(
    number: int, params: Params, images: Path, root: Path, alone: bool, progress: bool
) -> tuple[int, dict[str, dict[str, float | int]]]:
    """A fold with its number; beside others it starts no processes of its own and draws no bars."""
    if alone:
        return number, run_fold(number, params, images, root, progress=progress)
    with parallel_config("sequential"):
        return number, run_fold(number, params, images, root, jobs=1, progress=False)


def match_folds(params: Params, images: Path, root: Path) -> dict[str, dict[str, Matches]]:
    """Fold number, and "all" for the folds together -> variant -> its detections matched to the test images.

    Together means that detections are ranked by their scores over all folds, though each fold's come from a training
    of its own: trainings that score differently for equal evidence lower the AP of "all", not that of a fold.

    Raises:
        InputError: as `fold_test_set`, or a fold's detections are missing or belong to other images.
    """
    tests = {number: fold_test_set(number, params, images) for number in params.crossvalidation.folds}
    together = {**tests[1], "images": [], "annotations": []}
    for test in tests.values():
        together["images"] += test["images"]
        together["annotations"] += test["annotations"]
    matches: dict[str, dict[str, Matches]] = {str(number): {} for number in tests} | {ALL: {}}
    for variant in params.crossvalidation.variants:
        pooled = []
        for number, test in tests.items():
            found = read_detections(paths.fold_result(number, variant, root) / DETECTIONS_FILE, test)
            matches[str(number)][variant] = match(test, found, iou=params.evaluation.iou)
            pooled += found
        matches[ALL][variant] = match(together, pooled, iou=params.evaluation.iou)
    return matches


def gather(params: Params, images: Path, root: Path) -> pd.DataFrame:
    """The table of a cross-validation whose folds are done: a row per fold, their mean, and all patients together.

    AP without FE and with, and the gain, paired by patient, with 95 % intervals over patients (NaN for the mean). The
    paper's values stand beside the mean and "all", as it does not say which of the two it prints.

    Raises:
        InputError: as `match_folds`.
    """
    return crossvalidation_table(match_folds(params, images, root), params)


def crossvalidation_table(matches: Mapping[str, Mapping[str, Matches]], params: Params) -> pd.DataFrame:
    """The table of `gather` from what `match_folds` gives."""
    plain, twin = params.crossvalidation.variants
    rows = {name: _row(of_fold[plain], of_fold[twin], params) for name, of_fold in matches.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("fold")
    table.loc[MEAN] = table.drop(index=ALL)[["our_ap", "our_ap_fe", "our_gain"]].mean()
    table = table.reindex([*(name for name in matches if name != ALL), MEAN, ALL])
    table.insert(0, "detector", plain)
    printed = [facts.TEN_FOLD_AP.get(variant, np.nan) for variant in (plain, twin)]
    table.loc[[MEAN, ALL], ["paper_ap", "paper_ap_fe", "paper_gain"]] = [*printed, printed[1] - printed[0]]
    counts = ["patients", "pictures", "cmbs"]
    return table.astype(dict.fromkeys(counts, "Int64"))


def _row(plain: Matches, twin: Matches, params: Params) -> dict[str, float | int]:
    """Counts, AP of both twins and the gain, each with its interval."""
    resamples = params.evaluation.bootstrap_samples
    with_fe, without, gain = intervals.compare(average_precision, twin, plain, resamples, params.seed)
    counts = {
        "patients": len(plain.patients),
        "pictures": int(plain.images_per_patient.sum()),
        "cmbs": len(plain.truth_ids),
    }
    named = {"our_ap": without, "our_ap_fe": with_fe, "our_gain": gain}
    ends = {
        key: value
        for name, one in named.items()
        for key, value in ((name, one.value), (f"{name}_low", one.low), (f"{name}_high", one.high))
    }
    return counts | ends
