"""Intervals along a curve: how far Figures 4 and 5 could lie elsewhere with other patients, point by point."""

from collections.abc import Sequence
from functools import partial

import pandas as pd

from cmbfe.metrics import intervals
from cmbfe.metrics.curves import Matches, precision_at_sensitivity, sensitivity_at_false_positives
from cmbfe.metrics.intervals import Metric


def precision_band(matches: Matches, sensitivities: Sequence[float], resamples: int, seed: int = 0) -> pd.DataFrame:
    """95 % interval over patients of the precision at each of `sensitivities`; see `_band`."""
    return _band(precision_at_sensitivity, "sensitivity", matches, sensitivities, resamples, seed)


def froc_band(matches: Matches, false_positives: Sequence[float], resamples: int, seed: int = 0) -> pd.DataFrame:
    """95 % interval over patients of the sensitivity at each of `false_positives` per image; see `_band`."""
    return _band(sensitivity_at_false_positives, "false_positives", matches, false_positives, resamples, seed)


def _band(
    metric: Metric, argument: str, matches: Matches, positions: Sequence[float], resamples: int, seed: int
) -> pd.DataFrame:
    """Columns `low` and `high` by position, each as `cmbfe.metrics.intervals.bootstrap` has it.

    Pointwise: a whole curve leaves such a band more often than one time in twenty. All positions resample the same
    patients. NaN where the value does not exist in too many resamples.
    """
    each = [intervals.bootstrap(partial(metric, **{argument: x}), matches, resamples, seed) for x in positions]
    ends = {"low": [one.low for one in each], "high": [one.high for one in each]}
    return pd.DataFrame(ends, index=pd.Index(list(positions), name=argument))
