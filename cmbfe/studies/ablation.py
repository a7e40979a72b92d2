"""What the study says: the effect of FE in each arm, by metric, and by kind of microbleed, over patients and seeds."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe import paths
from cmbfe.errors import InputError
from cmbfe.metrics.curves import (
    average_precision,
    cpm,
    froc_auc,
    precision_at_sensitivity,
    sensitivity_at_false_positives,
    threshold_at_false_positives,
)
from cmbfe.metrics.intervals import Metric, SeedSummary, difference_over_seeds
from cmbfe.metrics.matching import Matches
from cmbfe.paper import facts
from cmbfe.paper.words import UNCHANGED
from cmbfe.params import Params
from cmbfe.studies.study import match_files, matches_of

FALSE_POSITIVES = 1.0
"""Per image, where sensitivities of kinds of microbleeds are compared."""

Runs = tuple[list[Matches], list[Matches]]
"""An arm's detectors by seed: those without FE, and those with."""


def complete_arms(params: Params, root: Path) -> list[str]:
    """The arms all of whose trainings were tested, in the order of params.yaml."""
    return [name for name in params.study.arms if all(file.is_file() for file in match_files(name, params, root))]


def read_study(params: Params, root: Path) -> dict[str, Runs]:
    """Arm -> what its detectors found, for the `complete_arms`: the study can be read while it still runs.

    Raises:
        InputError: no arm without changes is tested, or a file cannot be read.
    """
    arms = complete_arms(params, root)
    plain = [name for name, arm in params.study.arms.items() if arm.changes_nothing]
    if not set(arms) & set(plain):
        folder = root / "results" / "study"
        raise InputError(
            f"{folder}: none of {', '.join(plain)} is trained and tested with all seeds; make study does it"
        )
    return {name: matches_of(name, params, root) for name in arms}


def effects_table(runs: Mapping[str, Runs], params: Params) -> pd.DataFrame:
    """A row per arm: mean AP over seeds without FE and with, the gain, and what the arm's change does to it.

    `gain` compares the twins of the arm. `change` compares its detector with FE to that of the arm without changes, on
    the same seeds (NaN for that arm itself, and where there is none). Both have 95 % intervals over patients and seeds;
    the two spreads behind that of the gain stand beside it, and what the paper's Table 2 prints for the detector
    (`paper_gain`; arms without changes only).
    """
    rows = {}
    for name, (without, with_fe) in runs.items():
        arm = params.study.arms[name]
        gain = _difference(average_precision, with_fe, without, params)
        rows[name] = {
            "detector": arm.variant,
            "setting": _setting(name, params),
            "seeds": len(with_fe),
            "ap": np.mean([average_precision(one) for one in without]),
            "ap_fe": np.mean([average_precision(one) for one in with_fe]),
            **_named("gain", gain),
            "paper_gain": _paper_gain(name, params),
            "gain_seed_deviation": gain.seed_deviation,
            "gain_patient_deviation": gain.patient_deviation,
            **_named("change", _change(name, runs, params)),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


def seeds_table(runs: Mapping[str, Runs]) -> pd.DataFrame:
    """A row per arm and seed: AP without FE and with, and the gain."""
    rows = [
        {"arm": name, "seed": number, "ap": average_precision(plain), "ap_fe": average_precision(twin)}
        for name, twins in runs.items()
        for number, (plain, twin) in enumerate(zip(*twins, strict=True), 1)
    ]
    table = pd.DataFrame(rows).set_index(["arm", "seed"])
    return table.assign(gain=table["ap_fe"] - table["ap"])


def metrics_table(runs: Mapping[str, Runs], params: Params) -> pd.DataFrame:
    """A row per arm without changes and metric: means over seeds, and the gain with its interval.

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
    rows = []
    for name in _unchanged(runs, params):
        without, with_fe = runs[name]
        for metric_name, metric in metrics.items():
            values = {"value": np.mean([metric(one) for one in without])}
            values["value_fe"] = np.mean([metric(one) for one in with_fe])
            gain = _named("gain", _difference(metric, with_fe, without, params))
            rows.append({"arm": name, "metric": metric_name, **values, **gain})
    return pd.DataFrame(rows).set_index(["arm", "metric"])


def kinds_table(runs: Mapping[str, Runs], cmbs: pd.DataFrame, params: Params) -> pd.DataFrame:
    """A row per arm without changes and third of the microbleeds, by contrast and by size.

    Sensitivity at the threshold with one false positive per image, means over seeds, and the gain with its interval.

    Args:
        cmbs: the test microbleeds by annotation id, as `cmbfe.studies.study.list_test_cmbs` lists them.
    """
    names = {"contrast": "contrast", "visible_diameter_mm": "diameter, mm"}
    rows = []
    for column, shown in names.items():
        edges = np.quantile(cmbs[column], [0, 1 / 3, 2 / 3, 1])
        for third in range(3):
            inside = cmbs[column].between(*edges[third : third + 2], inclusive="both" if third == 2 else "left")
            for name in _unchanged(runs, params):
                without, with_fe = runs[name]
                metric = partial(sensitivity_of, chosen=frozenset(cmbs.index[inside]))
                rows.append(
                    {
                        "arm": name,
                        "by": shown,
                        "from": edges[third],
                        "to": edges[third + 1],
                        "cmbs": int(inside.sum()),
                    }
                    | {"sensitivity": np.mean([metric(one) for one in without])}
                    | {"sensitivity_fe": np.mean([metric(one) for one in with_fe])}
                    | _named("gain", _difference(metric, with_fe, without, params))
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
    found = is_chosen & (matches.truth_score >= threshold_at_false_positives(matches, false_positives))
    per_patient = [
        np.bincount(matches.truth_patient[one], minlength=len(matches.patients)) for one in (found, is_chosen)
    ]
    each = np.ones((1, len(matches.patients))) if weights is None else weights
    hits, truths = (each @ counts.astype(float) for counts in per_patient)
    values = np.divide(hits, truths, out=np.full(len(each), np.nan), where=truths > 0)
    return float(values[0]) if weights is None else values


def read_cmbs(root: Path) -> pd.DataFrame:
    """The test microbleeds of the study.

    Raises:
        InputError: they were not listed yet.
    """
    file = paths.study_cmbs(root)
    if not file.is_file():
        raise InputError(f"{file}: no such file; cmbfe study patients writes it")
    return pd.read_csv(file, index_col="id")


def _unchanged(runs: Mapping[str, Runs], params: Params) -> list[str]:
    return [name for name in runs if params.study.arms[name].changes_nothing]


def _change(name: str, runs: Mapping[str, Runs], params: Params) -> SeedSummary | None:
    """The arm's detector with FE against that of the arm without changes."""
    arm = params.study.arms[name]
    plain = [one for one in _unchanged(runs, params) if params.study.arms[one].variant == arm.variant and one != name]
    ours = runs[name][1]
    if not plain or len(runs[plain[0]][1]) < len(ours):
        return None
    return _difference(average_precision, ours, runs[plain[0]][1][: len(ours)], params)


def _paper_gain(name: str, params: Params) -> float:
    arm = params.study.arms[name]
    without, with_fe = (facts.TABLE_2_AP.get(arm.variant + ending, np.nan) for ending in ("", "-fe"))
    return with_fe - without if arm.changes_nothing else np.nan


def _difference(metric: Metric, ours: Sequence[Matches], theirs: Sequence[Matches], params: Params) -> SeedSummary:
    theirs = theirs[: len(ours)]
    return difference_over_seeds(metric, ours, theirs, params.evaluation.bootstrap_samples, params.seed)


def _named(name: str, one: SeedSummary | None) -> dict[str, float]:
    ends = (np.nan,) * 3 if one is None else (one.mean, one.low, one.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def _setting(name: str, params: Params) -> str:
    """What an arm changes, as text."""
    arm = params.study.arms[name]
    changes = [f"{key} = {value}" for key, value in arm.settings.items()]
    if arm.patients:
        changes.append(f"{arm.patients} of {params.study.training_patients[-1]} training patients")
    return ", ".join(changes) or UNCHANGED
