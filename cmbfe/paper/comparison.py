"""Tables 1 to 4 for SSD and SSD-FE, with the paper's values beside ours. The patients differ."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from cmbfe.data.labelled.labels import Labels
from cmbfe.errors import InputError
from cmbfe.metrics import curves, intervals
from cmbfe.metrics.curves import Matches, Value, average_precision, precision_at_sensitivity
from cmbfe.metrics.intervals import Metric
from cmbfe.paper import facts
from cmbfe.params import Evaluation

FALSE_POSITIVES_PER_IMAGE = (1.0, 4.0)  # where Table 4 reads the FROC


def table1(labels: Labels) -> pd.DataFrame:
    """Table 1: patients, images with microbleeds and microbleed boxes in each split, paper and ours."""
    images = pd.DataFrame(labels["images"])[["id", "patient_id", "split"]]
    boxes = pd.DataFrame(labels["annotations"], columns=["image_id"])
    boxes["split"] = boxes["image_id"].map(images.set_index("id")["split"])
    ours = pd.DataFrame(
        {
            "our_patients": images.groupby("split")["patient_id"].nunique(),
            "our_pictures": boxes.groupby("split")["image_id"].nunique(),
            "our_cmbs": boxes.groupby("split")["image_id"].size(),
            "our_pictures_in_all": images.groupby("split")["id"].size(),
        }
    ).reindex(["train", "test", "validation"])
    ours = ours.fillna(0).astype(int)
    ours.loc["total"] = ours.sum()
    return facts.TABLE_1.add_prefix("paper_").join(ours)


def mimics_table(mimics: Labels, patients: int) -> pd.DataFrame:
    """Numbers of boxes, mimics and mimics per patient, by kind and in total. A mimic on several images counts once."""
    kinds = {category["id"]: category["name"] for category in mimics["categories"]}
    boxes = pd.DataFrame(mimics["annotations"], columns=["id", "category_id", "lesion_id"])
    counts = boxes.groupby(boxes["category_id"].map(kinds).rename("kind")).agg(
        boxes=("id", "size"), mimics=("lesion_id", "nunique")
    )
    counts.loc["all"] = counts.sum()
    return counts.assign(per_patient=counts["mimics"] / patients)


def table2(matches: Mapping[str, Matches], settings: Evaluation, seed: int) -> pd.DataFrame:
    """Table 2: average precision by variant, paper and ours, with 95 % intervals over patients.

    Rows with FE also hold the gain over the twin without FE, paired by patient. Further columns are the 11-point AP,
    precision and false positives at the paper's sensitivity (NaN if it is never reached), and the largest
    sensitivity, each with interval and gain.

    Args:
        matches: variant -> matches of the test images, for both twins. Only variants of the paper's Table 2 get a row.
    """
    _check_twins(matches)
    at = settings.sensitivity
    others = {
        "ap_11_point": partial(average_precision, points=11),
        f"precision_at_{100 * at:g}_sensitivity": partial(precision_at_sensitivity, sensitivity=at),
        "false_positives_per_cmb": partial(curves.false_positives_per_cmb, sensitivity=at),
        "largest_sensitivity": curves.largest_sensitivity,
    }
    rows = {}
    for variant in (name for name in matches if name in facts.TABLE_2_AP):
        rows[variant] = {
            "paper_ap": facts.TABLE_2_AP[variant],
            "paper_gain": _paper_gain(variant, facts.TABLE_2_AP),
            **_with_interval("ap", average_precision, matches, variant, settings, seed),
        }
        for name, metric in others.items():
            rows[variant] |= _with_interval(name, metric, matches, variant, settings, seed, f"our_{name}_gain")
    return _table(rows)


def table3(
    matches: Mapping[str, Matches], cost: Mapping[str, pd.DataFrame], settings: Evaluation, seed: int
) -> pd.DataFrame:
    """Table 3: precision at a recall and seconds per batch, by backbone, paper and ours.

    The precision of both twins is taken at the same recall: the paper's or, if a twin does not reach it, the largest
    that both reach, found anew in each resample of patients. Precision is NaN if a twin finds nothing. Seconds
    are those of a forward pass in training, as in the paper. The ratios are times with FE over times without FE, for
    the forward pass and for the whole training step.

    Args:
        matches: variant -> matches of the test images, each variant with its twin.
        cost: variant without FE -> `cmbfe.training.timing.cost_of_fe` of the variant and its twin.
    """
    _check_twins(matches)
    rows = {}
    for variant in matches:
        plain = plain_of(variant)
        twins = [matches[plain], matches[f"{plain}-fe"]]
        precision = partial(precision_at_common_recall, twins=twins, at_most=settings.sensitivity)
        recall = common_recall(twins, settings.sensitivity)
        nothing = intervals.columns("our_precision", None) | intervals.columns("our_gain", None)
        rows[variant] = {
            "backbone": facts.BACKBONES[plain] + ("" if variant == plain else "-FE"),
            "input_px": facts.INPUT_PX[plain],
            "paper_recall": _printed(variant, "recall"),
            "our_recall": recall,
            "paper_precision": _printed(variant, "precision"),
            "paper_gain": _paper_gain(variant, facts.PRECISION_AT_90),
            **(_with_interval("precision", precision, matches, variant, settings, seed) if recall else nothing),
            "our_ap": average_precision(matches[variant]),
            **_times(variant, cost[plain]),
        }
    return _table(rows)


def table4(
    matches: Mapping[str, Matches], others: Mapping[str, Matches], settings: Evaluation, seed: int
) -> pd.DataFrame:
    """Table 4: the paper's comparison of studies, with recomputed false positives and, if available, our values.

    `paper_false_positives_per_cmb_by_arithmetic` follows from the printed sensitivity and precision. Our values are
    those at the paper's 90 % sensitivity (`our_sensitivity`), with 95 % CIs over patients and the paired gain by FE.
    A detector that never reaches 90 % has NaN. Studies have different patients and cannot be compared. The last rows
    are the baselines on our patients, with published values (`published_...`) and their AP minus that of SSD-512.

    Args:
        matches: variant -> matches of the test images, including ssd512 and ssd512-fe.
        others: baseline -> matches of the same images, with names as in `cmbfe.paper.facts.PUBLISHED`.
    """
    variants = {"SSD-512": "ssd512", "SSD-512-FE": "ssd512-fe"}
    rows = {}
    for study, printed in facts.TABLE_4.iterrows():
        by_arithmetic = facts.false_positives_per_cmb(printed["sensitivity"], printed["precision"])
        rows[study] = printed.add_prefix("paper_").to_dict()
        rows[study]["paper_false_positives_per_cmb_by_arithmetic"] = by_arithmetic
        if study in variants:
            rows[study] |= _ours_of_table4(matches, variants[study], settings, seed)
    for name in others:
        rows[name] = {**facts.PUBLISHED.loc[name], **_ours_of_table4(others, name, settings, seed)}
        pair = (others[name], matches["ssd512"])
        over = intervals.paired_difference(average_precision, *pair, settings.bootstrap_samples, seed)
        rows[name] |= intervals.columns("our_ap_over_ssd512", over)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("study")


def _ours_of_table4(
    matches: Mapping[str, Matches], variant: str, settings: Evaluation, seed: int
) -> dict[str, float]:
    """Our columns of a row: values at the paper's sensitivity (NaN if not reached), then AP and FROC sensitivities."""
    metrics = {
        "precision": partial(precision_at_sensitivity, sensitivity=settings.sensitivity),
        "false_positives_per_cmb": partial(curves.false_positives_per_cmb, sensitivity=settings.sensitivity),
        "ap": average_precision,
        **{f"sensitivity_at_{x:g}_per_picture": partial(curves.sensitivity_at_false_positives, false_positives=x)
           for x in FALSE_POSITIVES_PER_IMAGE},
    }  # fmt: skip
    ours = {}
    for name, metric in metrics.items():
        ours |= _with_interval(name, metric, matches, variant, settings, seed, f"our_{name}_gain")
    reached = not np.isnan(ours["our_precision"])
    return {"our_sensitivity": settings.sensitivity if reached else np.nan, **ours}


def froc_table(matches: Mapping[str, Matches], settings: Evaluation, seed: int) -> pd.DataFrame:
    """Normalised FROC area (Figure 5, A15) and gain of each variant, as in `table2`. The paper prints no area."""
    _check_twins(matches)
    area = partial(curves.froc_auc, x_max=settings.froc_x_max)
    rows = {
        variant: {"x_max": settings.froc_x_max, **_with_interval("area", area, matches, variant, settings, seed)}
        for variant in matches
    }
    return _table(rows)


def summary_of_ap(matches: Mapping[str, Matches]) -> dict[str, dict[str, float]]:
    """AP on the test images by variant, and the gain by FE for each pair of twins. Serves to compare experiments."""
    _check_twins(matches)
    ap = {variant: float(average_precision(of_variant)) for variant, of_variant in matches.items()}
    plain = [variant for variant in ap if variant == plain_of(variant)]
    return {"ap": ap, "gain_by_fe": {variant: ap[f"{variant}-fe"] - ap[variant] for variant in plain}}


def common_recall(twins: Sequence[Matches], at_most: float, weights: np.ndarray | None = None) -> Value:
    """The largest recall that all of `twins` reach, limited to `at_most`; with `weights`, a value per resample."""
    reached = [curves.largest_sensitivity(twin, weights) for twin in twins]
    common = np.minimum.reduce([*reached, np.full_like(reached[0], at_most)])
    return float(common) if weights is None else common


def precision_at_common_recall(
    matches: Matches, twins: Sequence[Matches], at_most: float, weights: np.ndarray | None = None
) -> Value:
    """Precision of `matches` at the `common_recall` of `twins`, which is computed anew in each resample."""
    return precision_at_sensitivity(matches, common_recall(twins, at_most, weights), weights)


def plain_of(variant: str) -> str:
    """Name of the variant without FE."""
    return variant.removesuffix("-fe")


def _check_twins(matches: Mapping[str, Matches]) -> None:
    """Raise `InputError` if the twin of a detector is missing."""
    for variant in matches:
        for wanted in (plain_of(variant), f"{plain_of(variant)}-fe"):
            if wanted not in matches:
                raise InputError(f"{variant} without {wanted}: give both")


def _with_interval(
    name: str,
    metric: Metric,
    matches: Mapping[str, Matches],
    variant: str,
    settings: Evaluation,
    seed: int,
    gain: str = "our_gain",
) -> dict[str, float]:
    """A metric with its CI and, in column `gain`, its paired gain by FE (NaN for variants without FE)."""
    plain, resamples = plain_of(variant), settings.bootstrap_samples
    if plain == variant:
        value, difference = intervals.bootstrap(metric, matches[variant], resamples, seed), None
    else:
        value, _, difference = intervals.compare(metric, matches[variant], matches[plain], resamples, seed)
    return intervals.columns(f"our_{name}", value) | intervals.columns(gain, difference)


def _paper_gain(variant: str, printed: Mapping[str, float]) -> float:
    plain = plain_of(variant)
    return printed[variant] - printed[plain] if variant != plain and variant in printed else np.nan


def _printed(variant: str, column: str) -> float:
    """A value of the paper's Table 3; NaN for SSD-300, which the table lacks."""
    return float(facts.TABLE_3[column].get(variant, np.nan))


def _times(variant: str, cost: pd.DataFrame) -> dict[str, float]:
    """Seconds per batch, paper and ours. Variants with FE also have the ratios to the twin without FE."""
    paper_seconds, plain = _printed(variant, "seconds_per_batch_of_8"), plain_of(variant)
    has_fe = variant != plain
    return {
        "paper_seconds_per_batch": paper_seconds,
        "our_seconds_per_batch": cost.loc["forward", "seconds_fe" if has_fe else "seconds"],
        "paper_fe_time_ratio": paper_seconds / _printed(plain, "seconds_per_batch_of_8") if has_fe else np.nan,
        "our_fe_time_ratio": cost.loc["forward", "ratio"] if has_fe else np.nan,
        "our_fe_step_time_ratio": cost.loc["step", "ratio"] if has_fe else np.nan,
    }


def _table(rows: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")
