"""How often the 95 % intervals contain the true value, at 17, 50 and 200 patients (about 5 minutes on one core).

    python benchmarks/interval_coverage.py [--cohorts 500] [--resamples 1000]
    python benchmarks/interval_coverage.py --studies 2000    # intervals over patients and seeds, 3 minutes

Cohorts are drawn from a population whose AP is known from a cohort of 100,000 patients. As in the paper's test set, a
patient has 19 boxes on average. Their number is geometric (many patients have one or two boxes, some a hundred).
Scores of hits and of false positives are normal. Patients and microbleeds differ in difficulty, which is the same for
both detectors.

Studies are drawn without any effect. Patients and trainings shift the scores of hits, for each twin separately. Their
metric is the sensitivity at a fixed score, which is fast to resample.
"""

import argparse

import numpy as np
import pandas as pd
from tqdm import tqdm

from cmbfe.metrics import intervals
from cmbfe.metrics.curves import average_precision
from cmbfe.metrics.matching import Matches

PATIENTS = (17, 50, 200)
POPULATION = 100_000
BOXES_PER_PATIENT = 19
FALSE_POSITIVES_PER_PATIENT = 15
FOUND = 0.95
"""Share of the boxes that a detector finds at any score."""
SEPARATION = {"SSD": 1.2, "SSD-FE": 1.3}
"""Mean score of hits, in standard deviations of the scores of false positives."""

SHIFTS = {"seeds": (0.3, 0.1), "patients": (0.05, 1.0)}
"""Which spread dominates a study: standard deviations of the shifts by a training and by a patient."""


def draw_cohort(patients: int, rng: np.random.Generator) -> dict[str, Matches]:
    """The matches of both detectors on one cohort."""
    boxes = rng.geometric(1 / BOXES_PER_PATIENT, patients)
    truth_patient = np.repeat(np.arange(patients), boxes)
    ease = rng.normal(0, 0.5, patients)[truth_patient] + rng.normal(0, 0.7, len(truth_patient))
    clutter = FALSE_POSITIVES_PER_PATIENT * rng.lognormal(0, 0.5, patients)
    return {
        name: _matches(separation + ease, truth_patient, rng.poisson(clutter), rng)
        for name, separation in SEPARATION.items()
    }


def _matches(
    centre: np.ndarray, truth_patient: np.ndarray, false_positives: np.ndarray, rng: np.random.Generator
) -> Matches:
    patients = len(false_positives)
    found = np.flatnonzero(rng.random(len(centre)) < FOUND)
    false_patient = np.repeat(np.arange(patients), false_positives)
    score = np.concatenate([rng.normal(centre[found], 0.7), rng.normal(0, 1, len(false_patient))])
    truth = np.concatenate([found, np.full(len(false_patient), -1)])
    order = np.argsort(-score)
    return Matches(
        score=score[order],
        outcome=(truth >= 0).astype(np.int8)[order],
        truth=truth[order],
        detection=order,
        patient=np.concatenate([truth_patient[found], false_patient])[order],
        truth_ids=list(range(len(centre))),
        truth_patient=truth_patient,
        patients=list(range(patients)),
        images_per_patient=np.full(patients, BOXES_PER_PATIENT),
    )


def plain_percentiles(metric_values: np.ndarray) -> tuple[float, float]:
    """The percentile interval without the widening for few patients."""
    low, high = np.quantile(metric_values, [0.025, 0.975])
    return float(low), float(high)


def both_intervals(
    cohort: dict[str, Matches], resamples: int, seed: int
) -> dict[tuple[str, str], tuple[float, float]]:
    """(what, method) -> interval, for the AP of SSD-FE and for its difference to SSD."""
    first, _, difference = intervals.compare(average_precision, cohort["SSD-FE"], cohort["SSD"], resamples, seed)
    found = {}
    for what, interval in (("AP", first), ("difference", difference)):
        found[what, "percentile"] = (interval.low, interval.high)
        found[what, "BCa"] = (interval.bca_low, interval.bca_high)
    values = intervals.resampled(
        lambda weights: average_precision(cohort["SSD-FE"], weights=weights),
        len(cohort["SSD-FE"].patients),
        resamples,
        seed,
    )
    found["AP", "percentile, not widened"] = plain_percentiles(values)
    return found


def coverage(patients: int, cohorts: int, resamples: int, true: dict[str, float]) -> pd.DataFrame:
    """Share of cohorts whose interval holds the true value, and the mean width of the intervals."""
    rows = []
    for number in tqdm(range(cohorts), desc=f"{patients} patients", unit="cohort"):
        cohort = draw_cohort(patients, np.random.default_rng([patients, number]))
        for (what, method), (low, high) in both_intervals(cohort, resamples, number).items():
            holds = low <= true[what] <= high
            rows.append({"of": what, "interval": method, "coverage": holds, "width": high - low})
    table = pd.DataFrame(rows).groupby(["of", "interval"]).mean().reset_index()
    return table.assign(patients=patients)


def draw_study(
    seeds: int, patients: int, shifts: tuple[float, float], rng: np.random.Generator
) -> list[list[Matches]]:
    """Matches of `seeds` trainings for each of two twins that do not differ in the mean."""
    truth_patient = np.repeat(np.arange(patients), rng.geometric(1 / BOXES_PER_PATIENT, patients))
    of_training, of_patient = shifts
    twins = rng.normal(1, of_patient, (2, patients))[:, truth_patient]
    nothing = np.zeros(patients, int)
    return [
        [_matches(centre + rng.normal(0, of_training), truth_patient, nothing, rng) for _ in range(seeds)]
        for centre in twins
    ]


def sensitivity(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """Share of the microbleeds with a score of at least 1; [B] for weights of the patients [B, P]."""
    of_patient = np.bincount(matches.truth_patient, matches.truth_score >= 1, len(matches.patients))
    return weights @ of_patient / (weights @ np.bincount(matches.truth_patient, minlength=len(matches.patients)))


def coverage_of_studies(seeds: int, patients: int, dominates: str, studies: int, resamples: int) -> float:
    """Share of the studies whose interval contains zero."""
    contains = []
    for number in tqdm(range(studies), desc=f"{seeds} seeds, {dominates} dominate", unit="study"):
        twins = draw_study(seeds, patients, SHIFTS[dominates], np.random.default_rng([seeds, patients, number]))
        gain = intervals.difference_over_seeds(sensitivity, *twins, resamples, number)
        contains.append(gain.low <= 0 <= gain.high)
    return float(np.mean(contains))


def main() -> None:
    """Print the coverage as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--studies", type=int, help="measure intervals over patients and seeds, on so many studies")
    arguments = parser.parse_args()
    if arguments.studies:
        print("| seeds | patients | " + " | ".join(f"{name} dominate" for name in SHIFTS) + " |\n|---|---|---|---|")
        for seeds, patients in ((3, 48), (5, 48), (8, 48)):
            sizes = seeds, patients
            shares = [coverage_of_studies(*sizes, name, arguments.studies, arguments.resamples) for name in SHIFTS]
            print(f"| {seeds} | {patients} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
        return
    population = draw_cohort(POPULATION, np.random.default_rng(0))
    ap = {name: average_precision(matches) for name, matches in population.items()}
    true = {"AP": ap["SSD-FE"], "difference": ap["SSD-FE"] - ap["SSD"]}
    print(f"true AP {true['AP']:.4f}, true difference {true['difference']:.4f}")
    parts = [coverage(patients, arguments.cohorts, arguments.resamples, true) for patients in PATIENTS]
    table = pd.concat(parts).pivot(index=["of", "interval"], columns="patients", values=["coverage", "width"])
    print("| of | interval | " + " | ".join(f"{name}, {patients} patients" for name, patients in table) + " |")
    print("|---|---|" + "---|" * table.shape[1])
    for (what, method), row in table.iterrows():
        print(f"| {what} | {method} | " + " | ".join(f"{value:.3f}" for value in row) + " |")


if __name__ == "__main__":
    main()
