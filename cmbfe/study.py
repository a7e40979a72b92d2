"""The ablation study: SSD against SSD-FE over several seeds, and the paper's open readings one at a time.

    run_arm("ssd300", params, Path(), jobs=2)

An arm is a detector and its FE twin with some settings changed (`study.arms` of params.yaml). A seed fixes the training
patients, their augmentation, the initial weights and the order of the pictures; all arms of a seed share these. Each
training runs on one thread, so that its result does not depend on how many run beside it. Files: data/study,
models/study and results/study in the folder `root`.
"""

from pathlib import Path

from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe import paths
from cmbfe.data.labels import LABELS_FILE
from cmbfe.detect import detect_in
from cmbfe.detector.weights import WEIGHTS_FILE, load_model
from cmbfe.devices import make_compute
from cmbfe.errors import InputError
from cmbfe.files import read_json, sha256_of, write_json
from cmbfe.matches_file import load_matches, save_matches
from cmbfe.matching import Matches, match
from cmbfe.metrics import summary
from cmbfe.parallel import at_work
from cmbfe.params import Params
from cmbfe.study_patients import read_test_labels
from cmbfe.threads import one_thread
from cmbfe.train import train


def arm_params(name: str, seed: int, params: Params) -> Params:
    """The settings of an arm's trainings with a seed."""
    changed = params.changed(params.study.arms[name].settings)
    detector = changed.detector.model_copy(update={"detections_per_picture": params.study.detections_per_picture})
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
    with at_work(backend, jobs):
        made = Parallel(return_as="generator_unordered", batch_size=1)(
            delayed(_run)(name, variant, seed, params, root.resolve()) for variant, seed in tasks
        )
        bar = tqdm(made, total=len(tasks), desc=name, unit="training", disable=not progress)
        for variant, seed, ap in bar:
            bar.write(f"{name}: {variant} with seed {seed}: AP {ap:.3f}")


def _run(name: str, variant: str, seed: int, params: Params, root: Path) -> tuple[str, int, float]:
    """One training and its test, on one thread."""
    settings = arm_params(name, seed, params)
    data = paths.study_training_set(seed, params.study.patients_of(name), root)
    model = paths.study_model(name, variant, seed, root)
    with one_thread():
        train(variant, settings, data, model, progress=False)
        return variant, seed, _test(name, variant, seed, params, root)


def _test(name: str, variant: str, seed: int, params: Params, root: Path) -> float:
    """Write what a trained detector finds on the test pictures, unless it is there; its AP."""
    model, out = paths.study_model(name, variant, seed, root), paths.study_result(name, root)
    test = read_test_labels(params, root)
    belongs_to = {
        "weights_sha256": sha256_of([model / WEIGHTS_FILE]),
        "labels_sha256": sha256_of([paths.study_data(root) / "pictures" / LABELS_FILE]),
        "iou": params.evaluation.iou,
    }
    file, found = out / f"{variant}-{seed}.json", out / f"{variant}-{seed}.npz"
    if file.is_file() and found.is_file() and (known := read_json(file))["belongs_to"] == belongs_to:
        return known["ap"]
    compute = make_compute(params.training.accelerator, params.training.precision)
    detector = load_model(model).to(compute.device)
    on_test = detect_in(detector, test, paths.study_data(root) / "pictures", compute)
    matches = match(test, on_test, iou=params.evaluation.iou)
    metrics = summary(matches, params.evaluation.sensitivity)
    save_matches(matches, found)
    write_json(file, metrics | {"belongs_to": belongs_to})
    return metrics["ap"]


def matches_of(name: str, params: Params, root: Path) -> tuple[list[Matches], list[Matches]]:
    """What an arm's detectors found, by seed: those without FE, and those with.

    Raises:
        InputError: a training of the arm is missing.
    """
    found = [load_matches(file) for file in match_files(name, params, root)]
    return found[: len(found) // 2], found[len(found) // 2 :]


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
