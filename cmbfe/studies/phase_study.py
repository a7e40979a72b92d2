"""Detectors that see phase as a second channel beside those that do not: the study's, trained on, and tested.

    run_detectors(params, Path(), jobs=2)

Each detector of the study's arm `phase.arm` goes on training twice, with phase and without: same seed, patients,
augmentation, order and schedule. Files: models/phase and results/phase in the folder `root`.
"""

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe import paths
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, read_labels
from cmbfe.detector.weights import WEIGHTS_FILE, load_model, save_model
from cmbfe.errors import InputError
from cmbfe.files import read_json, sha256_of, whole_file, write_json
from cmbfe.metrics.cases import kinds
from cmbfe.metrics.curves import summary
from cmbfe.metrics.matching import FALSE_POSITIVE, Matches, load_matches, match, save_matches
from cmbfe.parallel import at_work, one_thread
from cmbfe.params import Params, save_params
from cmbfe.studies.phase_examples import write_examples
from cmbfe.studies.phase_images import phase_seeds, read_test
from cmbfe.studies.study import arm_params
from cmbfe.training.batches import LabelledImages, content_hash, list_labelled, read_images
from cmbfe.training.detection import detect_in
from cmbfe.training.devices import make_compute
from cmbfe.training.iteration import Run
from cmbfe.training.loader import MadeAhead, parts_of_iteration
from cmbfe.training.loop import FINISHED_FILE, HISTORY_FILE, PARAMS_FILE, WHERE_IT_RUNS, code_hash, is_trained

CHANNELS = ("magnitude", "phase")
"""What detectors see: the magnitude, or the magnitude and the phase."""
HIT_OR_IGNORED = ""
"""In the place of a kind, of detections that are no false positives."""


def variants(params: Params) -> tuple[str, str]:
    """The detector that is compared, and its FE twin."""
    plain = params.study.arms[params.phase.arm].variant
    return plain, f"{plain}-fe"


def run_detectors(params: Params, root: Path, jobs: int = 1, backend: str = "loky", progress: bool = True) -> None:
    """Train the study's detectors on, with phase and without, and test both; what is done already is not repeated.

    Args:
        jobs: trainings at a time on this machine; -1: one per core. They change the time, not the results.
        backend: of joblib, or the address of a dask scheduler, whose workers see `root` under the same path.

    Raises:
        InputError: no images with phase, a training of the study that is missing, or as `Run.step`.
    """
    write_examples(params, root)
    tasks = list(product(variants(params), phase_seeds(params)))
    for variant, seed in tasks:
        folder = paths.study_model(params.phase.arm, variant, seed, root)
        if not (folder / WEIGHTS_FILE).is_file():
            raise InputError(f"{folder}: the study's detector is not trained: cmbfe study {params.phase.arm}")
    with at_work(backend, jobs):
        made = Parallel(return_as="generator_unordered", batch_size=1)(
            delayed(_run)(variant, seed, params, root.resolve()) for variant, seed in tasks
        )
        bar = tqdm(made, total=len(tasks), desc="phase", unit="training", disable=not progress)
        for variant, seed, ap in bar:
            both = f"{ap['phase']:.3f}, without phase {ap['magnitude']:.3f}"
            bar.write(f"{variant} with seed {seed}: AP {both}")


def _run(variant: str, seed: int, params: Params, root: Path) -> tuple[str, int, dict[str, float]]:
    """Both trainings of a detector of the study and their tests, on one thread; the AP of each."""
    with one_thread():
        for channels in CHANNELS:
            _train_on(channels, variant, seed, params, root)
        return variant, seed, {channels: _test(channels, variant, seed, params, root) for channels in CHANNELS}


def _settings(channels: str, seed: int, params: Params) -> Params:
    """The study's settings with the schedule of `phase`."""
    phase, settings = params.phase, arm_params(params.phase.arm, seed, params)
    schedule = {"iterations": phase.iterations, "milestones": (2 * phase.iterations // 3,), "longer": {}}
    schedule |= {"learning_rate": phase.learning_rate, "warm_up_iterations": phase.iterations // 10}
    changed = {
        "training": settings.training.model_copy(update=schedule),
        "images": settings.images.model_copy(update={"phase": channels == "phase"}),
    }
    return settings.model_copy(update=changed)


def _train_on(channels: str, variant: str, seed: int, params: Params, root: Path) -> None:
    """Go on training the study's detector, with phase or without, unless that is done.

    From scratch and with the study's schedule, a detector that sees phase hardly begins to learn (docs/phase.md). The
    study's detector was trained on three equal channels, which are those of images without any phase.
    """
    start = paths.study_model(params.phase.arm, variant, seed, root)
    out = paths.phase_model(channels, variant, seed, root)
    settings, folder = _settings(channels, seed, params), paths.phase_training_set(seed, root)
    labels = read_labels(folder / LABELS_FILE)
    listed = list_labelled(labels if channels == "phase" else without_phase(labels), folder)
    compute = make_compute(settings.training.accelerator, settings.training.precision)
    schedule = settings.training.model_dump(exclude=WHERE_IT_RUNS, mode="json") | {"precision": compute.precision}
    hashes = {"start_sha256": sha256_of([start / WEIGHTS_FILE]), "data_sha256": content_hash(listed)}
    belongs_to = {"seed": seed, "training": schedule, "code_sha256": code_hash(), **hashes}
    if is_trained(out, belongs_to):
        return
    images = LabelledImages(listed.names, read_images(listed.images), listed.boxes)
    run = Run(load_model(start), settings.training, settings.detector.fe.schedule, compute)
    run.model.train()
    batch, accumulate = settings.training.batch, settings.training.accumulate
    draw = partial(parts_of_iteration, images, seed, batch, accumulate, (0, 1))
    for parts in MadeAhead(draw, range(settings.training.iterations)):
        run.step(parts)
    save_model(run.bare_model, out)
    save_params(settings, out / PARAMS_FILE)
    with whole_file(out / HISTORY_FILE) as temporary:
        pd.DataFrame(run.history).to_csv(temporary, index=False)
    write_json(out / FINISHED_FILE, belongs_to)


def _test(channels: str, variant: str, seed: int, params: Params, root: Path) -> float:
    """Write what a trained detector finds on the test images, unless it is there; its AP."""
    model, images = paths.phase_model(channels, variant, seed, root), paths.phase_data(root) / "pictures"
    file = paths.phase_result(channels, root) / f"{variant}-{seed}.json"
    belongs_to = {
        "weights_sha256": sha256_of([model / WEIGHTS_FILE]),
        "labels_sha256": sha256_of([images / LABELS_FILE, images / MIMICS_FILE]),
        "test_patients": params.phase.test_patients,
        "iou": params.evaluation.iou,
    }
    whole = all(one.is_file() for one in (file, file.with_suffix(".npz"), _kinds_file(file)))
    if whole and (known := read_json(file))["belongs_to"] == belongs_to:
        return known["ap"]
    test, mimics = read_test(params, root)
    compute = make_compute(params.training.accelerator, params.training.precision)
    shown = test if channels == "phase" else without_phase(test)
    found = detect_in(load_model(model).to(compute.device), shown, images, compute)
    matches = match(test, found, iou=params.evaluation.iou)
    save_matches(matches, file.with_suffix(".npz"))
    _save_kinds(kinds_of(matches, found, test, mimics), _kinds_file(file))
    metrics = summary(matches, params.phase.sensitivity)
    write_json(file, metrics | {"belongs_to": belongs_to})
    return metrics["ap"]


def without_phase(labels: Labels) -> Labels:
    """The labels of the same images, which then are read without their phase."""
    images = [{key: value for key, value in one.items() if key != "phase_file_name"} for one in labels["images"]]
    return {**labels, "images": images}


def kinds_of(matches: Matches, found: list[dict], labels: Labels, mimics: Labels) -> list[str]:
    """What each detection of `matches` is on if it is a false positive (`cases.kinds`), else `HIT_OR_IGNORED`."""
    is_false = matches.outcome == FALSE_POSITIVE
    of_false = iter(kinds([found[index] for index in matches.detection[is_false]], labels, mimics))
    return [next(of_false) if false else HIT_OR_IGNORED for false in is_false]


def read_found(channels: str, variant: str, params: Params, root: Path) -> list[tuple[Matches, np.ndarray]]:
    """What a detector found with each seed, and the kind of each detection, str [D], see `kinds_of`.

    Raises:
        InputError: a training or its test is missing.
    """
    files = [paths.phase_result(channels, root) / f"{variant}-{seed}.npz" for seed in phase_seeds(params)]
    return [(load_matches(file), _load_kinds(_kinds_file(file))) for file in files]


def _kinds_file(file: Path) -> Path:
    return file.with_name(f"{file.stem}-kinds.npz")


def _save_kinds(of_each: list[str], path: Path) -> None:
    names, codes = np.unique(np.array(of_each, dtype=np.str_), return_inverse=True)
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, names=names, codes=codes.astype(np.uint8))


def _load_kinds(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["names"][file["codes"]]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: no file of kinds: {' '.join(str(error).split())}") from None
