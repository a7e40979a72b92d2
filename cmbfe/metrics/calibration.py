"""Operating points and calibration of a detector: for example, whether 70 % of detections with score 0.7 are hits."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cmbfe.errors import InputError
from cmbfe.metrics.curves import Value, at_threshold, threshold_at_sensitivity
from cmbfe.metrics.intervals import bootstrap, columns
from cmbfe.metrics.matching import HIT, IGNORED, Matches

BINS = 10
OPERATING_VALUES = ("sensitivity", "precision", "false_positives_per_cmb", "false_positives_per_picture")


def reliability(matches: Matches) -> pd.DataFrame:
    """The reliability diagram as a table: `BINS` bins of equal width over the scores [0, 1].

    Columns `low`, `high` (a score on an edge is in the upper bin), `detections`, `mean_score`, `precision`
    (the share of hits). Bins without detections are NaN. Ignored detections are left out. Missed microbleeds have no
    score and are left out too.

    Raises:
        InputError: scores outside [0, 1].
    """
    counts = matches.outcome != IGNORED
    score, hit = matches.score[counts], matches.outcome[counts] == HIT
    if not has_probabilities(matches):
        raise InputError(f"scores reach from {score.min():g} to {score.max():g}: no probabilities to calibrate")
    number = np.minimum((score * BINS).astype(int), BINS - 1)
    detections = np.bincount(number, minlength=BINS)
    empty = np.where(detections > 0, detections, np.nan)
    return pd.DataFrame(
        {
            "low": np.arange(BINS) / BINS,
            "high": np.arange(1, BINS + 1) / BINS,
            "detections": detections,
            "mean_score": np.bincount(number, score, BINS) / empty,
            "precision": np.bincount(number, hit, BINS) / empty,
        }
    )


def has_probabilities(matches: Matches) -> bool:
    """Whether the scores of all detections, except ignored detections, lie in [0, 1]; true without detections."""
    score = matches.score[matches.outcome != IGNORED]
    return bool(((score >= 0) & (score <= 1)).all())


def expected_calibration_error(matches: Matches) -> float:
    """Mean distance between score and precision over the bins, weighted by detections (Guo et al. 2017).

    NaN without detections. Raises the errors of `reliability`.
    """
    table = reliability(matches).dropna()
    if table.empty:
        return np.nan
    return float(np.average((table["mean_score"] - table["precision"]).abs(), weights=table["detections"]))


def operating_points(
    validation: Mapping[str, Matches], test: Mapping[str, Matches], sensitivity: float, resamples: int, seed: int
) -> pd.DataFrame:
    """Each detector's threshold, and its performance at that threshold on the test patients: a row per detector.

    The threshold is the highest that reaches `sensitivity` on the validation patients; test patients do not affect it.
    Values have 95 % intervals over test patients. They are NaN if no threshold reaches that sensitivity.
    `calibration_error` is the mean distance between score and share of hits on the test images (Guo et al. 2017).

    Args:
        validation, test: variant -> matches, the same variants in both.
    """
    rows = {name: _row(validation[name], test[name], sensitivity, resamples, seed) for name in test}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def _row(validation: Matches, test: Matches, sensitivity: float, resamples: int, seed: int) -> dict[str, float]:
    threshold = threshold_at_sensitivity(validation, sensitivity)
    row = {"threshold": threshold}
    for name in OPERATING_VALUES:

        def at(matches: Matches, weights: np.ndarray, name: str = name) -> Value:
            return at_threshold(matches, threshold, weights)[name]

        row |= columns(name, None if np.isnan(threshold) else bootstrap(at, test, resamples, seed))
    return row | {"calibration_error": expected_calibration_error(test)}
