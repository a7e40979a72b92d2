"""The ablation study: SSD against SSD-FE over several seeds, and the paper's open readings one at a time.

    run_arm("ssd300", params, Path(), jobs=2)

An arm is a detector and its FE twin with some settings changed (`study.arms` of params.yaml). A seed fixes the training
patients, their augmentation, the initial weights and the order of the images; all arms of a seed share these. Each
training runs on one thread, so that its result does not depend on how many run beside it. Files: data/study,
models/study and results/study in the folder `root`.
"""

from functools import partial
from pathlib import Path

from cmbfe import paths
from cmbfe.errors import InputError
from cmbfe.metrics.matching import Matches
from cmbfe.params import Params
from cmbfe.studies.patients import read_test_labels
from cmbfe.studies.twins import load_twins, run_all, train_and_test


def arm_params(name: str, seed: int, params: Params) -> Params:
    """The settings of an arm's trainings with a seed."""
    changed = params.changed(params.study.arms[name].settings)
    detector = changed.detector.model_copy(update={"detections_per_image": params.study.detections_per_image})
    return changed.model_copy(update={"seed": seed, "detector": detector})


def run_arm(
    name: str, params: Params, root: Path, jobs: int = 1, backend: str = "loky", progress: bool = True
) -> None:
    """Train and test an arm with each of its seeds; what is done already is not repeated.

    Where an arm changes FE only, its detector without FE is that of the arm without changes, and is trained there.

    Args:
        jobs: trainings at a time on this machine; -1: one per core. They change the time, not the results.
        backend: of joblib, or the address of a dask scheduler, whose workers see `root` under the same path.

    Raises:
        InputError: no such arm, no patients yet, or as `train`.
    """
    study = params.study
    if name not in study.arms:
        raise InputError(f"no arm {name!r} in study.arms of params.yaml; there are: {', '.join(study.arms)}")
    read_test_labels(params, root)
    tasks = [(variant, seed) for seed in study.seeds_of(name) for variant in study.variants_of(name)]
    run_all(name, tasks, partial(_run, name, params, root.resolve()), jobs, backend, progress)


def _run(name: str, params: Params, root: Path, variant: str, seed: int) -> tuple[str, int, float]:
    """One training and its test, on one thread."""
    settings = arm_params(name, seed, params)
    data = paths.study_training_set(seed, params.study.patients_of(name), root)
    model = paths.study_model(name, variant, seed, root)
    test, images = read_test_labels(params, root), paths.study_data(root) / "pictures"
    out = paths.study_result(name, root) / f"{variant}-{seed}.npz"
    return variant, seed, train_and_test(variant, settings, data, model, test, images, out)


def matches_of(name: str, params: Params, root: Path) -> tuple[list[Matches], list[Matches]]:
    """What an arm's detectors found, by seed: those without FE, and those with.

    Raises:
        InputError: a training of the arm is missing.
    """
    return load_twins(match_files(name, params, root))


def match_files(name: str, params: Params, root: Path) -> list[Path]:
    """Where an arm's matches are: by seed of its detectors without FE, then of those with."""
    study = params.study
    plain = study.arms[name].variant
    arms = {plain: study.arm_without_fe(name), f"{plain}-fe": name}
    return [
        paths.study_result(arm, root) / f"{variant}-{seed}.npz"
        for variant, arm in arms.items()
        for seed in study.seeds_of(name)
    ]
