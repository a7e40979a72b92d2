"""What phase as a second channel does: AP and false positives of each kind, paired over patients and seeds.

Detectors of the arm `phase` go on from trained ones: from scratch and with the study's schedule, a detector that sees
phase hardly begins to learn (docs/study.md). What they start from was trained on three equal channels, which are those
of images without any phase.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe import paths
from cmbfe.data.labelled.images import phase_file, read_with_phase, save_image
from cmbfe.data.labelled.labels import Labels
from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.metrics.cases import NOTHING, POOR_BOX
from cmbfe.metrics.curves import (
    Value,
    average_precision,
    false_positives_per_cmb,
    largest_sensitivity,
    precision_at_sensitivity,
)
from cmbfe.metrics.intervals import difference_over_seeds
from cmbfe.metrics.matching import FALSE_POSITIVE, IGNORED, Matches
from cmbfe.paper.tables import write_table
from cmbfe.params import PHASE, Params
from cmbfe.studies.arms import FE, PLAIN, result_files
from cmbfe.studies.patients import read_mimics, read_test_labels

Kinds = list[np.ndarray]
"""By seed: the kind of each detection of a false positive, str [D]; empty text for others."""
ALL = "all"
CALCIFICATION = "calcification"
PAIRS = {"": (PLAIN, PHASE), "-fe": (FE, f"{FE}-{PHASE}")}
"""Ending of the detector's name -> treatments without phase and with it."""
SIDE_PX = 48
EXAMPLES = ("cmb", CALCIFICATION)


def save_kinds(of_each: list[str], path: Path) -> None:
    """Write the kind of each detection as compressed arrays."""
    names, codes = np.unique(np.array(of_each, dtype=np.str_), return_inverse=True)
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, names=names, codes=codes.astype(np.uint8))


def read_kinds(treatment: str, params: Params, root: Path) -> Kinds:
    """The kinds of a treatment's detections, by seed; `InputError` where a file is missing or none of ours."""
    return [
        _load_kinds(file.with_name(f"{file.stem}-kinds.npz")) for file in result_files(PHASE, treatment, params, root)
    ]


def _load_kinds(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["names"][file["codes"]]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: no file of kinds: {' '.join(str(error).split())}") from None


def of_kind(matches: Matches, kinds: np.ndarray, kind: str) -> Matches:
    """The same matches with the false positives of other kinds ignored; hits, and so sensitivities, stay."""
    if kind == ALL:
        return matches
    others = (matches.outcome == FALSE_POSITIVE) & (kinds != kind)
    return replace(matches, outcome=np.where(others, IGNORED, matches.outcome).astype(matches.outcome.dtype))


def false_positives_per_patient(matches: Matches, sensitivity: float, weights: np.ndarray | None = None) -> Value:
    """False positives per patient at the highest threshold of that sensitivity; NaN where it is never reached."""
    cmbs = np.bincount(matches.truth_patient, minlength=len(matches.patients))
    shares = np.ones(len(cmbs)) if weights is None else weights
    return false_positives_per_cmb(matches, sensitivity, weights) * (shares @ cmbs) / shares.sum(axis=-1)


def effect_table(
    runs: Mapping[str, Sequence[Matches]],
    kinds: Mapping[str, Kinds],
    mimics: Sequence[str],
    params: Params,
    resamples: int,
) -> pd.DataFrame:
    """A row per detector (plain, and with FE where it is trained) and metric: without phase, with it, the difference.

    Values are means over seeds; the 95 % interval of the paired difference is over patients and seeds. False positives
    are per patient, at the sensitivity `study.phase.sensitivity`.

    Args:
        runs: treatment -> matches by seed. kinds: the same of `read_kinds`. mimics: kinds of mimics that have a row.
    """
    at = params.study.phase.sensitivity
    metrics = {
        "average precision": average_precision,
        "largest sensitivity": largest_sensitivity,
        f"precision at {at:.0%} sensitivity": partial(precision_at_sensitivity, sensitivity=at),
    }
    per_patient = partial(false_positives_per_patient, sensitivity=at)
    rows = {}
    for ending, pair in PAIRS.items():
        if not set(pair) <= set(runs):
            continue
        name = f"{params.study.phase.detector}{ending}"
        compared = partial(_compared, pair=pair, runs=runs, kinds=kinds, params=params, resamples=resamples)
        for metric, function in metrics.items():
            rows[name, metric] = compared(function, ALL)
        for kind in (*mimics, POOR_BOX, NOTHING, ALL):
            rows[name, f"false positives: {kind}"] = compared(per_patient, kind)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["detector", "metric"])


def _compared(
    metric: Callable[..., Value],
    kind: str,
    pair: tuple[str, str],
    runs: Mapping[str, Sequence[Matches]],
    kinds: Mapping[str, Kinds],
    params: Params,
    resamples: int,
) -> dict[str, float]:
    without, with_phase = (
        [of_kind(matches, own, kind) for matches, own in zip(runs[name], kinds[name], strict=True)] for name in pair
    )
    difference = difference_over_seeds(metric, with_phase, without, resamples, params.seed)
    means = [float(np.mean([metric(matches) for matches in of_seeds])) for of_seeds in (without, with_phase)]
    ends = {"difference": difference.mean, "difference_low": difference.low, "difference_high": difference.high}
    return {"without_phase": means[0], "with_phase": means[1], **ends}


def verdict(row: Mapping[str, float], what: str, lower_is_better: bool = False) -> str:
    """One sentence on a row of `effect_table`."""
    low, high = row["difference_low"], row["difference_high"]
    change = f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    numbers = f"{row['without_phase']:.3f} to {row['with_phase']:.3f}, difference {change}"
    if not np.isfinite([low, high]).all():
        return f"{what}: {numbers}: no interval, a detector does not reach that sensitivity"
    if low <= 0 <= high:
        return f"{what}: {numbers}: inconclusive"
    better = (high < 0) == lower_is_better
    return f"{what}: {numbers}: phase makes it {'better' if better else 'worse'}"


def write_examples(params: Params, root: Path) -> None:
    """Write results/study/phase/examples (each with NAME.phase.png) and test_mimics.csv beside them.

    Raises:
        InputError: as `read_test_labels`.
    """
    test, mimics = read_test_labels(params, root, params.study.phase.test_patients), read_mimics(params, root)
    write_table(count_mimics(test, mimics), paths.phase_mimics(root))
    image_of, folder = {image["id"]: image for image in test["images"]}, paths.study_data(root) / "pictures"
    for name in EXAMPLES:
        if box := typical(boxes_of(name, test, mimics)):
            file = folder / image_of[box["image_id"]]["file_name"]
            save_image(paths.phase_example(name, root), piece(read_with_phase(file, phase_file(file)), box["bbox"]))


def boxes_of(kind: str, test: Labels, mimics: Labels) -> list[dict]:
    """The boxes of a kind of mimic, or the microbleeds (`cmb`), on the test images."""
    labels = test if kind == "cmb" else mimics
    numbers = {category["id"] for category in labels["categories"] if category["name"] == kind}
    shown = {image["id"] for image in test["images"]}
    return [box for box in labels["annotations"] if box["category_id"] in numbers and box["image_id"] in shown]


def typical(boxes: list[dict]) -> dict | None:
    """The box in the middle slice of a lesion that is larger than most: at the third quartile of these boxes' areas.

    Lesions on an even number of slices have no middle one. The sign of the phase is another above and below it.
    """
    of_lesion = defaultdict(list)
    for box in sorted(boxes, key=lambda box: box["image_id"]):  # slices of a series are numbered in their order
        of_lesion[box["lesion_id"]].append(box)
    middle = [own[len(own) // 2] for own in of_lesion.values() if len(own) % 2]
    by_size = sorted(middle, key=lambda box: (box["area"], box["id"]))
    return by_size[3 * len(by_size) // 4] if by_size else None


def piece(image: np.ndarray, box: list[float]) -> np.ndarray:
    """The square of `SIDE_PX` around the middle of a box [x, y, w, h] px, moved to lie inside the image."""
    rows, columns = image.shape[:2]
    left = int(np.clip(box[0] + box[2] / 2 - SIDE_PX / 2, 0, max(columns - SIDE_PX, 0)))
    top = int(np.clip(box[1] + box[3] / 2 - SIDE_PX / 2, 0, max(rows - SIDE_PX, 0)))
    return image[top : top + SIDE_PX, left : left + SIDE_PX]


def count_mimics(test: Labels, mimics: Labels) -> pd.DataFrame:
    """By kind: `boxes` on the test images, and `patients` that have one."""
    patient_of = {image["id"]: image["patient_id"] for image in test["images"]}
    rows = {}
    for category in mimics["categories"]:
        boxes = boxes_of(category["name"], test, mimics)
        patients = {patient_of[box["image_id"]] for box in boxes}
        rows[category["name"]] = {"boxes": len(boxes), "patients": len(patients)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("kind")
