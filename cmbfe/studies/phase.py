"""Effect of phase as a second channel on AP and on false positives of each kind, paired over patients and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe.metrics import curves
from cmbfe.metrics.cases import NOTHING, POOR_BOX
from cmbfe.metrics.curves import Value
from cmbfe.metrics.intervals import columns, difference_over_seeds
from cmbfe.metrics.matching import FALSE_POSITIVE, IGNORED, Matches
from cmbfe.params import PHASE, Params
from cmbfe.studies.reading import ALL, mean_over_seeds
from cmbfe.studies.trials.arms import FE, PLAIN, result_files
from cmbfe.studies.trials.phase import kinds_file, load_kinds

Kinds = list[np.ndarray]
"""For each seed, the kind of each false positive, str [D]; empty text for other detections."""
PAIRS = {"": (PLAIN, PHASE), "-fe": (FE, f"{FE}-{PHASE}")}
"""Suffix of the detector's name -> its treatments without and with phase."""


def read_kinds(treatment: str, params: Params, root: Path) -> Kinds:
    """The kinds of a treatment's detections, by seed; raises `InputError` if a file is missing or unreadable."""
    return [load_kinds(kinds_file(file)) for file in result_files(PHASE, treatment, params, root)]


def of_kind(matches: Matches, kinds: np.ndarray, kind: str) -> Matches:
    """The matches, without false positives of kinds other than `kind`. Hits and sensitivities do not change."""
    if kind == ALL:
        return matches
    others = (matches.outcome == FALSE_POSITIVE) & (kinds != kind)
    return replace(matches, outcome=np.where(others, IGNORED, matches.outcome).astype(matches.outcome.dtype))


def false_positives_per_patient(matches: Matches, sensitivity: float, weights: np.ndarray | None = None) -> Value:
    """False positives per patient at the highest threshold that reaches `sensitivity`; NaN if none reaches it."""
    cmbs = np.bincount(matches.truth_patient, minlength=len(matches.patients))
    shares = np.ones(len(cmbs)) if weights is None else weights
    return curves.false_positives_per_cmb(matches, sensitivity, weights) * (shares @ cmbs) / shares.sum(axis=-1)


def effect_table(
    runs: Mapping[str, Sequence[Matches]],
    kinds: Mapping[str, Kinds],
    mimics: Sequence[str],
    params: Params,
    resamples: int,
) -> pd.DataFrame:
    """A row per detector (without FE and, if trained, with FE) and metric: values without and with phase, difference.

    Values are means over seeds; the 95 % CI of the paired difference is over patients and seeds. False positives
    are per patient, at the sensitivity `study.phase.sensitivity`.

    Args:
        runs: treatment -> matches by seed. kinds: treatment -> `read_kinds`. mimics: kinds of mimics that get a row.
    """
    at = params.study.phase.sensitivity
    per_patient = partial(false_positives_per_patient, sensitivity=at)
    metrics = {
        "average precision": (curves.average_precision, ALL),
        "largest sensitivity": (curves.largest_sensitivity, ALL),
        f"precision at {at:.0%} sensitivity": (partial(curves.precision_at_sensitivity, sensitivity=at), ALL),
        **{f"false positives: {kind}": (per_patient, kind) for kind in (*mimics, POOR_BOX, NOTHING, ALL)},
    }
    rows = {}
    for ending, treatments in PAIRS.items():
        if not set(treatments) <= set(runs):
            continue
        detector = f"{params.study.phase.detector}{ending}"
        for name, (metric, kind) in metrics.items():
            without, with_phase = (
                [of_kind(*matches_and_kinds, kind) for matches_and_kinds in zip(runs[key], kinds[key], strict=True)]
                for key in treatments
            )
            difference = difference_over_seeds(metric, with_phase, without, resamples, params.seed)
            rows[detector, name] = {
                "without_phase": mean_over_seeds(metric, without),
                "with_phase": mean_over_seeds(metric, with_phase),
                **columns("difference", difference),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["detector", "metric"])


def verdict(row: Mapping[str, float], what: str, lower_is_better: bool = False) -> str:
    """A sentence that interprets a row of `effect_table`."""
    low, high = row["difference_low"], row["difference_high"]
    change = f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    numbers = f"{row['without_phase']:.3f} to {row['with_phase']:.3f}, difference {change}"
    if not np.isfinite([low, high]).all():
        return f"{what}: {numbers}: no interval, a detector does not reach that sensitivity"
    if low <= 0 <= high:
        return f"{what}: {numbers}: inconclusive"
    better = (high < 0) == lower_is_better
    return f"{what}: {numbers}: phase makes it {'better' if better else 'worse'}"
