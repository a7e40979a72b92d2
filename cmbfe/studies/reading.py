"""What the study says: the effect of each treatment in each arm, over patients and seeds; and over folds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe import paths
from cmbfe.errors import InputError
from cmbfe.metrics import intervals
from cmbfe.metrics.curves import (
    average_precision,
    cpm,
    froc_auc,
    precision_at_sensitivity,
    sensitivity_at_false_positives,
    threshold_at_false_positives,
)
from cmbfe.metrics.intervals import Metric, SeedSummary, difference_over_seeds
from cmbfe.metrics.matching import Matches, load_matches
from cmbfe.paper import facts
from cmbfe.params import Params
from cmbfe.studies.trials.arms import CROSSVALIDATION, FE, PLAIN, arm_of, result_files, text_of

FALSE_POSITIVES = 1.0
"""Per image, where sensitivities of kinds of microbleeds are compared."""
MEAN, ALL = "mean", "all"
"""Rows of the folds' table after those of the folds: their mean, and all folds' detections together."""

Runs = dict[str, list[Matches]]
"""Treatment, `PLAIN` first -> what the detectors of an arm found, by seed."""


def read_arm(name: str, params: Params, root: Path) -> Runs:
    """What an arm's detectors found; treatments that lack a seed are left out.

    Raises:
        InputError: no such arm, or a file cannot be read.
    """
    files = {
        treatment: result_files(name, treatment, params, root)
        for treatment in (PLAIN, *arm_of(name, params).treatments)
    }
    return {
        treatment: [load_matches(file) for file in of_seeds]
        for treatment, of_seeds in files.items()
        if all(file.is_file() for file in of_seeds)
    }


def read_study(names: Sequence[str], params: Params, root: Path) -> dict[str, Runs]:
    """Arm -> what its detectors found, for those with a whole treatment: a study can be read while it still runs.

    Args:
        names: arms, such as `arms.of_ours` or `arms.of_torchvision`.

    Raises:
        InputError: none has all its seeds with a treatment and without, or a file cannot be read.
    """
    runs = {name: read_arm(name, params, root) for name in names}
    complete = {name: of_arm for name, of_arm in runs.items() if PLAIN in of_arm and len(of_arm) > 1}
    if not complete:
        folder = root / "results" / "study"
        raise InputError(f"{folder}: no arm has all its seeds yet; make study trains and tests them")
    return complete


def gains_table(runs: Mapping[str, Runs], params: Params) -> pd.DataFrame:
    """A row per arm and treatment: mean AP over seeds without it and with it, and the gain.

    `gain` compares the treatment with the plain detector of the arm. `over_fe` compares it with FE as the settings have
    it, on the same seeds and test patients: with that of the arm itself or, for FE in an arm that changes something,
    with that of the unchanged arm of the same detector (NaN for FE there, and where there is none). Both have 95 %
    intervals over patients and seeds; the two spreads behind that of the gain stand beside it, and what the paper's
    Table 2 prints (`paper_gain`; FE in arms without changes only).
    """
    rows = {}
    for name, of_arm in runs.items():
        arm = arm_of(name, params)
        for treatment, treated in of_arm.items():
            if treatment == PLAIN:
                continue
            gain = _difference(average_precision, treated, of_arm[PLAIN], params)
            rows[name, treatment] = {
                "detector": arm.detector,
                "setting": text_of(name, params),
                "seeds": len(treated),
                "ap": _mean(average_precision, of_arm[PLAIN]),
                "ap_treated": _mean(average_precision, treated),
                **_named("gain", gain),
                "paper_gain": _paper_gain(name, treatment, params),
                "gain_seed_deviation": gain.seed_deviation,
                "gain_patient_deviation": gain.patient_deviation,
                **_named("over_fe", _over_fe(name, treatment, runs, params)),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["arm", "treatment"])


def seeds_table(runs: Mapping[str, Runs]) -> pd.DataFrame:
    """A row per arm, treatment and seed: AP without the treatment and with it, and the gain."""
    rows = [
        {"arm": name, "treatment": treatment, "seed": seed}
        | {"ap": average_precision(plain), "ap_treated": average_precision(one)}
        for name, of_arm in runs.items()
        for treatment, treated in of_arm.items()
        if treatment != PLAIN
        for seed, (plain, one) in enumerate(zip(of_arm[PLAIN], treated, strict=False), 1)
    ]
    table = pd.DataFrame(rows).set_index(["arm", "treatment", "seed"])
    return table.assign(gain=table["ap_treated"] - table["ap"])


def unchanged(runs: Mapping[str, Runs], params: Params) -> list[str]:
    """The arms that change nothing: the paper's claim."""
    return [name for name in runs if arm_of(name, params).changes_nothing and name != CROSSVALIDATION]


def metrics_table(runs: Mapping[str, Runs], params: Params) -> pd.DataFrame:
    """A row per arm without changes and metric: means over seeds, and the gain by FE with its interval.

    A metric that one of the trainings never reaches has no gain (NaN).
    """
    at = params.evaluation.sensitivity
    metrics: dict[str, Metric] = {
        "AP, all points": average_precision,
        "AP, 11 points": partial(average_precision, points=11),
        f"precision at {at:.0%} sensitivity": partial(precision_at_sensitivity, sensitivity=at),
        f"sensitivity at {FALSE_POSITIVES:g} false positive per image": partial(
            sensitivity_at_false_positives, false_positives=FALSE_POSITIVES
        ),
        "area of the FROC": partial(froc_auc, x_max=params.evaluation.froc_x_max),
        "CPM": cpm,
    }
    rows = [
        {
            "arm": name,
            "metric": metric_name,
            "value": _mean(metric, runs[name][PLAIN]),
            "value_fe": _mean(metric, runs[name][FE]),
            **_named("gain", _difference(metric, runs[name][FE], runs[name][PLAIN], params)),
        }
        for name in unchanged(runs, params)
        for metric_name, metric in metrics.items()
    ]
    return pd.DataFrame(rows).set_index(["arm", "metric"])


def kinds_table(runs: Mapping[str, Runs], cmbs: pd.DataFrame, params: Params) -> pd.DataFrame:
    """A row per arm without changes and third of the microbleeds, by contrast and by size.

    Sensitivity at the threshold with one false positive per image, means over seeds, and the gain by FE with its
    interval.

    Args:
        cmbs: the test microbleeds by annotation id, as `cmbfe.studies.trials.patients.list_test_cmbs` lists them.
    """
    names = {"contrast": "contrast", "visible_diameter_mm": "diameter, mm"}
    rows = []
    for column, shown in names.items():
        edges = np.quantile(cmbs[column], [0, 1 / 3, 2 / 3, 1])
        third = np.clip(np.searchsorted(edges[1:-1], cmbs[column], side="right"), 0, 2)
        for number in range(3):
            chosen = frozenset(cmbs.index[third == number])
            metric = partial(sensitivity_of, chosen=chosen)
            for name in unchanged(runs, params):
                without, with_fe = runs[name][PLAIN], runs[name][FE]
                rows.append(
                    {
                        "arm": name,
                        "by": shown,
                        "from": edges[number],
                        "to": edges[number + 1],
                        "cmbs": len(chosen),
                        "sensitivity": _mean(metric, without),
                        "sensitivity_fe": _mean(metric, with_fe),
                        **_named("gain", _difference(metric, with_fe, without, params)),
                    }
                )
    return pd.DataFrame(rows).set_index(["arm", "by"])


def sensitivity_of(
    matches: Matches,
    chosen: frozenset[int],
    false_positives: float = FALSE_POSITIVES,
    weights: np.ndarray | None = None,
) -> float | np.ndarray:
    """Sensitivity for some ground truths, at the threshold with so many false positives per image in all.

    The threshold is that of all patients, in every resample. NaN in a resample without any of them.
    """
    is_chosen = np.isin(matches.truth_ids, list(chosen))
    hit = is_chosen & (matches.truth_score >= threshold_at_false_positives(matches, false_positives))
    per_patient = [
        np.bincount(matches.truth_patient[some], minlength=len(matches.patients)) for some in (hit, is_chosen)
    ]
    each = np.ones((1, len(matches.patients))) if weights is None else weights
    hits, truths = (each @ counts.astype(float) for counts in per_patient)
    values = np.divide(hits, truths, out=np.full(len(each), np.nan), where=truths > 0)
    return float(values[0]) if weights is None else values


def read_cmbs(root: Path) -> pd.DataFrame:
    """The test microbleeds of the study; `InputError` where they were not listed yet."""
    file = paths.study_cmbs(root)
    if not file.is_file():
        raise InputError(f"{file}: no such file; cmbfe study patients writes it")
    return pd.read_csv(file, index_col="id")


def pooled(folds: Sequence[Matches]) -> Matches:
    """The matches of all folds together, whose patients differ, ranked by their scores.

    Each fold's scores come from a training of its own: trainings that score differently for equal evidence lower the
    AP of all together, not that of a fold.
    """
    patients = np.cumsum([0, *(len(one.patients) for one in folds)])
    truths = np.cumsum([0, *(len(one.truth_ids) for one in folds)])
    order = np.argsort(-np.concatenate([one.score for one in folds]), kind="stable")

    def ranked(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in folds])[order]

    moved = [
        replace(one, patient=one.patient + at, truth=np.where(one.truth >= 0, one.truth + first, -1))
        for one, at, first in zip(folds, patients, truths, strict=False)
    ]
    return Matches(
        score=ranked("score"),
        outcome=ranked("outcome"),
        truth=np.concatenate([one.truth for one in moved])[order],
        detection=np.full(len(order), -1),
        patient=np.concatenate([one.patient for one in moved])[order],
        truth_ids=[identity for one in folds for identity in one.truth_ids],
        truth_patient=np.concatenate([one.truth_patient + at for one, at in zip(folds, patients, strict=False)]),
        patients=[patient for one in folds for patient in one.patients],
        images_per_patient=np.concatenate([one.images_per_patient for one in folds]),
    )


def read_folds(params: Params, root: Path) -> dict[str, dict[str, Matches]]:
    """Fold number, and "all" for the folds together -> treatment -> its matches.

    Raises:
        InputError: a fold is not trained and tested, or a file cannot be read.
    """
    runs = read_arm(CROSSVALIDATION, params, root)
    if not {PLAIN, FE} <= set(runs):
        folder = paths.study_result(CROSSVALIDATION, root)
        raise InputError(f"{folder}: not every fold is trained and tested; cmbfe study {CROSSVALIDATION} does it")
    by_fold = {
        str(number): {treatment: of_folds[index] for treatment, of_folds in runs.items()}
        for index, number in enumerate(params.crossvalidation.folds)
    }
    return by_fold | {ALL: {treatment: pooled(of_folds) for treatment, of_folds in runs.items()}}


def folds_table(folds: Mapping[str, Mapping[str, Matches]], params: Params) -> pd.DataFrame:
    """A row per fold, their mean, and all patients together: AP without FE and with, and the gain, paired by patient.

    95 % intervals are over patients (NaN for the mean). The paper's values stand beside the mean and "all", as it does
    not say which of the two it prints.
    """
    detector = params.crossvalidation.detector
    rows = {name: _fold_row(of_fold[PLAIN], of_fold[FE], params) for name, of_fold in folds.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("fold")
    table.loc[MEAN] = table.drop(index=ALL)[["our_ap", "our_ap_fe", "our_gain"]].mean()
    table = table.reindex([*(name for name in folds if name != ALL), MEAN, ALL])
    table.insert(0, "detector", detector)
    printed = [facts.TEN_FOLD_AP.get(variant, np.nan) for variant in (detector, f"{detector}-fe")]
    table.loc[[MEAN, ALL], ["paper_ap", "paper_ap_fe", "paper_gain"]] = [*printed, printed[1] - printed[0]]
    return table.astype(dict.fromkeys(["patients", "pictures", "cmbs"], "Int64"))


def _fold_row(plain: Matches, twin: Matches, params: Params) -> dict[str, float | int]:
    """Counts, AP without FE and with, and the gain, each with its interval."""
    with_fe, without, gain = intervals.compare(
        average_precision, twin, plain, params.evaluation.bootstrap_samples, params.seed
    )
    counts = {
        "patients": len(plain.patients),
        "pictures": int(plain.images_per_patient.sum()),
        "cmbs": len(plain.truth_ids),
    }
    for name, interval in {"our_ap": without, "our_ap_fe": with_fe, "our_gain": gain}.items():
        counts |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return counts


def _over_fe(name: str, treatment: str, runs: Mapping[str, Runs], params: Params) -> SeedSummary | None:
    """A treatment against FE as the settings have it, on the same test patients."""
    if treatment != FE:
        against = runs[name].get(FE)
    else:
        detector = arm_of(name, params).detector
        plain = [arm for arm in unchanged(runs, params) if arm_of(arm, params).detector == detector and arm != name]
        against = runs[plain[0]].get(FE) if plain else None
    ours = runs[name][treatment]
    if against is None or len(against) < len(ours) or against[0].patients != ours[0].patients:
        return None
    return _difference(average_precision, ours, against, params)


def _paper_gain(name: str, treatment: str, params: Params) -> float:
    arm = arm_of(name, params)
    without, with_fe = (facts.TABLE_2_AP.get(arm.detector + ending, np.nan) for ending in ("", "-fe"))
    return with_fe - without if arm.changes_nothing and treatment == FE else np.nan


def _difference(metric: Metric, ours: Sequence[Matches], theirs: Sequence[Matches], params: Params) -> SeedSummary:
    theirs = theirs[: len(ours)]
    return difference_over_seeds(metric, ours, theirs, params.evaluation.bootstrap_samples, params.seed)


def _mean(metric: Metric, of_seeds: Sequence[Matches]) -> float:
    return float(np.mean([metric(matches) for matches in of_seeds]))


def _named(name: str, difference: SeedSummary | None) -> dict[str, float]:
    ends = (np.nan,) * 3 if difference is None else (difference.mean, difference.low, difference.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
