"""SSD against SSD-FE on generated small objects: dark and bright, easy and hard (`objects` of params.yaml).

    run_arm("dark-easy", params, Path(), jobs=2)

An arm is a data set of `cmbfe.objects`. A seed fixes the training pictures, the initial weights and their order; twins
share all of these, and all trainings of an arm are tested on the same pictures. Files: data/objects, models/objects and
results/objects in the folder `root`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cmbfe import paths
from cmbfe.data.dataset import to_input
from cmbfe.data.labels import LABELS_FILE, read_labels, xyxy
from cmbfe.detector.fe import enhancement_mask
from cmbfe.errors import InputError
from cmbfe.matching import Matches
from cmbfe.metrics import average_precision
from cmbfe.objects import Shape, contrast_to_noise, coverage, look_alikes, make_picture, objects_of, write_objects
from cmbfe.params import Params
from cmbfe.stats import difference_over_seeds
from cmbfe.twins import load_twins, run_all, train_and_test

TEST = "test"
"""The part of an arm's data that all its trainings are tested on."""


def objects_params(seed: int, params: Params) -> Params:
    """The settings of the trainings with a seed."""
    section, schedule = params.objects, params.training
    scale = section.iterations / schedule.iterations
    milestones = sorted({max(1, round(milestone * scale)) for milestone in schedule.milestones})
    training = {"iterations": section.iterations, "longer": {},
                "milestones": tuple(one for one in milestones if one < section.iterations)}  # fmt: skip
    detector = {"width": section.width, "detections_per_picture": section.detections_per_picture}
    return params.model_copy(
        update={
            "seed": seed,
            "training": schedule.model_copy(update=training),
            "detector": params.detector.model_copy(update=detector),
        }
    )


def make_sets(name: str, params: Params, root: Path, progress: bool = True) -> None:
    """Generate the pictures of an arm: one set to test on, and one to train on for each seed."""
    section, arm = params.objects, params.objects.arms[name]
    # The pictures of a set are drawn by seed and number: another seed has none of them.
    sets = {TEST: (_test_seed(params), section.test_pictures)}
    sets |= {str(seed): (seed, section.training_pictures) for seed in section.seeds}
    for part, (seed, pictures) in sets.items():
        split = TEST if part == TEST else "train"
        folder = paths.objects_data(name, part, root)
        write_objects(folder, {split: pictures}, seed, arm.difficulty, arm.polarity, progress)


def _test_seed(params: Params) -> int:
    """Drawn, so that it is none of the seeds of trainings, which are small numbers."""
    return int(np.random.SeedSequence([params.seed, 0x7E57]).generate_state(1)[0])


def run_arm(
    name: str, params: Params, root: Path, jobs: int = 1, backend: str = "loky", progress: bool = True
) -> None:
    """Generate the pictures of an arm, and train and test its twins with each seed; what is done is not repeated.

    Args:
        jobs: trainings at a time on this machine; -1: one per core. They change the time, not the results.
        backend: of joblib, or the address of a dask scheduler, whose workers see `root` under the same path.

    Raises:
        InputError: no such arm, or as `write_objects` and `train`.
    """
    section = params.objects
    if name not in section.arms:
        raise InputError(f"no arm {name!r} in objects.arms of params.yaml; there are: {', '.join(section.arms)}")
    make_sets(name, params, root, progress)
    tasks = [(variant, seed) for seed in section.seeds for variant in _twins(params)]
    run_all(name, tasks, partial(_run, name, params, root.resolve()), jobs, backend, progress)


def _run(name: str, params: Params, root: Path, variant: str, seed: int) -> tuple[str, int, float]:
    """One training and its test."""
    pictures = paths.objects_data(name, TEST, root)
    data = paths.objects_data(name, str(seed), root)
    model, out = paths.objects_model(name, variant, seed, root), _matches_file(name, variant, seed, root)
    settings, test = objects_params(seed, params), read_labels(pictures / LABELS_FILE)
    return variant, seed, train_and_test(variant, settings, data, model, test, pictures, out)


def _twins(params: Params) -> tuple[str, str]:
    return params.objects.variant, f"{params.objects.variant}-fe"


def _matches_file(name: str, variant: str, seed: int, root: Path) -> Path:
    return paths.objects_result(name, root) / f"{variant}-{seed}.npz"


def read_arms(params: Params, root: Path) -> dict[str, tuple[list[Matches], list[Matches]]]:
    """Arm -> what its detectors found, by seed: those without FE, and those with.

    Raises:
        InputError: a training is missing.
    """
    section = params.objects
    return {
        name: load_twins(
            [_matches_file(name, variant, seed, root) for variant in _twins(params) for seed in section.seeds]
        )
        for name in section.arms
    }


def gains_table(runs: Mapping[str, tuple[list[Matches], list[Matches]]], params: Params) -> pd.DataFrame:
    """A row per arm: how hard it is, mean AP over seeds without FE and with, and the gain.

    The gain's 95 % interval is over test pictures, each of which stands for itself as a patient does elsewhere, and
    seeds; the two spreads behind it stand beside it.
    """
    rows = {}
    for name, (without, with_fe) in runs.items():
        arm = params.objects.arms[name]
        gain = difference_over_seeds(
            average_precision, with_fe, without, params.evaluation.bootstrap_samples, params.seed
        )
        rows[name] = {
            "detector": params.objects.variant,
            "polarity": arm.polarity,
            "difficulty": arm.difficulty,
            "contrast_to_noise": contrast_to_noise(arm.difficulty),
            "look_alikes": look_alikes(arm.difficulty),
            "test_objects": len(without[0].truth_ids),
            "seeds": len(with_fe),
            "ap": np.mean([average_precision(one) for one in without]),
            "ap_fe": np.mean([average_precision(one) for one in with_fe]),
            "gain": gain.mean,
            "gain_low": gain.low,
            "gain_high": gain.high,
            "gain_seed_deviation": gain.seed_deviation,
            "gain_picture_deviation": gain.patient_deviation,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


def example_pictures(params: Params) -> dict[str, tuple[np.ndarray, list[tuple[float, ...]]]]:
    """Arm -> its first test picture, uint8 [rows, columns], and the boxes of its objects, [x, y, w, h] px."""
    made = {
        name: make_picture(_test_seed(params), 1, arm.difficulty, arm.polarity)
        for name, arm in params.objects.arms.items()
    }
    return {name: (picture, [shape.box for shape in objects_of(shapes)]) for name, (picture, shapes) in made.items()}


def mask_table(params: Params, pictures: int = 50) -> pd.DataFrame:
    """A row per arm: the mean of FE's mask on objects, and in the corners of their boxes, which are background.

    Of the first test pictures. What `ratio` above 1 says: FE enhances the object more than what surrounds it.
    """
    rows = {}
    for name, arm in params.objects.arms.items():
        numbers = range(1, pictures + 1)
        drawn = (make_picture(_test_seed(params), number, arm.difficulty, arm.polarity) for number in numbers)
        parts = np.concatenate([mask_parts(*one, params.detector.fe.beta) for one in drawn])
        inside, corners = parts.mean(axis=0)
        rows[name] = {"mask_on_object": inside, "mask_in_corners": corners, "ratio": inside / corners}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


def mask_parts(picture: np.ndarray, shapes: Sequence[Shape], beta: float) -> np.ndarray:
    """Mean of FE's mask on each object of a picture, and in its box outside it: [objects, 2].

    Args:
        picture: uint8 [rows, columns].
        shapes: what is in it; look-alikes have no box.
    """
    objects = objects_of(shapes)
    boxes = torch.from_numpy(xyxy([{"bbox": shape.box} for shape in objects]))
    mask = enhancement_mask(to_input(picture[None], boxes.device), [boxes], beta)[0, 0].numpy()
    rows, columns = np.indices(picture.shape) + 0.5
    parts = []
    for shape, (left, top, right, bottom) in zip(objects, boxes.tolist(), strict=True):
        in_box = (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
        window, cover = coverage(shape)
        covered = np.zeros(picture.shape)
        covered[window] = cover
        parts.append((mask[covered == 1].mean(), mask[in_box & (covered == 0)].mean()))
    return np.array(parts)
