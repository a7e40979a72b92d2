"""Training labels of simulated readers, who miss microbleeds and mark mimics. The majority decides.

References:
    [Rose 1948] A. Rose, J Opt Soc Am 38:196: visibility of a disc in noise depends on contrast times diameter.
"""

from collections.abc import Mapping

import numpy as np
from scipy.special import expit

from cmbfe.errors import InputError
from cmbfe.metrics.agreement import fleiss_kappa
from cmbfe.params import Readers
from cmbfe.phantom.plan import halved

_READERS = 0x4EAD  # added to the seed, so that readers do not change patients
STEEPNESS = 3.0
"""The odds of seeing a microbleed grow with this power of contrast times diameter. No value is published."""
LEAST_SPREAD = 0.1
"""Lower limit for the standard deviation of a trait, so that a few similar microbleeds do not rule out all mimics."""

Findings = list[Mapping]
"""Findings of patient.json."""


def as_read(patients: Mapping[str, Mapping], readers: Readers, seed: int) -> tuple[dict[str, Mapping], dict]:
    """Give training patients the microbleeds that most readers mark. Patients of other splits keep the truth.

    Args:
        patients: contents of patient.json by patient id.

    Returns:
        The patients, and a record for the labels' `info`: settings, numbers of microbleeds and mimics, `missed`
        microbleeds and `taken` mimics by reader and by majority, and Fleiss' kappa over all (None if undefined).

    Raises:
        InputError: no microbleed in the training split.
    """
    training = [name for name, patient in patients.items() if patient["plan"]["split"] == "train"]
    known = [(name, finding) for name in training for finding in patients[name]["findings"]]
    findings = [finding for _, finding in known]
    if not _are_cmbs(findings).any():
        raise InputError("phantom.readers: no training patient has a microbleed to mark; ask for more of them")
    chances = chances_of_marks(findings, readers)
    marks = np.random.default_rng([seed, _READERS]).random((len(findings), readers.number)) < chances[:, None]
    marked = 2 * marks.sum(axis=1) > readers.number
    read: dict[str, Findings] = {name: [] for name in training}
    for (name, finding), is_marked in zip(known, marked, strict=True):
        if is_marked:
            read[name].append({**finding, "kind": "cmb"})
    as_marked = {name: {**patients[name], "findings": own} for name, own in read.items()}
    return {**patients, **as_marked}, _record(readers, _are_cmbs(findings), marks, marked)


def chances_of_marks(findings: Findings, readers: Readers) -> np.ndarray:
    """Probability that a reader marks each finding as a microbleed, float64 [n].

    For microbleeds, it depends on conspicuity (Rose 1948); for mimics, on their likeness to the microbleeds. Diameter
    and number of slices count as log-normal, contrast as normal. The settings give the mean probabilities.
    """
    are_cmbs = _are_cmbs(findings)
    traits = np.array([(one["visible_diameter_mm"], one["contrast"], len(one["boxes"])) for one in findings])
    traits = traits.reshape(-1, 3).clip(0.01)
    seen = STEEPNESS * np.log(traits[:, 0] * traits[:, 1])
    look = np.column_stack([np.log(traits[:, 0]), traits[:, 1], np.log(traits[:, 2])])
    typical = look[are_cmbs]
    unlike = ((look - typical.mean(axis=0)) / typical.std(axis=0).clip(LEAST_SPREAD)) ** 2
    chances = np.empty(len(findings))
    chances[are_cmbs] = 1 - _with_mean(-seen[are_cmbs], readers.misses)
    chances[~are_cmbs] = _with_mean(-unlike.sum(axis=1)[~are_cmbs] / 2, readers.mimics)
    return chances


def _are_cmbs(findings: Findings) -> np.ndarray:
    return np.array([finding["kind"] == "cmb" for finding in findings], bool)


def _with_mean(log_odds: np.ndarray, mean: float) -> np.ndarray:
    """Probabilities of log-odds, all shifted by the same number so that the mean of the probabilities is `mean`."""
    shift = halved(lambda shift: float(expit(log_odds + shift).sum()), mean * len(log_odds), -1e3, 1e3)
    return expit(log_odds + shift)


def _record(readers: Readers, are_cmbs: np.ndarray, marks: np.ndarray, marked: np.ndarray) -> dict:
    kappa = fleiss_kappa(marks)
    return {
        "asked": readers.model_dump(),
        "microbleeds": int(are_cmbs.sum()),
        "mimics": int((~are_cmbs).sum()),
        "missed": (~marks[are_cmbs]).sum(axis=0).tolist(),
        "taken": marks[~are_cmbs].sum(axis=0).tolist(),
        "missed_by_majority": int((~marked[are_cmbs]).sum()),
        "taken_by_majority": int(marked[~are_cmbs].sum()),
        "fleiss_kappa": None if np.isnan(kappa) else kappa,
    }
