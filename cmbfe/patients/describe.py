"""Compare patients with published values, from images and labels alone, in a table with a row per value."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.spatial.distance import cdist
from tqdm import tqdm

from cmbfe.baselines.candidates import Stack, read_volume, slice_spacings, stacks_of
from cmbfe.data.labelled.labels import (
    LABELS_FILE,
    LOCATIONS,
    MIMICS_FILE,
    Detections,
    Labels,
    labelled,
    read_labels,
    xyxy,
)
from cmbfe.errors import InputError
from cmbfe.metrics.curves import false_positives_per_cmb
from cmbfe.metrics.intervals import interval_of
from cmbfe.metrics.lesions import check_lesion_keys, match_lesions
from cmbfe.metrics.matching import Matches, is_region, tight_box
from cmbfe.paper.tables import markdown
from cmbfe.patients.blobs import MOST, blobs
from cmbfe.patients.measure import measure_lesion
from cmbfe.patients.published import PUBLISHED, Published

HEAD_MM = 100.0
"""A series that covers less is a slab, whose numbers may be lower than the published numbers per head."""
OF_HEADS = ("blobs", "in_patient", "in_positive")
"""Traits whose published numbers refer to whole heads."""
SENSITIVITY = 0.95
RESAMPLES = 1000
STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    **{f"p{percent}": partial(np.percentile, q=percent) for percent in (5, 25, 75, 95)},
    **{place: lambda values, place=place: np.mean(values == place) for place in LOCATIONS},
    "median": np.median,
    "mean": np.mean,
    "most": np.max,
    "none": lambda values: np.mean(values == 0),
    "one": lambda values: np.mean(values == 1),
    "under 5": lambda values: np.mean(values < 5),
}


@dataclass(frozen=True)
class Patients:
    """Measurements of P patients."""

    traits: Mapping[str, pd.Series]
    """Values of each trait of `PUBLISHED`, indexed by the number of the patient."""
    blobs: Matches
    series: np.ndarray
    """int64 [P]: number of series of each patient."""
    depth_mm: float
    """Median extent of a series across its slices."""


def compare_patients(
    folder: Path,
    slice_mm: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    jobs: int = -1,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare the patients in a folder (images and annotations.json) with published values, a row per value.

    Args:
        folder: as written by `cmbfe import` or the pipeline. mimics.json and series.json are optional.
        slice_mm: distance between slices, for series that are not in series.json.
        jobs: series measured at a time; -1: one per core. The results do not depend on it.

    Returns:
        A table indexed by the name of the value. Columns: `ours`, `ours_low`, `ours_high` (95 % CI over patients);
        `published`, `low`, `high`; `in_range` ("yes", "no", "unknown"); `citation`, `checked`; `note` (reason, remark).

    Raises:
        InputError: no such labels or images, no microbleed, a missing key, or an unknown distance between slices.
    """
    patients = _measured(folder, slice_mm, jobs, progress)
    rows = tqdm(PUBLISHED, desc="bootstrap over patients", unit="row", disable=not progress)
    return pd.DataFrame([_row(row, patients, resamples, seed) for row in rows]).set_index("what")


def as_markdown(table: pd.DataFrame) -> str:
    """The table of `compare_patients` as Markdown: value with 95 % CI, published value, whether in range, and note."""
    cells = [
        [what, _with_interval(row), row["published"], ": ".join(filter(None, (row["in_range"], row["note"])))]
        for what, row in table.iterrows()
    ]
    return markdown(["", "ours (95 % CI)", "published", "in range"], cells)


def _with_interval(row: pd.Series) -> str:
    value, low, high = row[["ours", "ours_low", "ours_high"]]
    return "–" if np.isnan(value) else f"{value:.2f}" + ("" if np.isnan(low) else f" ({low:.2f} to {high:.2f})")


def _row(row: Published, patients: Patients, resamples: int, seed: int) -> dict[str, Any]:
    statistic = _blobs_per_series if row.trait == "blobs" else partial(_statistic, row)
    ours = interval_of(partial(statistic, patients), len(patients.series), resamples, seed)
    in_range, note = _verdict(ours.value, row, patients)
    return {
        "what": row.what,
        **{"ours": ours.value, "ours_low": ours.low, "ours_high": ours.high},
        **{"published": row.published, "low": row.low, "high": row.high, "in_range": in_range},
        **row.source._asdict(),
        "note": note,
    }


def _statistic(row: Published, patients: Patients, weights: np.ndarray) -> np.ndarray:
    """Statistic [B] of a row, with each patient repeated by its weight; NaN if there is no value."""
    values = patients.traits.get(row.trait, pd.Series(dtype=float))
    whose = values.index.to_numpy(np.int64)
    drawn = (np.repeat(values.to_numpy(), counts[whose]) for counts in weights.astype(np.int64))
    return np.array([STATISTICS[row.statistic](some) if len(some) else np.nan for some in drawn])


def _blobs_per_series(patients: Patients, weights: np.ndarray) -> np.ndarray:
    """Number of false-positive blobs per series at `SENSITIVITY`: [B]."""
    truths = np.bincount(patients.blobs.truth_patient, minlength=len(patients.series))
    per_cmb = false_positives_per_cmb(patients.blobs, SENSITIVITY, weights)
    return per_cmb * (weights @ truths) / (weights @ patients.series)


def _verdict(value: float, row: Published, patients: Patients) -> tuple[str, str]:
    """Whether a value is in the published range ("yes", "no" or "unknown"), and a note."""
    low, high = (-np.inf if row.low is None else row.low), (np.inf if row.high is None else row.high)
    is_slab = row.trait in OF_HEADS and patients.depth_mm < HEAD_MM
    note = f"a series covers {patients.depth_mm:.0f} mm of a head" if is_slab else ""
    if np.isnan(value) and row.trait == "blobs":
        return "unknown", f"the {MOST} best blobs of each slice do not reach {SENSITIVITY:.0%}"
    if np.isnan(value):
        return "unknown", row.if_unknown
    if row.low is None and row.high is None:
        return "unknown", "nothing published"
    if is_slab and value < low:
        return "unknown", note
    return ("yes" if low <= round(value, 2) <= high else "no"), note  # sources print two digits


def _measured(folder: Path, slice_mm: float | None, jobs: int, progress: bool) -> Patients:
    """Measure all traits of the patients in a folder. Each volume is read once."""
    labels = _read(folder)
    step_mm = slice_spacings(labels, folder, slice_mm)
    boxes, found, lesions = _table(labels["annotations"], labels, step_mm), [], {}
    stacks = stacks_of(labels, folder, slice_mm)
    tasks = (delayed(_of_stack)(stack, boxes[boxes["image"].isin(stack.image_ids)]) for stack in stacks)
    made = Parallel(jobs, return_as="generator")(tasks)
    for here, measured in tqdm(made, desc="measuring", unit="volume", total=len(stacks), disable=not progress):
        found += here
        lesions |= measured
    mimics = read_labels(folder / MIMICS_FILE)["annotations"] if (folder / MIMICS_FILE).is_file() else []
    nearest = nearest_mm(boxes, _table(mimics, labels, step_mm))
    matches = match_lesions(labels, found, hit="centre", duplicates="ignore")
    return _of_patients(labels, step_mm, boxes, pd.DataFrame(lesions).T.assign(nearest_mm=nearest), matches)


def _of_stack(stack: Stack, boxes: pd.DataFrame) -> tuple[Detections, dict[str, dict[str, float]]]:
    """Blobs of a stack, and size, shape and contrast of its microbleeds; `boxes` are rows of `_table`."""
    volume = read_volume(stack)
    slices = boxes["image"].map({image: number for number, image in enumerate(stack.image_ids)})
    lesions = {
        lesion: measure_lesion(volume, slices[own.index].to_numpy(), xyxy(own.to_dict("records")))
        for lesion, own in boxes.groupby("lesion")
    }
    return blobs(stack, volume), lesions


def _of_patients(
    labels: Labels, step_mm: Mapping[Any, float], boxes: pd.DataFrame, lesions: pd.DataFrame, matches: Matches
) -> Patients:
    """Gather all measurements of boxes and microbleeds, with patients in the order of `matches`."""
    number = {str(patient): index for index, patient in enumerate(matches.patients)}
    of_lesion = boxes.groupby("lesion").agg({"patient": "first", "location": "first"}).join(lesions)
    count = of_lesion["patient"].value_counts().reindex(list(number), fill_value=0)
    traits = {
        **of_lesion.set_index("patient"),
        "in_patient": count,
        "in_positive": count[count > 0],
        "on_image": boxes.groupby(["patient", "image"]).size().droplevel("image"),
    }
    series = {image["id"]: _series(image) for image in labels["images"]}
    of_series = Counter(number[patient] for patient, _ in set(series.values()))
    depths_mm = pd.Series(step_mm).groupby(pd.Series(series)).sum()
    return Patients(
        traits={name: values.dropna().rename(number) for name, values in traits.items()},
        blobs=matches,
        series=np.array([of_series[index] for index in number.values()]),
        depth_mm=float(depths_mm.median()),
    )


def _read(folder: Path) -> Labels:
    """Read the labels of labelled patients, without ignore regions, and check the keys that link boxes over slices."""
    file = folder / LABELS_FILE
    labels = labelled(read_labels(file))
    labels["annotations"] = [box for box in labels["annotations"] if not is_region(box)]
    if not labels["annotations"]:
        raise InputError(f"{file}: holds no microbleed; there is nothing to measure")
    try:
        check_lesion_keys(labels)
    except InputError as gap:
        raise InputError(f"{file}: {gap}") from None
    return labels


def _series(image: Mapping[str, Any]) -> tuple[str, str]:
    return str(image["patient_id"]), str(image.get("series_uid"))


def _table(boxes: Iterable[Mapping[str, Any]], labels: Labels, step_mm: Mapping[Any, float]) -> pd.DataFrame:
    """One row per box on an image of `labels`: patient, series, lesion, image, location, box, and centre in mm."""
    images = {image["id"]: image for image in labels["images"]}
    rows = []
    for box in (box for box in boxes if box["image_id"] in images):
        image, (x, y, width, height) = images[box["image_id"]], tight_box(box)
        patient, series = _series(image)
        row_mm, column_mm = image["pixel_spacing_mm"]
        middle = (image["slice_index"] * step_mm[image["id"]], (y + height / 2) * row_mm, (x + width / 2) * column_mm)
        lesion = f"{patient}/{box.get('lesion_id')}"
        rows.append((patient, series, lesion, image["id"], box.get("location"), tight_box(box), middle))
    return pd.DataFrame(rows, columns=["patient", "series", "lesion", "image", "location", "bbox", "middle"])


def nearest_mm(boxes: pd.DataFrame, mimics: pd.DataFrame) -> pd.Series:
    """Distance of each microbleed to the nearest other microbleed or mimic of its series; NaN if there is none.

    Measured in three dimensions between the centres of the nearest boxes. `boxes` and `mimics` are made by `_table`.
    """
    nearest = {}
    for (patient, series), own in boxes.groupby(["patient", "series"]):
        others = mimics[(mimics["patient"] == patient) & (mimics["series"] == series)]
        for lesion in own["lesion"].unique():
            here, there = own[own["lesion"] == lesion], pd.concat([own[own["lesion"] != lesion], others])
            nearest[lesion] = cdist([*here["middle"]], [*there["middle"]]).min() if len(there) else np.nan
    return pd.Series(nearest, dtype=float)
