"""Matches as a small file: what every metric and interval of a training can be computed from again, without boxes."""

from pathlib import Path

import numpy as np

from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.metrics.matching import Matches

ARRAYS = {
    "score": np.float32,
    "outcome": np.int8,
    "truth": np.int32,
    "patient": np.uint16,
    "truth_ids": np.int32,
    "truth_patient": np.uint16,
    "images_per_patient": np.uint16,
}
"""Type in the file of each array of `Matches`."""


def save_matches(matches: Matches, path: Path) -> None:
    """Write matches as compressed NumPy arrays; equal matches give equal bytes.

    Scores are kept as float32, ids of ground truths are integers, and which detection of the list it was is not kept.
    """
    arrays = {name: np.asarray(getattr(matches, name)).astype(kind) for name, kind in ARRAYS.items()}
    patients = np.array([str(patient) for patient in matches.patients], dtype=np.str_)
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, **arrays, patients=patients)


def load_matches(path: Path) -> Matches:
    """Read matches; `detection` is -1 throughout.

    Raises:
        InputError: no such file, or not one of `save_matches`.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*ARRAYS, "patients")}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: no file of matches: {' '.join(str(error).split())}") from None
    detections = len(arrays["score"])
    return Matches(
        score=arrays["score"].astype(np.float64),
        outcome=arrays["outcome"],
        truth=arrays["truth"].astype(np.int64),
        detection=np.full(detections, -1),
        patient=arrays["patient"].astype(np.int64),
        truth_ids=arrays["truth_ids"].tolist(),
        truth_patient=arrays["truth_patient"].astype(np.int64),
        patients=arrays["patients"].tolist(),
        images_per_patient=arrays["images_per_patient"].astype(np.int64),
    )
