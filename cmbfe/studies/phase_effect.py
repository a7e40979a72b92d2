"""What phase as a second channel does: AP and false positives of each kind, paired over patients and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe import paths
from cmbfe.metrics.cases import NOTHING, POOR_BOX
from cmbfe.metrics.curves import (
    Value,
    average_precision,
    false_positives_per_cmb,
    largest_sensitivity,
    precision_at_sensitivity,
)
from cmbfe.metrics.intervals import SeedSummary, difference_over_seeds
from cmbfe.metrics.matching import FALSE_POSITIVE, IGNORED, Matches
from cmbfe.params import Params
from cmbfe.studies.phase_images import phase_seeds
from cmbfe.studies.phase_study import CHANNELS, read_found, variants

Found = list[tuple[Matches, np.ndarray]]
"""By seed: what a detector found, and the kind of each detection (`phase_study.kinds_of`)."""
ALL = "all"
CALCIFICATION = "calcification"


def read_complete(params: Params, root: Path) -> dict[str, dict[str, Found]]:
    """Detector -> channels -> what was found, for detectors that are trained and tested with every seed."""
    done = [
        variant
        for variant in variants(params)
        if all(
            (paths.phase_result(channels, root) / f"{variant}-{seed}.npz").is_file()
            for channels in CHANNELS
            for seed in phase_seeds(params)
        )
    ]
    return {name: {channels: read_found(channels, name, params, root) for channels in CHANNELS} for name in done}


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
    found: Mapping[str, Mapping[str, Found]], kinds: Sequence[str], params: Params, resamples: int
) -> pd.DataFrame:
    """A row per detector and metric: without phase, with it, the difference and its 95 % interval.

    Values are means over seeds; the interval of the paired difference is over patients and seeds (`stats`). False
    positives are per patient, at the sensitivity `phase.sensitivity`.

    Args:
        found: what `read_complete` gives. kinds: kinds of mimics that have a row.
    """
    at = params.phase.sensitivity
    metrics = {
        "average precision": average_precision,
        "largest sensitivity": largest_sensitivity,
        f"precision at {at:.0%} sensitivity": partial(precision_at_sensitivity, sensitivity=at),
    }
    per_patient = partial(false_positives_per_patient, sensitivity=at)
    rows = {}
    for name, of_channels in found.items():
        for metric, function in metrics.items():
            rows[name, metric] = _compared(function, of_channels, ALL, params, resamples)
        for kind in (*kinds, POOR_BOX, NOTHING, ALL):
            rows[name, f"false positives: {kind}"] = _compared(per_patient, of_channels, kind, params, resamples)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["detector", "metric"])


def _compared(
    metric: Callable[..., Value], of_channels: Mapping[str, Found], kind: str, params: Params, resamples: int
) -> dict[str, float]:
    without, with_phase = ([of_kind(*one, kind) for one in of_channels[name]] for name in CHANNELS)
    difference = difference_over_seeds(metric, with_phase, without, resamples, params.seed)
    means = [float(np.mean([metric(one) for one in runs])) for runs in (without, with_phase)]
    return {"without_phase": means[0], "with_phase": means[1], **_told(difference)}


def _told(difference: SeedSummary) -> dict[str, float]:
    return {"difference": difference.mean, "difference_low": difference.low, "difference_high": difference.high}


def seeds_table(found: Mapping[str, Mapping[str, Found]], params: Params) -> pd.DataFrame:
    """A row per detector and seed: AP, and false positives on calcifications per patient, without phase and with."""
    rows = {}
    for name, of_channels in found.items():
        for number, seed in enumerate(phase_seeds(params)):
            row = {}
            for channels in CHANNELS:
                matches, kinds = of_channels[channels][number]
                row[f"ap_{channels}"] = average_precision(matches)
                row[f"calcifications_{channels}"] = false_positives_per_patient(
                    of_kind(matches, kinds, CALCIFICATION), params.phase.sensitivity
                )
            rows[name, seed] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["detector", "seed"])


def gains_table(found: Mapping[str, Mapping[str, Found]], params: Params, resamples: int) -> pd.DataFrame:
    """Gain in AP by FE, by what the detectors see: mean over seeds, 95 % interval; empty where a twin is not there."""
    plain, twin = variants(params)
    rows = {}
    for channels in CHANNELS if {plain, twin} <= set(found) else ():
        ours, theirs = ([matches for matches, _ in found[name][channels]] for name in (twin, plain))
        rows[channels] = _told(difference_over_seeds(average_precision, ours, theirs, resamples, params.seed))
    columns = ["difference", "difference_low", "difference_high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("sees")


def verdict(row: Mapping[str, float], what: str, lower_is_better: bool = False) -> str:
    """One sentence on a row of `effect_table`."""
    low, high = row["difference_low"], row["difference_high"]
    change = f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    numbers = f"{row['without_phase']:.3f} to {row['with_phase']:.3f}, difference {change}"
    if not np.isfinite([low, high]).all():
        return f"{what}: {numbers}: no interval, a detector does not reach that sensitivity"
    if low <= 0 <= high:
        return f"{what}: {numbers}: whether phase changes it cannot be told"
    better = (high < 0) == lower_is_better
    return f"{what}: {numbers}: phase makes it {'better' if better else 'worse'}"
