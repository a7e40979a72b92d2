"""The detector in the folder of a model: its network, its image settings and its threshold."""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
from torch import nn

from cmbfe.detector.weights import CONFIG_FILE, load_model
from cmbfe.errors import InputError
from cmbfe.files import read_json, within_python
from cmbfe.params import Images, load_params
from cmbfe.training.devices import Compute, make_compute

SHIPPED = Path(__file__).with_name("models")
"""Detectors that ship with the package, float16 (`tools/ship_models.py`); README.md there names the training data."""


@dataclass(frozen=True)
class Detector:
    """A network and the device it runs on."""

    model: nn.Module
    compute: Compute
    name: str = "detector"


@lru_cache(maxsize=1)
def load_detector(folder: Path) -> Detector:
    """The detector in a model's folder, ready to run. Each process loads the detector once, for all of its series."""
    compute = make_compute(precision="32-true")
    with within_python(folder):
        model = load_model(folder)
    if not all(bool(values.isfinite().all()) for values in model.state_dict().values()):
        raise InputError(f"{folder}: a weight of the model is no finite number: it detects nothing; train it again")
    return Detector(model.to(compute.device), compute, model.config.variant)


def model_folder(given: Path) -> Path:
    """The given folder of a model or, if it does not exist, the folder of the shipped model with this name."""
    shipped = SHIPPED / given.name
    return shipped if not given.exists() and given == Path(given.name) and shipped.is_dir() else given


def model_settings(folder: Path) -> tuple[Images, str]:
    """The image settings that a model was trained with, and its variant ("" if config.json names none). Raises
    `InputError` if params.yaml or config.json cannot be read."""
    if not (folder / CONFIG_FILE).exists():
        if below := sorted(folder.glob(f"*/{CONFIG_FILE}")):
            raise InputError(f"{folder}: holds models; give one: {', '.join(file.parent.name for file in below)}")
        missing = f"{folder / CONFIG_FILE}: no such file" if folder.is_dir() else f"{folder}: no such folder"
        shipped = ", ".join(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG_FILE}")))
        raise InputError(f"{missing}; give the folder of a model, as `cmbfe train` leaves it, or {shipped}")
    with within_python(folder):
        settings = load_params(folder / "params.yaml").images
        config = read_json(folder / CONFIG_FILE)
    return settings, str(config.get("variant", "")) if isinstance(config, dict) else ""


def chosen_threshold(given: float | None, file: Path | None, variant: str) -> tuple[float, str]:
    """The detection threshold and its origin in words: the value `given`, that in `file` (`read_threshold`), or 0.5.
    Raises `InputError` if neither `given` nor `file` is None, or for a file that `read_threshold` refuses."""
    if given is not None and file is not None:
        raise InputError("--threshold and --operating-point are two thresholds; give one of them")
    if file is not None:
        return read_threshold(file, variant), "operating point of the validation patients"
    return (0.5, "default") if given is None else (given, "given")


def read_threshold(file: Path, variant: str) -> float:
    """Read a detector's threshold, which was chosen on validation patients.

    Args:
        file: operating_point.csv of notebook 08_operating_point, or metrics.json of `cmbfe evaluate`.
        variant: the detector's name, such as ssd512.

    Raises:
        InputError: another kind of file, not exactly one row of the detector, or no threshold from 0 to 1.
    """
    if file.suffix.lower() != ".json":
        value = _threshold_of_table(file, variant)
    elif isinstance(content := read_json(file), dict) and "threshold" in content:
        value = content["threshold"]
    else:
        raise InputError(f"{file}: holds no threshold; give the metrics.json of cmbfe evaluate")
    try:
        threshold = math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        threshold = math.inf
    if math.isnan(threshold):
        raise InputError(f"{file}: {variant} never reaches the wanted sensitivity: no threshold; give --threshold")
    if isinstance(value, bool) or not 0 <= threshold <= 1:
        raise InputError(f"{file}: the threshold of {variant} is {str(value)[:40]}, not from 0 to 1, as scores are")
    return threshold


def _threshold_of_table(file: Path, variant: str) -> object:
    try:
        table = pd.read_csv(file)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; correct the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as CSV: {error}; give operating_point.csv") from None
    if not {"variant", "threshold"} <= set(table.columns):
        raise InputError(f"{file}: columns variant and threshold are expected; give operating_point.csv")
    rows = table[table["variant"] == variant]
    if len(rows) != 1:
        raise InputError(f"{file}: {len(rows)} rows of {variant}; it names {', '.join(map(str, table['variant']))}")
    return rows["threshold"].iloc[0]
