"""The score at which a detector is run: chosen on the validation patients, judged on the test patients."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cmbfe.metrics import intervals
from cmbfe.metrics.calibration import expected_calibration_error
from cmbfe.metrics.curves import at_threshold, threshold_at_sensitivity
from cmbfe.metrics.matching import Matches
from cmbfe.params import Evaluation

VALUES = ("sensitivity", "precision", "false_positives_per_cmb", "false_positives_per_picture")


def operating_points(
    validation: Mapping[str, Matches], test: Mapping[str, Matches], settings: Evaluation, seed: int
) -> pd.DataFrame:
    """A row per detector: the threshold, and what the detector does there on the test patients.

    The threshold is the highest that reaches `settings.sensitivity` on the validation patients; no test patient has a
    say in it. Values come with 95 % intervals over test patients, NaN where no threshold reaches that sensitivity.
    `calibration_error` is the mean distance between score and share of hits on the test images (Guo et al. 2017).

    Args:
        validation, test: variant -> matches, the same variants in both.
    """
    rows = {name: _row(validation[name], test[name], settings, seed) for name in test}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def _row(validation: Matches, test: Matches, settings: Evaluation, seed: int) -> dict[str, float]:
    threshold = threshold_at_sensitivity(validation, settings.sensitivity)
    row = {"threshold": threshold}
    for name in VALUES:
        row |= dict.fromkeys((name, f"{name}_low", f"{name}_high"), np.nan)
        if not np.isnan(threshold):
            interval = intervals.bootstrap(_value(name, threshold), test, settings.bootstrap_samples, seed)
            row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row | {"calibration_error": expected_calibration_error(test)}


def _value(name: str, threshold: float) -> intervals.Metric:
    """One value of `at_threshold` as a metric of its own."""
    return lambda matches, weights: at_threshold(matches, threshold, weights)[name]
