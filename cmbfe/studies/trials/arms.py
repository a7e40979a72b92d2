"""The trainings of an arm of the study, their settings, and the files of their results."""

from pathlib import Path
from typing import get_args

from cmbfe import paths
from cmbfe.errors import InputError
from cmbfe.params import PHASE, Arm, Params, Variant

PLAIN = "plain"  # the detector without any treatment, with which each treatment is compared
FE = "fe"
CROSSVALIDATION = "crossvalidation"  # the part of the study whose seeds are folds


def arm_of(name: str, params: Params) -> Arm:
    """The arm of this name, which may also be `crossvalidation`.

    Raises:
        InputError: no such arm.
    """
    arms = params.study.every_arm | {CROSSVALIDATION: Arm(detector=params.crossvalidation.detector)}
    if name not in arms:
        raise InputError(f"no arm {name!r} in study.arms of params.yaml; there are: {', '.join(arms)}")
    return arms[name]


def of_ours(params: Params) -> list[str]:
    """Names of the arms with our own SSD variants, except the arm with phase."""
    return [name for name, arm in params.study.arms.items() if arm.detector in get_args(Variant)]


def of_torchvision(params: Params) -> list[str]:
    """Names of the arms with torchvision's detectors."""
    return [name for name in params.study.arms if name not in of_ours(params)]


def seeds_of(name: str, params: Params) -> tuple[int, ...]:
    """The seeds of an arm, or the folds of `crossvalidation`."""
    return params.crossvalidation.folds if name == CROSSVALIDATION else params.study.seeds_of(name)


def trained_by(name: str, params: Params) -> tuple[str, ...]:
    """The treatments that an arm trains, including the plain detector unless the arm changes only FE."""
    own = name == CROSSVALIDATION or params.study.plain_arm(name) == name
    return ((PLAIN,) if own else ()) + arm_of(name, params).treatments


def variant_of(name: str, treatment: str, params: Params) -> str:
    """Name of the detector that a treatment trains, as `cmbfe.training.loop.train` expects it."""
    alternative = {PLAIN: "", PHASE: "", f"{FE}-{PHASE}": FE}.get(treatment, treatment)
    return "-".join(filter(None, (arm_of(name, params).detector, alternative)))


def sees_phase(treatment: str) -> bool:
    """Whether the detectors of a treatment get phase as a second channel."""
    return treatment in (PHASE, f"{FE}-{PHASE}")


def settings_of(name: str, treatment: str, seed: int, params: Params) -> Params:
    """The settings of one training of an arm. It uses one thread, because several trainings run in parallel."""
    one_thread = {"training": params.training.model_copy(update={"threads": 1})}
    params = params.model_copy(update=one_thread)
    if name == CROSSVALIDATION:
        return params
    arm = arm_of(name, params)
    changed = params.changed(arm.settings)
    detector = changed.detector.model_copy(update={"detections_per_image": params.study.detections_per_image})
    training = changed.training.scaled_to(arm.iterations) if arm.iterations else changed.training
    training = training.lengthened(arm.longer)
    images = changed.images.model_copy(update={"phase": sees_phase(treatment)})
    return changed.model_copy(update={"seed": seed, "detector": detector, "training": training, "images": images})


def text_of(name: str, params: Params) -> str:
    """The changes of an arm as text; empty if there are none."""
    arm = arm_of(name, params)
    changes = [f"{key} = {value}" for key, value in arm.settings.items()]
    if arm.iterations:
        changes.append(f"{arm.iterations} iterations")
    if arm.patients:
        changes.append(f"{arm.patients} of {params.study.training_patients[-1]} training patients")
    return ", ".join(changes)


def result_files(name: str, treatment: str, params: Params, root: Path) -> list[Path]:
    """Files with the matches of a treatment's detectors, one per seed. A .json file beside each holds the metrics.

    An arm that changes only FE shares the plain detector of the unchanged arm.
    """
    is_shared = treatment == PLAIN and name != CROSSVALIDATION
    arm = params.study.plain_arm(name) if is_shared else name
    return [paths.study_result(arm, root) / f"{treatment}-{seed}.npz" for seed in seeds_of(name, params)]
