"""What the trainings of other detectors say: the gain by FE in each, and FE beside its relatives on one of them.

runs = read_others(params, Path())
gains_table(runs, params)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe import paths
from cmbfe.detector import alternatives
from cmbfe.detector.alternatives import PLAIN
from cmbfe.errors import InputError
from cmbfe.metrics.curves import average_precision
from cmbfe.metrics.intervals import SeedSummary, difference_over_seeds
from cmbfe.metrics.matching import Matches, load_matches
from cmbfe.params import Params

FE = "fe"
Runs = dict[str, list[Matches]]
"""Relative, or `PLAIN` -> what the detector found, by seed."""


def _files(detector: str, params: Params, root: Path) -> dict[str, list[Path]]:
    """Relative, or `PLAIN` -> where the matches of its trainings are, by seed."""
    folder, others = paths.others_result(detector, root), params.others
    return {
        relative: [folder / f"{relative}-{seed}.npz" for seed in others.seeds]
        for relative in (PLAIN, *others.relatives_on(detector))
    }


def read_others(params: Params, root: Path) -> dict[str, Runs]:
    """Detector -> what its trainings found; relatives and detectors that lack a seed are left out.

    Raises:
        InputError: no detector has all its seeds with FE and without, or a file cannot be read.
    """
    found: dict[str, Runs] = {}
    for detector in params.others.detectors:
        complete = {
            relative: files
            for relative, files in _files(detector, params, root).items()
            if all(file.is_file() for file in files)
        }
        if {PLAIN, FE} <= set(complete):
            found[detector] = {name: [load_matches(one) for one in files] for name, files in complete.items()}
    if not found:
        folder = root / "results" / "others"
        raise InputError(f"{folder}: no detector is trained and tested with all seeds; make others does it")
    return found


def gains_table(runs: Mapping[str, Runs], params: Params) -> pd.DataFrame:
    """A row per detector: mean AP over seeds without FE and with, and the gain.

    The gain has a 95 % interval over patients and seeds, and the two spreads behind it.
    """
    rows = {
        detector: {
            "layer": params.others.layer,
            "iterations": params.others.detectors[detector],
            "seeds": len(of_detector[PLAIN]),
            "ap": _mean_ap(of_detector[PLAIN]),
            "ap_fe": _mean_ap(of_detector[FE]),
            **_named("gain", _difference(of_detector[FE], of_detector[PLAIN], params), spreads=True),
        }
        for detector, of_detector in runs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("detector")


def relatives_table(of_detector: Runs, params: Params) -> pd.DataFrame:
    """A row per relative on one detector: its mean AP, the gain over the bare detector, and over FE (NaN for FE)."""
    rows = {}
    for name, ours in of_detector.items():
        rows[name] = {"source": "" if name == PLAIN else alternatives.find(name).source, "ap": _mean_ap(ours)}
        for column, other in (("gain", PLAIN), ("over_fe", FE)):
            compared = None if name in (PLAIN, other) else _difference(ours, of_detector[other], params)
            rows[name] |= _named(column, compared)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("relative")


def seeds_table(runs: Mapping[str, Runs]) -> pd.DataFrame:
    """A row per detector, relative and seed: AP, and the gain over the bare detector of that seed."""
    rows = [
        {"detector": detector, "relative": relative, "seed": seed}
        | {"ap": average_precision(ours), "gain": average_precision(ours) - average_precision(bare)}
        for detector, of_detector in runs.items()
        for relative, matches in of_detector.items()
        for seed, (ours, bare) in enumerate(zip(matches, of_detector[PLAIN], strict=True), 1)
    ]
    return pd.DataFrame(rows).set_index(["detector", "relative", "seed"]).sort_index()


def _mean_ap(matches: Sequence[Matches]) -> float:
    return float(np.mean([average_precision(one) for one in matches]))


def _difference(ours: Sequence[Matches], theirs: Sequence[Matches], params: Params) -> SeedSummary:
    return difference_over_seeds(average_precision, ours, theirs, params.evaluation.bootstrap_samples, params.seed)


def _named(name: str, one: SeedSummary | None, spreads: bool = False) -> dict[str, float]:
    values = (np.nan,) * 3 if one is None else (one.mean, one.low, one.high)
    named = dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    if spreads and one is not None:
        named |= {f"{name}_seed_deviation": one.seed_deviation, f"{name}_patient_deviation": one.patient_deviation}
    return named
