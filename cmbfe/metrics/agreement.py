"""Agreement of detector and ground truth on the number of microbleeds per patient, which a reader would report."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from cmbfe.metrics.curves import check_threshold
from cmbfe.metrics.matching import IGNORED, Matches

CLASSES = ("0", "1", "2-4", "5+")
"""Classes of the microbleed count; stroke risk is reported per class (Wilson et al., Lancet Neurology 2019)."""


def counts_per_patient(matches: Matches, threshold: float) -> pd.DataFrame:
    """Microbleeds per patient: `truth`, and `detected` at a score threshold (false positives included).

    `matches` comes from `match_lesions`, which counts a microbleed on several slices once. The table is indexed
    by patient; `truth_class` and `detected_class` are the classes of the two counts. Raises `InputError` if the
    threshold is NaN.
    """
    check_threshold(threshold)
    counts = (matches.outcome != IGNORED) & (matches.score >= threshold)
    table = pd.DataFrame(
        {
            "truth": np.bincount(matches.truth_patient, minlength=len(matches.patients)),
            "detected": np.bincount(matches.patient[counts], minlength=len(matches.patients)),
        },
        index=pd.Index(matches.patients, name="patient_id"),
    )
    for column in ("truth", "detected"):
        table[f"{column}_class"] = clinical_class(table[column].to_numpy())
    return table


def clinical_class(counts: np.ndarray) -> pd.Categorical:
    """The class of each count as an ordered categorical of `CLASSES`."""
    codes = np.searchsorted([1, 2, 5], counts, side="right")
    return pd.Categorical.from_codes(codes, CLASSES, ordered=True)


def class_agreement(counts: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float]]:
    """Confusion table of the clinical classes (rows truth, columns detected), and how well they agree.

    `counts` comes from `counts_per_patient`. The values are `accuracy` and `kappa` (Cohen's, with linear weights).
    They are NaN without patients; kappa is also NaN if all counts are in one class.
    """
    truth, detected = counts["truth_class"].cat.codes, counts["detected_class"].cat.codes
    table = pd.crosstab(counts["truth_class"], counts["detected_class"], dropna=False)
    return table, {
        "accuracy": float((truth == detected).mean()) if len(counts) else np.nan,
        "kappa": _linear_kappa(table.to_numpy(float)),
    }


def _linear_kappa(table: np.ndarray) -> float:
    """Cohen's kappa of a confusion table. Weights count the steps from class to class, also over empty classes."""
    steps = np.abs(np.subtract.outer(np.arange(len(table)), np.arange(len(table))))
    expected = np.outer(table.sum(axis=0), table.sum(axis=1)) / table.sum() if table.any() else table
    by_chance = (steps * expected).sum()
    return float(1 - (steps * table).sum() / by_chance) if by_chance else np.nan


def fleiss_kappa(ratings: np.ndarray) -> float:
    """Agreement of several raters on a yes-or-no question beyond chance (Fleiss, Psychol Bull 76:378, 1971).

    `ratings` is bool [n subjects, k raters]. NaN for n < 1 or k < 2, and if all answers are the same.
    """
    n, k = ratings.shape
    yes = ratings.sum(axis=1)
    if n < 1 or k < 2 or yes.sum() in (0, n * k):
        return np.nan
    agreed = np.mean(yes * (yes - 1) + (k - yes) * (k - yes - 1)) / (k * (k - 1))
    share = yes.mean() / k
    by_chance = share**2 + (1 - share) ** 2
    return float((agreed - by_chance) / (1 - by_chance))


@dataclass(frozen=True)
class BlandAltman:
    """Differences of two measurements (Bland and Altman 1986), with 95 % confidence limits."""

    bias: float  # mean of measured minus true
    bias_low: float
    bias_high: float
    lower_limit: float
    """95 % of the differences are expected between the lower and the upper limit of agreement."""
    upper_limit: float
    limit_margin: float  # half width of the confidence interval of either limit


def bland_altman(truth: np.ndarray, measured: np.ndarray) -> BlandAltman:
    """Bland-Altman limits of agreement of `measured` with `truth`, both [n]; NaN for n < 2."""
    difference = np.asarray(measured, float) - np.asarray(truth, float)
    n = len(difference)
    if n < 2:
        return BlandAltman(*[float(difference.mean()) if n else np.nan, *[np.nan] * 5])
    bias, deviation = difference.mean(), difference.std(ddof=1)
    t = stats.t.ppf(0.975, n - 1)
    margin = t * deviation / np.sqrt(n)
    spread = 1.96 * deviation
    # Bland and Altman 1986: the variance of a limit is about 3 s² / n.
    ends = (bias - margin, bias + margin, bias - spread, bias + spread)
    return BlandAltman(*map(float, (bias, *ends, margin * np.sqrt(3))))


def icc(ratings: np.ndarray) -> tuple[float, float, float]:
    """Intraclass correlation for absolute agreement of single ratings, and its 95 % interval.

    `ratings` is [n subjects, k raters]. ICC(2,1) of Shrout and Fleiss (1979), two-way random effects; the
    interval is McGraw and Wong's (1996) for ICC(A,1). NaN for n < 2, without any variance, or if the formula
    divides by 0 (for example for two subjects with ratings 0, 1 and 1, 0).
    """
    ratings = np.asarray(ratings, float)
    n, k = ratings.shape
    if n < 2 or k < 2 or np.ptp(ratings) == 0:
        return np.nan, np.nan, np.nan
    between = ratings.mean(axis=1, keepdims=True) - ratings.mean()
    raters = ratings.mean(axis=0, keepdims=True) - ratings.mean()
    subjects_ms = k * (between**2).sum() / (n - 1)
    raters_ms = n * (raters**2).sum() / (k - 1)
    error_ms = ((ratings - ratings.mean() - between - raters) ** 2).sum() / ((n - 1) * (k - 1))
    total = subjects_ms + (k - 1) * error_ms + k * (raters_ms - error_ms) / n
    if total == 0:
        return np.nan, np.nan, np.nan
    value = (subjects_ms - error_ms) / total
    return float(value), *_icc_interval(value, n, k, subjects_ms, raters_ms, error_ms)


def _icc_interval(
    value: float, n: int, k: int, subjects_ms: float, raters_ms: float, error_ms: float
) -> tuple[float, float]:
    """The 95 % interval of ICC(A,1) by McGraw and Wong 1996; NaN if all subjects have the same mean."""
    if raters_ms == error_ms == 0:
        return 1.0, 1.0
    if subjects_ms == 0:
        return np.nan, np.nan
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    freedom = (a * raters_ms + b * error_ms) ** 2 / (
        (a * raters_ms) ** 2 / (k - 1) + (b * error_ms) ** 2 / ((n - 1) * (k - 1))
    )
    rest = k * raters_ms + (k * n - k - n) * error_ms
    below = stats.f.ppf(0.975, n - 1, freedom)
    above = stats.f.ppf(0.975, freedom, n - 1)
    low = n * (subjects_ms - below * error_ms) / (below * rest + n * subjects_ms)
    high = n * (above * subjects_ms - error_ms) / (rest + n * above * subjects_ms)
    return float(low), float(high)
