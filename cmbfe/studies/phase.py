"""What phase as a second channel does: AP and false positives of each kind, paired over patients and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe.metrics.cases import NOTHING, POOR_BOX
from cmbfe.metrics.curves import (
    Value,
    average_precision,
    false_positives_per_cmb,
    largest_sensitivity,
    precision_at_sensitivity,
)
from cmbfe.metrics.intervals import difference_over_seeds
from cmbfe.metrics.matching import FALSE_POSITIVE, IGNORED, Matches
from cmbfe.params import PHASE, Params
from cmbfe.studies.trials.arms import FE, PLAIN, result_files
from cmbfe.studies.trials.phase import kinds_file, load_kinds

Kinds = list[np.ndarray]
"""By seed: the kind of each detection of a false positive, str [D]; empty text for others."""
ALL = "all"
PAIRS = {"": (PLAIN, PHASE), "-fe": (FE, f"{FE}-{PHASE}")}
"""Ending of the detector's name -> treatments without phase and with it."""


def read_kinds(treatment: str, params: Params, root: Path) -> Kinds:
    """The kinds of a treatment's detections, by seed; `InputError` where a file is missing or none of ours."""
    return [load_kinds(kinds_file(file)) for file in result_files(PHASE, treatment, params, root)]


def of_kind(matches: Matches, kinds: np.ndarray, kind: str) -> Matches:
    """The same matches with the false positives of other kinds ignored; hits, and so sensitivities, stay."""
    if kind == ALL:
        return matches
    others = (matches.outcome == FALSE_POSITIVE) & (kinds != kind)
    return replace(matches, outcome=np.where(others, IGNORED, matches.outcome).astype(matches.outcome.dtype))


def false_positives_per_patient(matches: Matches, sensitivity: float, weights: np.ndarray | None = None) -> Value:
    """False positives per patient at the highest threshold of that sensitivity; NaN where it is never reached."""
    cmbs = np.bincount(matches.truth_patient, minlength=len(matches.patients))
    shares = np.ones(len(cmbs)) if weights is None else weights
    return false_positives_per_cmb(matches, sensitivity, weights) * (shares @ cmbs) / shares.sum(axis=-1)


def effect_table(
    runs: Mapping[str, Sequence[Matches]],
    kinds: Mapping[str, Kinds],
    mimics: Sequence[str],
    params: Params,
    resamples: int,
) -> pd.DataFrame:
    """A row per detector (plain, and with FE where it is trained) and metric: without phase, with it, the difference.

    Values are means over seeds; the 95 % interval of the paired difference is over patients and seeds. False positives
    are per patient, at the sensitivity `study.phase.sensitivity`.

    Args:
        runs: treatment -> matches by seed. kinds: the same of `read_kinds`. mimics: kinds of mimics that have a row.
    """
    at = params.study.phase.sensitivity
    metrics = {
        "average precision": average_precision,
        "largest sensitivity": largest_sensitivity,
        f"precision at {at:.0%} sensitivity": partial(precision_at_sensitivity, sensitivity=at),
    }
    per_patient = partial(false_positives_per_patient, sensitivity=at)
    rows = {}
    for ending, pair in PAIRS.items():
        if not set(pair) <= set(runs):
            continue
        name = f"{params.study.phase.detector}{ending}"
        compared = partial(_compared, pair=pair, runs=runs, kinds=kinds, params=params, resamples=resamples)
        for metric, function in metrics.items():
            rows[name, metric] = compared(function, ALL)
        for kind in (*mimics, POOR_BOX, NOTHING, ALL):
            rows[name, f"false positives: {kind}"] = compared(per_patient, kind)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["detector", "metric"])


def _compared(
    metric: Callable[..., Value],
    kind: str,
    pair: tuple[str, str],
    runs: Mapping[str, Sequence[Matches]],
    kinds: Mapping[str, Kinds],
    params: Params,
    resamples: int,
) -> dict[str, float]:
    without, with_phase = (
        [of_kind(matches, own, kind) for matches, own in zip(runs[name], kinds[name], strict=True)] for name in pair
    )
    difference = difference_over_seeds(metric, with_phase, without, resamples, params.seed)
    means = [float(np.mean([metric(matches) for matches in of_seeds])) for of_seeds in (without, with_phase)]
    ends = {"difference": difference.mean, "difference_low": difference.low, "difference_high": difference.high}
    return {"without_phase": means[0], "with_phase": means[1], **ends}


def verdict(row: Mapping[str, float], what: str, lower_is_better: bool = False) -> str:
    """One sentence on a row of `effect_table`."""
    low, high = row["difference_low"], row["difference_high"]
    change = f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    numbers = f"{row['without_phase']:.3f} to {row['with_phase']:.3f}, difference {change}"
    if not np.isfinite([low, high]).all():
        return f"{what}: {numbers}: no interval, a detector does not reach that sensitivity"
    if low <= 0 <= high:
        return f"{what}: {numbers}: inconclusive"
    better = (high < 0) == lower_is_better
    return f"{what}: {numbers}: phase makes it {'better' if better else 'worse'}"
