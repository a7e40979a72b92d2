"""Every path of the pipeline, in the workspace or in the folder `root`."""

from pathlib import Path

from cmbfe.errors import InputError


def workspace() -> Path:
    """Return the nearest folder, from the current one upwards, that holds a params.yaml.

    Papermill runs notebooks in this folder and nbval in its notebooks/, so that both find the same workspace.

    Raises:
        InputError: no params.yaml here or above.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise InputError(f"{here}: no params.yaml here or above; run inside a clone, or write one: cmbfe profile smoke")


def params_file() -> Path:
    return workspace() / "params.yaml"


def raw() -> Path:
    """The DICOM series and the files that describe them."""
    return workspace() / "data" / "raw"


def images(root: Path | None = None) -> Path:
    """8-bit images and their labels."""
    return (root or workspace()) / "data" / "pictures"


def augmented() -> Path:
    """The augmented training set."""
    return workspace() / "data" / "augmented"


def model(variant: str) -> Path:
    return workspace() / "models" / variant


def result(variant: str) -> Path:
    return workspace() / "results" / variant


def table(name: str, root: Path | None = None) -> Path:
    return (root or workspace()) / "results" / "tables" / f"{name}.csv"


def summary() -> Path:
    """The test AP of every variant: the metrics that `dvc exp show` compares."""
    return workspace() / "results" / "summary.json"


def figure(name: str) -> Path:
    return workspace() / "results" / "figures" / f"{name}.png"


def fold_data(number: int, root: Path | None = None) -> Path:
    """The augmented training set of a fold."""
    return (root or workspace()) / "data" / "folds" / str(number)


def study_data(root: Path | None = None) -> Path:
    """Data of the study's patients, in the folders `raw`, `pictures` and `augmented`."""
    return (root or workspace()) / "data" / "study"


def study_training_set(seed: int, patients: int, root: Path | None = None) -> Path:
    """The augmented images of the first `patients` training patients of a seed."""
    return study_data(root) / "augmented" / f"{seed}-{patients}"


def study_model(arm: str, treatment: str, seed: int, root: Path | None = None) -> Path:
    return (root or workspace()) / "models" / "study" / arm / f"{treatment}-{seed}"


def study_result(arm: str, root: Path | None = None) -> Path:
    """Results of an arm's detectors on their test images."""
    return (root or workspace()) / "results" / "study" / arm


def study_cmbs(root: Path | None = None) -> Path:
    """The microbleeds of the study's test images, with size and contrast."""
    return (root or workspace()) / "results" / "study" / "test_cmbs.csv"


def phase_example(name: str, root: Path | None = None) -> Path:
    """A cut-out of a test image. Its phase is in a file beside it."""
    return study_result("phase", root) / "examples" / f"{name}.png"


def phase_mimics(root: Path | None = None) -> Path:
    """Table with the number of mimics of each kind on the test images of the arm with phase."""
    return study_result("phase", root) / "test_mimics.csv"
