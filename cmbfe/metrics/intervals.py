"""Uncertainty of a metric: bootstrap over patients, paired differences, seeds, and the power of a study.

Patients are resampled, never images or boxes, since the images of one patient are alike. Two detectors are compared on
the same resamples of the same patients. Percentile and BCa intervals are widened for few patients (`tail`);
docs/metrics.md reports their measured coverage.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cmbfe.errors import InputError
from cmbfe.metrics.curves import precision_at_sensitivity, sensitivity_at_false_positives
from cmbfe.metrics.matching import Matches

RESAMPLES = 10_000
LEVEL = 0.95  # confidence of every interval
MOST_TIMES = 1e6
"""Largest ratio of spread to requested half width. A larger ratio needs more than 10^12 seeds or patients."""
RESAMPLES_AT_ONCE = 250  # resamples in one call of a metric, which bounds the memory
Metric = Callable[..., Any]  # from `cmbfe.metrics.curves`: takes matches and `weights` [B, P], returns [B]
Statistic = Callable[[np.ndarray], np.ndarray]
"""Function from weights [B, P] (how often each of P patients counts) to values [B], or to several columns."""


@dataclass(frozen=True)
class Interval:
    """A value with its intervals and standard error from resampling."""

    value: float
    low: float  # percentile interval, widened for few patients
    high: float
    bca_low: float  # bias-corrected and accelerated interval (Efron 1987), also widened
    bca_high: float
    standard_error: float
    undefined: int  # resamples without a defined value, such as when a sensitivity is never reached


def bootstrap(metric: Metric, matches: Matches, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Value of a metric with its intervals over patients."""
    return interval_of(lambda weights: metric(matches, weights=weights), len(matches.patients), resamples, seed)


def paired_difference(
    metric: Metric, matches: Matches, baseline: Matches, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """`metric(matches) - metric(baseline)` with its intervals; see `compare`."""
    return compare(metric, matches, baseline, resamples, seed)[2]


def compare(
    metric: Metric, matches: Matches, baseline: Matches, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Interval, Interval, Interval]:
    """Intervals of `metric(matches)`, of `metric(baseline)` and of their difference, on the same resampled patients.

    Raises:
        InputError: `matches` and `baseline` have different ground truth.
    """
    _check_paired([matches, baseline])

    def both(weights: np.ndarray) -> np.ndarray:
        ours, theirs = metric(matches, weights=weights), metric(baseline, weights=weights)
        return np.stack([ours, theirs, ours - theirs], axis=1)

    patients = len(matches.patients)
    whole, values, without_each = _draw(both, patients, resamples, seed)
    ours, theirs, difference = map(partial(_interval, patients=patients), whole, values.T, without_each.T)
    return ours, theirs, difference


def _check_paired(all_matches: Sequence[Matches]) -> None:
    """Raise `InputError` unless all were matched to the same ground truth of the same patients."""
    first = all_matches[0]
    for matches in all_matches[1:]:
        images = np.array_equal(matches.images_per_patient, first.images_per_patient)
        truths = np.array_equal(matches.truth_patient, first.truth_patient) and matches.truth_ids == first.truth_ids
        if not (images and truths) or matches.patients != first.patients:
            raise InputError("a paired difference needs two detectors on the same images and ground truth")


def interval_of(statistic: Statistic, patients: int, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Intervals of any statistic of weighted patients; NaN with fewer than two patients.

    Resamples with an undefined statistic (NaN) cannot be ranked. If their share exceeds `tail`, the interval
    is NaN, since an end of the interval could be such a resample.
    """
    return _interval(*_draw(statistic, patients, resamples, seed), patients)


def _draw(statistic: Statistic, patients: int, resamples: int, seed: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """The statistic of all patients, of each resample, and without each patient."""
    everybody = np.ones((1, patients))
    if patients < 2:
        value = statistic(everybody)
        return value[0], value[:0], value[:0]
    return statistic(everybody)[0], resampled(statistic, patients, resamples, seed), left_out(statistic, patients)


def _interval(value: float, values: np.ndarray, without_each: np.ndarray, patients: int) -> Interval:
    defined = values[np.isfinite(values)]
    undefined = len(values) - len(defined)
    outside = tail(patients) if patients > 1 else 0.0
    if not len(values) or np.isnan(value) or undefined > outside * len(values):
        return Interval(float(value), np.nan, np.nan, np.nan, np.nan, np.nan, undefined)
    low, high = np.quantile(defined, [outside, 1 - outside])
    bca_low, bca_high = np.quantile(defined, bca_levels(value, defined, without_each, outside))
    error = float(defined.std(ddof=1))
    return Interval(float(value), float(low), float(high), float(bca_low), float(bca_high), error, undefined)


def tail(patients: int) -> float:
    """Share of resamples beyond each end of an interval: 2.5 %, and less for few patients.

    Resampling n patients underestimates the variance by a factor of (n - 1) / n, and few patients need t quantiles
    instead of normal quantiles. Hesterberg (2015, The American Statistician 69) widens the interval for both reasons.

    >>> [round(tail(patients), 4) for patients in (17, 50, 200, 100_000)]
    [0.0144, 0.0212, 0.024, 0.025]
    """
    return float(stats.norm.cdf(np.sqrt(patients / (patients - 1)) * stats.t.ppf((1 - LEVEL) / 2, patients - 1)))


def resampled(statistic: Statistic, patients: int, resamples: int, seed: int) -> np.ndarray:
    """The statistic in each of `resamples` draws of patients with replacement, [resamples]."""
    rng = np.random.default_rng(seed)
    shares = np.full(patients, 1 / patients)
    sizes = [RESAMPLES_AT_ONCE] * (resamples // RESAMPLES_AT_ONCE) + [resamples % RESAMPLES_AT_ONCE]
    return np.concatenate([statistic(rng.multinomial(patients, shares, size)) for size in sizes if size])


def left_out(statistic: Statistic, patients: int) -> np.ndarray:
    """The statistic without each patient in turn (the jackknife), [patients]."""
    starts = range(0, patients, RESAMPLES_AT_ONCE)
    blocks = [np.arange(start, min(start + RESAMPLES_AT_ONCE, patients)) for start in starts]
    return np.concatenate([statistic((np.arange(patients) != block[:, None]).astype(float)) for block in blocks])


def bca_levels(value: float, values: np.ndarray, without_each: np.ndarray, outside: float) -> np.ndarray:
    """The two quantiles of the resampled `values` that bound the BCa interval (Efron 1987).

    Without bias and skewness, the share beyond each end is `outside` (`tail`). `without_each` comes from
    `left_out`, and its skewness gives the acceleration (0 if all defined values are equal). Undefined values in
    `without_each` are skipped.
    """
    below = np.mean(values < value) + np.mean(values == value) / 2
    bias = stats.norm.ppf(np.clip(below, 0.5 / len(values), 1 - 0.5 / len(values)))
    without_each = without_each[np.isfinite(without_each)]
    pull = without_each.sum() / max(len(without_each), 1) - without_each
    spread = (pull**2).sum() ** 1.5
    acceleration = (pull**3).sum() / (6 * spread) if spread > 0 else 0.0
    z = bias + stats.norm.ppf(outside) * np.array([1, -1])  # 1 - outside would round to 1 for two patients
    return stats.norm.cdf(bias + z / (1 - acceleration * z))


def precision_band(matches: Matches, sensitivities: Sequence[float], resamples: int, seed: int = 0) -> pd.DataFrame:
    """95 % interval over patients of the precision at each of `sensitivities`; see `_band`."""
    return _band(precision_at_sensitivity, "sensitivity", matches, sensitivities, resamples, seed)


def froc_band(matches: Matches, false_positives: Sequence[float], resamples: int, seed: int = 0) -> pd.DataFrame:
    """95 % interval over patients of the sensitivity at each of `false_positives` per image; see `_band`."""
    return _band(sensitivity_at_false_positives, "false_positives", matches, false_positives, resamples, seed)


def _band(
    metric: Metric, argument: str, matches: Matches, positions: Sequence[float], resamples: int, seed: int
) -> pd.DataFrame:
    """Columns `low` and `high` of `bootstrap` at each position, on the same resamples of patients. The band is
    pointwise: a whole curve leaves it in more than 5 % of cases. NaN where too many resamples
    are undefined."""
    intervals = [bootstrap(partial(metric, **{argument: x}), matches, resamples, seed) for x in positions]
    return pd.DataFrame(map(vars, intervals), index=pd.Index(list(positions), name=argument))[["low", "high"]]


@dataclass(frozen=True)
class SeedSummary:
    """A paired difference over trainings with different seeds, on the same patients."""

    value: float  # mean difference over seeds
    low: float
    """95 % interval over patients and seeds: a t interval with the standard error from resampling both."""
    high: float
    standard_error: float
    of_each_seed: tuple[float, ...]
    seed_deviation: float  # standard deviation of the differences over seeds, patients fixed
    patient_deviation: float
    """Standard error of the mean over seeds, with the seeds fixed. More patients would reduce it."""


def difference_over_seeds(
    metric: Metric, runs: Sequence[Matches], baselines: Sequence[Matches], resamples: int = RESAMPLES, seed: int = 0
) -> SeedSummary:
    """Mean over S seeds of `metric(run) - metric(baseline)`, with an interval over patients × seeds.

    Patients and seeds are crossed (each training is tested on all patients), so each resample draws both. It draws
    S - 1 of S seeds; drawing S would underestimate the variance by a factor of (S - 1) / S (Rao and Wu 1988). Few
    seeds give no reliable percentiles, so the interval is a t interval. Its degrees of freedom combine the degrees of
    freedom of seeds and patients.

    Raises:
        InputError: fewer than two seeds or patients, or runs that are not paired.
    """
    if len(runs) != len(baselines) or len(runs) < 2:
        raise InputError(f"{len(runs)} runs and {len(baselines)} baselines: give two or more of each, by seed")
    _check_paired([*runs, *baselines])
    patients, seeds = len(runs[0].patients), len(runs)
    if patients < 2:
        raise InputError("an interval over patients needs two or more of them")

    def differences(weights: np.ndarray) -> np.ndarray:
        pairs = zip(runs, baselines, strict=True)
        return np.stack([metric(run, weights=weights) - metric(base, weights=weights) for run, base in pairs], 1)

    of_each = differences(np.ones((1, patients)))[0]
    by_patients = resampled(differences, patients, resamples, seed)
    draws = np.random.default_rng([seed, seeds]).multinomial(seeds - 1, np.full(seeds, 1 / seeds), resamples)
    error = _standard_error((by_patients * draws).sum(axis=1) / (seeds - 1), patients)
    seed_deviation = float(of_each.std(ddof=1))
    patient_deviation = _standard_error(by_patients.mean(axis=1), patients)
    degrees = _degrees_of_freedom(seed_deviation**2 / seeds, seeds, patient_deviation**2, patients)
    mean, half = float(of_each.mean()), error * float(stats.t.ppf((1 + LEVEL) / 2, degrees))
    each = tuple(of_each.tolist())
    return SeedSummary(mean, mean - half, mean + half, error, each, seed_deviation, patient_deviation)


def columns(name: str, interval: Interval | SeedSummary | None) -> dict[str, float]:
    """A value and its interval as table columns `name`, `name`_low and `name`_high; NaN without an interval."""
    ends = (interval.value, interval.low, interval.high) if interval else (np.nan,) * 3
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def _standard_error(values: np.ndarray, patients: int) -> float:
    """The standard deviation of resampled values; NaN if the share of undefined values exceeds `tail`."""
    defined = values[np.isfinite(values)]
    if len(values) - len(defined) > tail(patients) * len(values):
        return np.nan
    return float(defined.std(ddof=1))


def _degrees_of_freedom(of_seeds: float, seeds: int, of_patients: float, patients: int) -> float:
    """Degrees of freedom of the sum of the variances from seeds and from patients (Satterthwaite 1946)."""
    known = of_seeds**2 / (seeds - 1) + of_patients**2 / (patients - 1)
    return (of_seeds + of_patients) ** 2 / known if known > 0 else seeds - 1.0


def patients_needed(standard_error: float, patients: int, gain: float, power: float = 0.8) -> int:
    """Number of patients needed to show a difference of `gain` in a two-sided normal test at 5 %.

    `standard_error` was measured on `patients` patients. It falls with the square root of the number of patients.
    """
    if not (standard_error > 0 and gain > 0 and patients > 0):
        raise ValueError(f"standard error {standard_error}, gain {gain} and patients {patients} must be positive")
    z = stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(power)
    return int(np.ceil(patients * (z * standard_error / gain) ** 2))


def patients_for_half_width(standard_error: float, patients: int, half_width: float) -> int:
    """Number of patients needed for a normal 95 % interval of ± `half_width`; arguments as in `patients_needed`.

    Raises:
        InputError: a number that is not finite, a negative error, a half width of 0 or less, or a half width below
            1 / `MOST_TIMES` of the error.
    """
    _check_half_width(standard_error, half_width)
    return int(np.ceil(patients * (stats.norm.ppf((1 + LEVEL) / 2) * standard_error / half_width) ** 2))


def seeds_for_half_width(seed_deviation: float, half_width: float) -> int:
    """Number of seeds needed for a 95 % t interval of ± `half_width` around the mean; at least 2.

    The uncertainty from patients is not included.

    Raises:
        InputError: a number that is not finite, a negative deviation, a half width of 0 or less, or a half width below
            1 / `MOST_TIMES` of the deviation.
    """
    _check_half_width(seed_deviation, half_width)

    def is_wide(seeds: int) -> bool:
        return float(stats.t.ppf((1 + LEVEL) / 2, float(seeds - 1))) * seed_deviation / seeds**0.5 > half_width

    enough = 2
    while is_wide(enough):
        enough *= 2
    return bisect_left(range(enough), True, lo=2, key=lambda seeds: not is_wide(seeds))


def _check_half_width(spread: float, half_width: float) -> None:
    if not 0 <= spread < np.inf:
        raise InputError(f"a spread of {spread} over seeds or patients: a finite number from 0 on is needed")
    if not 0 < half_width < np.inf:
        raise InputError(f"a half width of {half_width}: above 0 is needed")
    if spread / MOST_TIMES > half_width:
        raise InputError(f"a half width of {half_width} for a spread of {spread}: out of reach; give a wider one")
