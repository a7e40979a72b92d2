"""Metrics of detections against ground truth, each computed from a table of matches (`cmbfe.metrics.matching.match`).

Every metric takes `weights` [B, P]: how often each of P patients counts in each of B resamples (None: once each).
Undefined values are NaN: every metric without ground truth, and precision at a sensitivity that is never reached.
"""

from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from cmbfe.errors import InputError
from cmbfe.metrics.matching import FALSE_POSITIVE, HIT, IGNORED, Detections, Labels, Matches, match

X_MAX = 8.0
"""Upper end of the FROC's partial area, false positives per image or patient (Li et al. 2021; open point A15)."""
CPM_FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives at which the competition performance metric reads the FROC (Setio et al. 2017, LUNA16)."""
Per = Literal["image", "patient"]
Value = float | np.ndarray  # a float without weights, float64 [B] with weights [B, P]


def average_precision(
    matches: Matches, points: Literal[11, 101] | None = None, weights: np.ndarray | None = None
) -> Value:
    """Area under the precision-sensitivity curve (Li et al. 2021, Table 2; open point A13).

    Precision at a sensitivity is the highest precision at that sensitivity or above. `points=None` integrates it over
    all sensitivities (VOC from 2010 on), 11 averages it at 0, 0.1, …, 1 (VOC 2007, Everingham et al. 2010), and 101 at
    0, 0.01, …, 1 (COCO). Detections of equal score count in the order of the table, as in pycocotools.
    """
    if points not in (None, 11, 101):
        raise ValueError(f"points is {points!r}; it must be None, 11 or 101")
    # The curve rises at each hit among the detections that count.
    hits, false, truths = _cumulative(matches, np.flatnonzero(_counted(matches)[1]), weights)
    precision = np.divide(hits, hits + false, out=np.zeros_like(hits), where=hits > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    if points is None:
        area = (np.diff(hits, axis=1, prepend=0) * envelope).sum(axis=1)
        return _value(_ratio(area, truths), weights)
    sensitivity = _ratio(hits, truths[:, None])
    # Each grid is as in its source: linspace gives 0.35 + 6e-17 for 0.35, which 7 hits of 20 do not reach.
    levels = np.arange(11) / 10 if points == 11 else np.linspace(0, 1, 101)
    # The number of points below a level is the index of the first point that reaches it. Past the end, precision is 0.
    ends = np.pad(envelope, ((0, 0), (0, 1)))
    reached = [ends[np.arange(len(ends)), (sensitivity < level).sum(axis=1)] for level in levels]
    return _value(np.where(truths > 0, np.mean(reached, axis=0), np.nan), weights)


def precision_sensitivity(matches: Matches) -> pd.DataFrame:
    """The precision-sensitivity curve: a row per distinct score, which is the threshold (score >= threshold).

    Columns `threshold` (descending), `sensitivity`, `precision`.
    """
    ends = _together(matches)
    hits, false, truths = (values[0] for values in _cumulative(matches, ends, None))
    columns = {"sensitivity": _ratio(hits, truths), "precision": _ratio(hits, hits + false)}
    return pd.DataFrame({"threshold": _counted(matches)[0][ends], **columns})


def precision_at_sensitivity(matches: Matches, sensitivity: Value = 0.9, weights: np.ndarray | None = None) -> Value:
    """Precision at the highest threshold with at least this `sensitivity`, a number or a value for each resample.

    There is no interpolation. Detections of equal score share a threshold. NaN if no threshold reaches `sensitivity`.
    """
    hits, false, _ = _operating_point(matches, sensitivity, weights)
    return _value(_ratio(hits, hits + false), weights)


def false_positives_per_cmb(matches: Matches, sensitivity: float = 0.9, weights: np.ndarray | None = None) -> Value:
    """False positives per ground truth, at the threshold of `precision_at_sensitivity` (paper, Table 4)."""
    _, false, truths = _operating_point(matches, sensitivity, weights)
    return _value(_ratio(false, truths), weights)


def froc(matches: Matches, per: Per = "image") -> pd.DataFrame:
    """The FROC curve: a row per distinct score, which is the threshold (score >= threshold).

    Columns `threshold` (descending from inf, where nothing is detected), `false_positives` per image or per
    patient (including images or patients without microbleeds), `sensitivity`.
    """
    ends = _together(matches)
    hits, false, truths = (values[0] for values in _cumulative(matches, ends, None))
    thresholds = _counted(matches)[0][ends]
    return pd.DataFrame(
        {
            "threshold": np.append(np.inf, thresholds),
            "false_positives": _ratio(np.append(0.0, false), _units(matches, per, None)[0]),
            "sensitivity": _ratio(np.append(0.0, hits), truths),
        }
    )


def sensitivity_at_false_positives(
    matches: Matches, false_positives: float, per: Per = "image", weights: np.ndarray | None = None
) -> Value:
    """Sensitivity of the FROC at `false_positives` per image or patient.

    The curve is linear between neighbouring thresholds and constant beyond the last threshold. At a vertical rise,
    the upper end counts. NaN without ground truth.
    """
    x, y = _froc_points(matches, per, weights)
    return _value(_read_off(x, y, false_positives), weights)


def froc_auc(matches: Matches, x_max: float = X_MAX, per: Per = "image", weights: np.ndarray | None = None) -> Value:
    """Area under the FROC over [0, `x_max`] divided by `x_max`: the mean sensitivity there (open point A15).

    The curve is read as in `sensitivity_at_false_positives`. NaN without ground truth.
    """
    if not 0 < x_max < np.inf:
        raise InputError(f"x_max is {x_max}; it must be a number above 0")
    x, y = _froc_points(matches, per, weights)
    at_end = _read_off(x, y, x_max)[:, None]
    y = np.where(x <= x_max, y, at_end)
    x = np.append(x.clip(max=x_max), np.full_like(at_end, x_max), axis=1)
    return _value(np.trapezoid(np.append(y, at_end, axis=1), x, axis=1) / x_max, weights)


def cpm(matches: Matches, per: Per = "image", weights: np.ndarray | None = None) -> Value:
    """Competition performance metric: mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives."""
    x, y = _froc_points(matches, per, weights)
    return _value(np.mean([_read_off(x, y, position) for position in CPM_FALSE_POSITIVES], axis=0), weights)


def evaluate(
    labels: Labels, detections: Detections, iou: float = 0.5, *, sensitivity: float = 0.9, x_max: float = X_MAX
) -> dict[str, Value]:
    """`summary` of COCO detections against COCO labels, matched box by box on each image; see `match`."""
    return summary(match(labels, detections, iou), sensitivity, x_max)


def summary(matches: Matches, sensitivity: float = 0.9, x_max: float = X_MAX) -> dict[str, Value]:
    """All metrics by name, and the counts behind them; NaN where a metric is undefined."""
    if not 0 < sensitivity <= 1:
        raise InputError(f"sensitivity is {sensitivity}; it must be above 0 and at most 1")
    percent = f"{100 * sensitivity:g}"
    return {
        "ap": average_precision(matches),
        "ap_11_point": average_precision(matches, 11),
        "ap_101_point": average_precision(matches, 101),
        f"precision_at_{percent}_sensitivity": precision_at_sensitivity(matches, sensitivity),
        f"threshold_at_{percent}_sensitivity": threshold_at_sensitivity(matches, sensitivity),
        "false_positives_per_cmb": false_positives_per_cmb(matches, sensitivity),
        "froc_auc": froc_auc(matches, x_max),
        "cpm": cpm(matches),
        "cpm_per_patient": cpm(matches, "patient"),
        "sensitivity": largest_sensitivity(matches),
        "cmbs": len(matches.truth_ids),
        "hits": int((matches.outcome == HIT).sum()),
        "false_positives": int((matches.outcome == FALSE_POSITIVE).sum()),
        "ignored": int((matches.outcome == IGNORED).sum()),
        "pictures": int(matches.images_per_patient.sum()),
        "patients": len(matches.patients),
    }


def largest_sensitivity(matches: Matches, weights: np.ndarray | None = None) -> Value:
    """The sensitivity of all detections together, which no threshold exceeds; NaN without ground truth."""
    hits = np.bincount(matches.patient[matches.outcome == HIT], minlength=len(matches.patients))
    return _value(_ratio(_sum(hits, weights), _sum(_truths_per_patient(matches), weights)), weights)


def threshold_at_sensitivity(matches: Matches, sensitivity: float = 0.9) -> float:
    """The highest threshold (score >= threshold) with at least this `sensitivity`; NaN if no threshold reaches it."""
    curve = precision_sensitivity(matches)
    reached = curve["threshold"][curve["sensitivity"] >= sensitivity]
    return float(reached.iloc[0]) if len(reached) else np.nan


def threshold_at_false_positives(matches: Matches, per_image: float) -> float:
    """The lowest threshold with at most `per_image` false positives per image; inf if all thresholds have more."""
    curve = froc(matches)
    return float(curve["threshold"][curve["false_positives"] <= per_image].iloc[-1])


def at_threshold(matches: Matches, threshold: float, weights: np.ndarray | None = None) -> dict[str, Value]:
    """Performance at a given score threshold (score >= threshold), such as a threshold from validation.

    Keys `sensitivity`, `precision`, `false_positives_per_cmb` and `false_positives_per_picture`.

    Raises:
        InputError: the threshold is NaN, which `threshold_at_sensitivity` returns if no threshold is low enough.
    """
    check_threshold(threshold)
    score = _counted(matches)[0]
    # Scores are in descending order, so that the passing detections come first.
    passing = np.searchsorted(-score, -threshold, side="right")
    if passing:
        hits, false, truths = _cumulative(matches, np.array([passing - 1]), weights)
        hits, false = hits[:, 0], false[:, 0]
    else:
        truths = _sum(_truths_per_patient(matches), weights)
        hits = false = np.zeros_like(truths)
    values = {
        "sensitivity": _ratio(hits, truths),
        "precision": _ratio(hits, hits + false),
        "false_positives_per_cmb": _ratio(false, truths),
        "false_positives_per_picture": _ratio(false, _units(matches, "image", weights)),
    }
    return {name: _value(value, weights) for name, value in values.items()}


def check_threshold(threshold: float) -> None:
    """Raise `InputError` if a score threshold is NaN."""
    if np.isnan(threshold):
        raise InputError("the threshold is NaN: no threshold reaches the sensitivity; give a lower one")


def _counted(matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, hit flag and patient of the detections that are not ignored."""
    counts = matches.outcome != IGNORED
    return matches.score[counts], matches.outcome[counts] == HIT, matches.patient[counts]


def _together(matches: Matches) -> np.ndarray:
    """Index of the last detection of each distinct score, among the detections that are not ignored."""
    score = _counted(matches)[0]
    return np.append(np.flatnonzero(np.diff(score)), np.arange(len(score))[-1:])


def _corners(matches: Matches) -> np.ndarray:
    """Entries of `_together` at corners of the FROC: scores with a hit, the scores before them, and the last score."""
    ends = _together(matches)
    hits = np.diff(np.cumsum(_counted(matches)[1])[ends], prepend=0) > 0
    return ends[hits | np.append(hits[1:], True)[: len(hits)]]


def _cumulative(
    matches: Matches, ends: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of hits and false positives [B, K] among the detections up to each of the K `ends`; ground truths [B]."""
    _, hit, patient = _counted(matches)
    point = np.searchsorted(ends, np.arange(len(hit)))
    patients = len(matches.patients)
    totals = []
    for chosen in (hit & (point < len(ends)), ~hit & (point < len(ends))):
        if weights is None:
            per_point = np.bincount(point[chosen], minlength=len(ends)).astype(float)[None]
        else:
            where = (point[chosen], patient[chosen])
            counts = sparse.csr_array((np.ones(chosen.sum()), where), shape=(len(ends), patients))
            per_point = (counts @ weights.T.astype(float)).T
        totals.append(np.cumsum(per_point, axis=1))
    return totals[0], totals[1], _sum(_truths_per_patient(matches), weights)


def _truths_per_patient(matches: Matches) -> np.ndarray:
    return np.bincount(matches.truth_patient, minlength=len(matches.patients))


def _operating_point(
    matches: Matches, sensitivity: Value, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits and false positives where `sensitivity` is first reached (NaN if never), and ground truths; each [B]."""
    hits, false, truths = _cumulative(matches, _corners(matches), weights)
    reached = _ratio(hits, truths[:, None]) >= np.reshape(sensitivity, (-1, 1))
    # Resamples that never reach it get the column of NaN at the end.
    hits, false = (np.pad(values, ((0, 0), (0, 1)), constant_values=np.nan) for values in (hits, false))
    first = np.where(reached.any(axis=1), reached.argmax(axis=1) if reached.size else 0, hits.shape[1] - 1)
    rows = np.arange(len(hits))
    return hits[rows, first], false[rows, first], truths


def _froc_points(matches: Matches, per: Per, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """False positives per unit and sensitivity [B, K] at the corners of the FROC, from (0, 0) on."""
    hits, false, truths = _cumulative(matches, _corners(matches), weights)
    hits, false = (np.pad(values, ((0, 0), (1, 0))) for values in (hits, false))
    return _ratio(false, _units(matches, per, weights)[:, None]), _ratio(hits, truths[:, None])


def _read_off(x: np.ndarray, y: np.ndarray, position: float) -> np.ndarray:
    """Linear interpolation of each row's curve at `position`. Each row of x [B, K] ascends from 0."""
    rows = np.arange(len(x))
    left = np.maximum((x <= position).sum(axis=1) - 1, 0)
    right = np.minimum(left + 1, x.shape[1] - 1)
    share = _ratio(position - x[rows, left], x[rows, right] - x[rows, left])
    return y[rows, left] + np.where(left < right, share, 0) * (y[rows, right] - y[rows, left])


def _units(matches: Matches, per: Per, weights: np.ndarray | None) -> np.ndarray:
    """Number of images or patients, [B]."""
    if per not in ("image", "patient"):
        raise ValueError(f"per is {per!r}; it must be 'image' or 'patient'")
    ones = np.ones(len(matches.patients))
    return _sum(matches.images_per_patient if per == "image" else ones, weights)


def _sum(per_patient: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    return np.array([per_patient.sum()], float) if weights is None else weights @ per_patient.astype(float)


def _ratio(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray:
    """`part / whole`, NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)


def _value(values: np.ndarray, weights: np.ndarray | None) -> Value:
    return float(values[0]) if weights is None else values
