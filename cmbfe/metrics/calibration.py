"""Whether scores are probabilities: of the detections that score 0.7, are 70 % microbleeds?"""

import numpy as np
import pandas as pd

from cmbfe.errors import InputError
from cmbfe.metrics.matching import HIT, IGNORED, Matches

BINS = 10


def reliability(matches: Matches, bins: int = BINS) -> pd.DataFrame:
    """The reliability diagram as a table: `bins` bins of equal width over the scores [0, 1].

    Columns `low`, `high` (a score on an edge is in the upper bin), `detections`, `mean_score`, `precision`
    (the share of hits). Bins without detections are NaN. Ignored detections are left out. Only detections
    are judged: a missed microbleed has no score.

    Raises:
        InputError: scores outside [0, 1].
    """
    counts = matches.outcome != IGNORED
    score, hit = matches.score[counts], matches.outcome[counts] == HIT
    if not has_probabilities(matches):
        raise InputError(f"scores reach from {score.min():g} to {score.max():g}: no probabilities to calibrate")
    number = np.minimum((score * bins).astype(int), bins - 1)
    detections = np.bincount(number, minlength=bins)
    empty = np.where(detections > 0, detections, np.nan)
    return pd.DataFrame(
        {
            "low": np.arange(bins) / bins,
            "high": np.arange(1, bins + 1) / bins,
            "detections": detections,
            "mean_score": np.bincount(number, score, bins) / empty,
            "precision": np.bincount(number, hit, bins) / empty,
        }
    )


def has_probabilities(matches: Matches) -> bool:
    """Whether all scores of the detections that count lie in [0, 1]; so they do where there are none."""
    score = matches.score[matches.outcome != IGNORED]
    return bool(((score >= 0) & (score <= 1)).all())


def expected_calibration_error(matches: Matches, bins: int = BINS) -> float:
    """Mean distance of score and precision over the bins, weighted by detections (Guo et al. 2017).

    NaN without detections.

    Raises:
        InputError: scores outside [0, 1].
    """
    table = reliability(matches, bins).dropna()
    if table.empty:
        return np.nan
    return float(np.average((table["mean_score"] - table["precision"]).abs(), weights=table["detections"]))
