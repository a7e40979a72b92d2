"""The score from which on a detection counts, as it was chosen on validation patients."""

from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe.errors import InputError
from cmbfe.files import read_json, within_python


def chosen_threshold(given: float | None, file: Path | None, variant: str) -> tuple[float, str]:
    """The threshold to detect with, and where it comes from, in words: given, read from a file, or 0.5.

    Args:
        file: see `read_threshold`, as is `variant`.

    Raises:
        InputError: both are given, or as `read_threshold`.
    """
    if given is not None and file is not None:
        raise InputError("--threshold and --operating-point are two thresholds; give one of them")
    if file is not None:
        return read_threshold(file, variant), "operating point of the validation patients"
    return (0.5, "default") if given is None else (given, "given")


def read_threshold(file: Path, variant: str) -> float:
    """Read a detector's threshold.

    Args:
        file: results/tables/operating_point.csv of notebook 08_operating_point (a row per variant), or the metrics.json
            that `cmbfe evaluate` writes.
        variant: the detector's name, such as ssd512.

    Raises:
        InputError: neither of the two, no row of that detector, or one without a threshold from 0 to 1.
    """
    value = _of_json(file) if file.suffix.lower() == ".json" else _of_table(file, variant)
    try:
        threshold = np.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        reason = f"has no threshold there, but {str(value)[:40]!r}, which is no score"
        raise InputError(f"{file}: {variant} {reason}; give --threshold") from None
    if np.isnan(threshold):
        reason = "has no threshold there: it never reaches the wanted sensitivity on the validation patients"
        raise InputError(f"{file}: {variant} {reason}; give --threshold")
    if isinstance(value, bool) or not 0 <= threshold <= 1:
        raise InputError(f"{file}: the threshold of {variant} is {value}, and not from 0 to 1, as scores are")
    return threshold


def _of_json(file: Path) -> object:
    with within_python(file):
        content = read_json(file)
    if not isinstance(content, dict) or "threshold" not in content:
        raise InputError(f"{file}: holds no threshold; give the metrics.json of cmbfe evaluate")
    return content["threshold"]


def _of_table(file: Path, variant: str) -> object:
    try:
        table = pd.read_csv(file)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as CSV: {error}") from None
    if not {"variant", "threshold"} <= set(table.columns):
        raise InputError(f"{file}: columns variant and threshold are expected; give operating_point.csv")
    rows = table[table["variant"] == variant]
    if len(rows) != 1:
        raise InputError(f"{file}: {len(rows)} rows of {variant}; it names {', '.join(map(str, table['variant']))}")
    return rows["threshold"].iloc[0]
