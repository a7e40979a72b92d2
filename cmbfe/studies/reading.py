"""Results of the study and of the cross-validation: effects of each treatment over patients, seeds and folds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe import paths
from cmbfe.errors import InputError
from cmbfe.metrics import curves, intervals
from cmbfe.metrics.intervals import Metric, SeedSummary, columns, difference_over_seeds
from cmbfe.metrics.matching import Matches, load_matches
from cmbfe.paper import facts
from cmbfe.params import PHASE, Params
from cmbfe.studies.trials.arms import CROSSVALIDATION, FE, PLAIN, arm_of, result_files, text_of

FALSE_POSITIVES = 1.0  # per image, for sensitivities by contrast and size
MEAN, ALL = "mean", "all"
"""Last two rows of the table of folds: the mean of the folds, and the detections of all folds together."""
Runs = dict[str, list[Matches]]  # treatment, `PLAIN` first -> the matches of an arm's detectors, by seed


def read_arm(name: str, params: Params, root: Path) -> Runs:
    """The matches of an arm's detectors, for the first seeds that all of its treatments share.

    Treatments with fewer than two seeds are left out. If the plain detector has fewer than two, the result is empty.
    The cross-validation needs all folds, and the arm with phase all seeds.

    Raises:
        InputError: no such arm, or a file cannot be read.
    """
    treatments = (PLAIN, *arm_of(name, params).treatments)
    files = {treatment: result_files(name, treatment, params, root) for treatment in treatments}
    done = {treatment: [*takewhile(Path.is_file, of_seeds)] for treatment, of_seeds in files.items()}
    least = len(files[PLAIN]) if name in (CROSSVALIDATION, PHASE) else 2
    begun = {treatment: of_seeds for treatment, of_seeds in done.items() if len(of_seeds) >= least}
    if PLAIN not in begun:
        return {}
    seeds = min(map(len, begun.values()))
    return {treatment: [load_matches(file) for file in of_seeds[:seeds]] for treatment, of_seeds in begun.items()}


def read_study(names: Sequence[str], params: Params, root: Path) -> dict[str, Runs]:
    """Arm -> `read_arm`, for arms with at least two seeds without and with a treatment. The study may still be running.

    Arms that were tested on an earlier set of patients are left out, unless all arms were.

    Raises:
        InputError: no arm has two seeds yet, or a file cannot be read.
    """
    runs = {name: read_arm(name, params, root) for name in names}
    complete = {name: of_arm for name, of_arm in runs.items() if len(of_arm) > 1}
    if not complete:
        folder = root / "results" / "study"
        raise InputError(f"{folder}: no arm has two seeds yet; make study trains and tests them")
    cmbs = read_cmbs(root)
    return {name: of_arm for name, of_arm in complete.items() if is_current(of_arm, cmbs)} or complete


def is_current(of_arm: Runs, cmbs: pd.DataFrame) -> bool:
    """Whether all detectors of an arm were tested on the study's current patients, whose microbleeds are `cmbs`."""
    tested = [matches for of_seeds in of_arm.values() for matches in of_seeds]
    wanted = set(cmbs.index[cmbs["patient"].isin(tested[0].patients)])
    return all(set(matches.truth_ids) == wanted for matches in tested)


def tested_on(runs: Mapping[str, Runs], cmbs: pd.DataFrame) -> str:
    """A clause with the numbers of test patients, images and boxes, and a note if they are from an earlier run."""
    first = next(iter(runs.values()))[PLAIN][0]
    current = all(is_current(of_arm, cmbs) for of_arm in runs.values())
    old = "" if current else ", an earlier run's: make study renews them"
    counts = f"{len(first.patients)} patients, {first.images_per_patient.sum()} images, {len(first.truth_ids)} boxes"
    return f"tested on {counts}{old}"


def gains_table(runs: Mapping[str, Runs], params: Params) -> pd.DataFrame:
    """A row per arm and treatment: mean AP over seeds without and with the treatment, and the gain.

    `gain` compares the treatment with the plain detector of the arm. `over_fe` compares it with FE in the same arm; if
    it is FE, with FE in the unchanged arm of the same detector. `over_fe` is NaN unless seeds and test patients are the
    same. `gain` and `over_fe` have 95 % CIs over patients and seeds. Further columns hold the standard deviations of
    the gain over seeds and over patients, and the gain in the paper's Table 2 (only for FE in unchanged arms).
    """
    rows = {}
    for name, of_arm in runs.items():
        arm = arm_of(name, params)
        for treatment, treated in of_arm.items():
            if treatment == PLAIN:
                continue
            gain = difference(curves.average_precision, treated, of_arm[PLAIN], params)
            rows[name, treatment] = {
                "detector": arm.detector,
                "setting": text_of(name, params),
                "seeds": len(treated),
                "ap": mean_over_seeds(curves.average_precision, of_arm[PLAIN]),
                "ap_treated": mean_over_seeds(curves.average_precision, treated),
                **columns("gain", gain),
                "paper_gain": _paper_gain(name, treatment, params),
                "gain_seed_deviation": gain.seed_deviation,
                "gain_patient_deviation": gain.patient_deviation,
                **columns("over_fe", _over_fe(name, treatment, runs, params)),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["arm", "treatment"])


def seeds_table(runs: Mapping[str, Runs]) -> pd.DataFrame:
    """A row per arm, treatment and seed: AP without the treatment and with it, and the gain."""
    rows = [
        (name, treatment, seed, curves.average_precision(without), curves.average_precision(treated))
        for name, of_arm in runs.items()
        for treatment, of_seeds in of_arm.items()
        if treatment != PLAIN
        for seed, (without, treated) in enumerate(zip(of_arm[PLAIN], of_seeds, strict=False), 1)
    ]
    columns = ["arm", "treatment", "seed", "ap", "ap_treated"]
    table = pd.DataFrame(rows, columns=columns).set_index(columns[:3])
    return table.assign(gain=table["ap_treated"] - table["ap"])


def unchanged(runs: Mapping[str, Runs], params: Params) -> list[str]:
    """Names of the unchanged arms, which test the paper's claim."""
    return [name for name in runs if arm_of(name, params).changes_nothing and name != CROSSVALIDATION]


def metrics_table(runs: Mapping[str, Runs], params: Params) -> pd.DataFrame:
    """A row per unchanged arm and metric: means over seeds, and the gain by FE with its interval.

    A gain at a given sensitivity is NaN if a training never reaches that sensitivity.
    """
    at = params.evaluation.sensitivity
    metrics: dict[str, Metric] = {
        "AP, all points": curves.average_precision,
        "AP, 11 points": partial(curves.average_precision, points=11),
        f"precision at {at:.0%} sensitivity": partial(curves.precision_at_sensitivity, sensitivity=at),
        f"sensitivity at {FALSE_POSITIVES:g} false positive per image": partial(
            curves.sensitivity_at_false_positives, false_positives=FALSE_POSITIVES
        ),
        "area of the FROC": partial(curves.froc_auc, x_max=params.evaluation.froc_x_max),
        "CPM": curves.cpm,
    }
    rows = [
        {"arm": arm, "metric": name} | _fe_and_plain("value", metric, runs[arm], params)
        for arm in unchanged(runs, params)
        for name, metric in metrics.items()
    ]
    return pd.DataFrame(rows).set_index(["arm", "metric"])


def kinds_table(runs: Mapping[str, Runs], cmbs: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Sensitivity of each unchanged arm for each third of the microbleeds, by contrast and by size.

    The threshold gives one false positive per image. Values are means over seeds, with the gain by FE and its
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
            limits = {"from": edges[number], "to": edges[number + 1], "cmbs": len(chosen)}
            rows += [
                {"arm": arm, "by": shown, **limits} | _fe_and_plain("sensitivity", metric, runs[arm], params)
                for arm in unchanged(runs, params)
            ]
    return pd.DataFrame(rows).set_index(["arm", "by"])


def sensitivity_of(matches: Matches, chosen: frozenset[int], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Sensitivity for the `chosen` ground truths, at the threshold that gives `FALSE_POSITIVES` per image.

    The threshold is that of all patients, also in resamples. A resample without any chosen ground truth gives NaN.
    """
    is_chosen = np.isin(matches.truth_ids, list(chosen))
    hit = is_chosen & (matches.truth_score >= curves.threshold_at_false_positives(matches, FALSE_POSITIVES))
    patients = len(matches.patients)
    per_patient = [np.bincount(matches.truth_patient[some], minlength=patients) for some in (hit, is_chosen)]
    each = np.ones((1, patients)) if weights is None else weights
    hits, truths = (each @ counts.astype(float) for counts in per_patient)
    values = np.divide(hits, truths, out=np.full(len(each), np.nan), where=truths > 0)
    return float(values[0]) if weights is None else values


def read_cmbs(root: Path) -> pd.DataFrame:
    """The test microbleeds of the study; raises `InputError` if their file does not exist yet."""
    file = paths.study_cmbs(root)
    if not file.is_file():
        raise InputError(f"{file}: no such file; cmbfe study patients writes it")
    return pd.read_csv(file, index_col="id")


def pooled(folds: Sequence[Matches]) -> Matches:
    """The matches of all folds together, ranked by score. Folds have different patients.

    Each fold has its own training. If the scores of these trainings are on different scales, this lowers the AP of all
    folds together, but not the AP of a single fold.
    """
    patients = np.cumsum([0, *(len(fold.patients) for fold in folds)])
    truths = np.cumsum([0, *(len(fold.truth_ids) for fold in folds)])
    moved = [
        replace(
            fold,
            patient=fold.patient + at,
            truth=np.where(fold.truth >= 0, fold.truth + first, -1),
            truth_patient=fold.truth_patient + at,
        )
        for fold, at, first in zip(folds, patients, truths, strict=False)
    ]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(fold, name) for fold in moved])

    order = np.argsort(-joined("score"), kind="stable")
    return Matches(
        **{name: joined(name)[order] for name in ("score", "outcome", "truth", "patient")},
        detection=np.full(len(order), -1),
        truth_ids=[identity for fold in folds for identity in fold.truth_ids],
        patients=[patient for fold in folds for patient in fold.patients],
        **{name: joined(name) for name in ("truth_patient", "images_per_patient")},
    )


def read_folds(params: Params, root: Path) -> dict[str, dict[str, Matches]]:
    """Read the matches of the cross-validation: fold number, or "all" for all folds together -> treatment -> matches.

    Raises:
        InputError: a fold is not trained and tested, or a file cannot be read.
    """
    runs = read_arm(CROSSVALIDATION, params, root)
    if not {PLAIN, FE} <= set(runs):
        folder = paths.study_result(CROSSVALIDATION, root)
        raise InputError(f"{folder}: not every fold is trained and tested; cmbfe study {CROSSVALIDATION} does it")
    by_fold = {
        str(number): {treatment: of_folds[number - 1] for treatment, of_folds in runs.items()}
        for number in params.crossvalidation.folds
    }
    return by_fold | {ALL: {treatment: pooled(of_folds) for treatment, of_folds in runs.items()}}


def folds_table(folds: Mapping[str, Mapping[str, Matches]], params: Params) -> pd.DataFrame:
    """AP without and with FE and the gain, paired by patient: a row per fold, their mean, and all patients together.

    95 % CIs are over patients; the mean has none (NaN). The paper does not say whether it prints the mean or "all".
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
    """Counts of a fold, and its AP without FE, AP with FE and gain, each with its interval."""
    resamples = params.evaluation.bootstrap_samples
    with_fe, without, gain = intervals.compare(curves.average_precision, twin, plain, resamples, params.seed)
    images = int(plain.images_per_patient.sum())
    row = {"patients": len(plain.patients), "pictures": images, "cmbs": len(plain.truth_ids)}
    return row | columns("our_ap", without) | columns("our_ap_fe", with_fe) | columns("our_gain", gain)


def _over_fe(name: str, treatment: str, runs: Mapping[str, Runs], params: Params) -> SeedSummary | None:
    """`over_fe` of `gains_table`: AP of a treatment minus AP with FE; None without FE on the same test patients."""
    if treatment != FE:
        against = runs[name].get(FE)
    else:
        detector = arm_of(name, params).detector
        plain = [arm for arm in unchanged(runs, params) if arm_of(arm, params).detector == detector and arm != name]
        against = runs[plain[0]].get(FE) if plain else None
    ours = runs[name][treatment]
    if against is None or len(against) < len(ours) or against[0].patients != ours[0].patients:
        return None
    return difference(curves.average_precision, ours, against, params)


def _paper_gain(name: str, treatment: str, params: Params) -> float:
    arm = arm_of(name, params)
    without, with_fe = (facts.TABLE_2_AP.get(arm.detector + ending, np.nan) for ending in ("", "-fe"))
    return with_fe - without if arm.changes_nothing and treatment == FE else np.nan


def _fe_and_plain(name: str, metric: Metric, of_arm: Runs, params: Params) -> dict[str, float]:
    """Means over seeds of a metric without and with FE, and the gain with its interval."""
    means = {name: mean_over_seeds(metric, of_arm[PLAIN]), f"{name}_fe": mean_over_seeds(metric, of_arm[FE])}
    return means | columns("gain", difference(metric, of_arm[FE], of_arm[PLAIN], params))


def difference(metric: Metric, ours: Sequence[Matches], theirs: Sequence[Matches], params: Params) -> SeedSummary:
    """Mean difference of a metric, `ours` minus `theirs`, over the seeds of `ours`."""
    theirs = theirs[: len(ours)]
    return difference_over_seeds(metric, ours, theirs, params.evaluation.bootstrap_samples, params.seed)


def mean_over_seeds(metric: Metric, of_seeds: Sequence[Matches]) -> float:
    """The mean of a metric over seeds."""
    return float(np.mean([metric(matches) for matches in of_seeds]))
