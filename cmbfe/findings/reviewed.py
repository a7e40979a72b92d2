"""`cmbfe review`: turns findings and reviews into corrected labels, readers' agreement and a report, atomically."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cmbfe.data.labelled.labels import CATEGORIES, with_margin
from cmbfe.data.sources.identity import Pseudonyms, read_key
from cmbfe.data.sources.importer import SETTINGS_FILE, import_found
from cmbfe.data.sources.importer import Options as ImportOptions
from cmbfe.data.sources.labelled import found_in_labels
from cmbfe.data.sources.series import Found, Series
from cmbfe.errors import InputError
from cmbfe.figures.html import templates
from cmbfe.files import read_json, whole_folder, write_json
from cmbfe.findings.analysis import IMAGES
from cmbfe.findings.lesions import UNKNOWN, lesions_table, pattern
from cmbfe.findings.review import (
    NO,
    UNSURE,
    YES,
    FoundSeries,
    Reading,
    Review,
    agreement,
    read_found,
    read_review,
    readings,
)
from cmbfe.findings.run import SUMMARY_FILE, Options, write_objects
from cmbfe.findings.search import find
from cmbfe.parallel import at_work
from cmbfe.params import Images

TABLE_FILE, PAGE_FILE, REVIEW_FILE = "review.csv", "review.html", "review.json"
READER = "reader "
"""Prefix of the columns that hold a reader's answers."""
SHOWN = ["patient_id", "lesion", "region", "side", "score", "size_mm", "best_slice"]
"""Columns of the page's table that precede the readers' answers."""


def review_files(
    folder: Path,
    files: Sequence[Path],
    out: Path,
    seed: int,
    source: Path | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Combine reviews of the results of `cmbfe detect` in `folder`. docs/review.md lists the files that are written.

    Args:
        seed: random seed of the split by patient, as in an import.
        source: the input of the detection, to write DICOM objects of the microbleeds.
        options: which DICOM objects to write, and the key file of the detection (not needed after --keep-ids).

    Returns:
        The content of review.json.

    Raises:
        InputError: no such findings, a review of other findings (`read_review`), two reviews of a patient by one
            reader, an `out` that holds other files, or a source without a reviewed series.
    """
    options = options or Options()
    found = read_found(folder)
    reviews = _read_reviews(files, found)
    reviewed = [series for series in found if series.patient in {review.patient for review in reviews}]
    every, made = readings(found, reviews), read_json(folder / SUMMARY_FILE)
    sources = _sources(source, reviewed, options)
    with whole_folder(out, SETTINGS_FILE, filter(None, [folder, *files, source])) as temporary:
        settings = Images.model_validate_json(json.dumps({**made["pictures"], "phase": False}))
        labels, as_they_are = _labelled(folder, reviewed, every), ImportOptions(keep_ids=True)
        with at_work("threading", -1):
            import_found("review", labels, [folder], temporary, settings, seed, as_they_are, progress=False)
        table = _table(every)
        table.to_csv(temporary / TABLE_FILE, index=False)
        result = {
            **{key: made[key] for key in ("detector", "threshold", "threshold_from")},
            "readers": sorted({review.reader for review in reviews}),
            "patients": _counts(reviewed, every),
            "agreement": agreement(every).to_dict("records"),
            "notes": _write_objects(temporary, sources, every, made, options),
        }
        write_json(temporary / REVIEW_FILE, result)
        _write_page(temporary / PAGE_FILE, result, table)
    return result


def _read_reviews(files: Sequence[Path], found: Sequence[FoundSeries]) -> list[Review]:
    """Read the reviews as `read_review` does. Raises `InputError`, also for two reviews of a patient by one reader."""
    reviews = [read_review(file, found) for file in files]
    (whose, times), *_ = Counter((review.patient, review.reader) for review in reviews).most_common(1)
    if times > 1:
        raise InputError(f"{files[0]}: {times} reviews of {whose[0]} are by {whose[1]}; give one file of each reader")
    return reviews


def in_a_line(result: Mapping[str, Any]) -> str:
    """The result of a review in one line for the terminal."""
    yes, no, unsure, added = (sum(own[key] for own in result["patients"]) for key in (YES, NO, UNSURE, "added"))
    kappas = [f"{own['readers']}: kappa {_number(own['kappa'])}" for own in result["agreement"]]
    counts = f"microbleeds: {yes}, rejected: {no}, unsure: {unsure}, added: {added}"
    return "; ".join([f"patients: {len(result['patients'])}, {counts}", *kappas])


def _labelled(folder: Path, reviewed: Sequence[FoundSeries], every: Sequence[Reading]) -> Found:
    """The reviewed series with their microbleeds as labels. Unsure lesions become regions to ignore."""
    images = [image for series in reviewed for image in series.images]
    boxes = []
    for reading in every:
        own = {"ignore": 1} if reading.result == UNSURE else {}
        own |= {} if reading.lesion.region == UNKNOWN else {"location": reading.lesion.region}
        for index, (box, _) in reading.lesion.boxes.items() if reading.result != NO else ():
            image = reading.series.images[index]
            clipped = with_margin(box, 0, image)
            entry = {"id": len(boxes) + 1, "image_id": image["id"], "category_id": 1, "bbox": clipped}
            boxes.append({**entry, "lesion_id": reading.lesion.number, **own})
    labels = {"images": images, "annotations": boxes, "categories": CATEGORIES}
    places = {f"{series.patient}/{series.uid}": series for series in reviewed}
    found = found_in_labels(labels, folder, lambda image: (folder / IMAGES / image["file_name"]).with_suffix(".png"))
    return replace(
        found,
        series=tuple(replace(own, name=places[own.name].uid, place=places[own.name].place) for own in found.series),
    )


def _sources(
    source: Path | None, reviewed: Sequence[FoundSeries], options: Options
) -> list[tuple[Series, FoundSeries]]:
    """Pairs of source and reviewed series; empty without a source. Raises `InputError` if a series is missing."""
    if source is None:
        if options.sr or options.segmentation:
            raise InputError(
                "--sr and --segmentation need the DICOM files: give the folder of the detection, --source"
            )
        return []
    key = read_key(options.key_file)
    names = Pseudonyms(bytes.fromhex(key["salt"]) if key else None)
    series = find(source, source / "none", as_magnitude=True).series
    known = {names.series(own.patient, own.name): own for own in series}
    if missing := [own.uid for own in reviewed if own.uid not in known]:
        hint = "give the folder of the detection, and its --key-file unless ids were kept"
        raise InputError(f"{source}: the reviewed series {missing[0]} is not there; {hint}")
    return [(known[own.uid], own) for own in reviewed]


def _write_objects(
    out: Path,
    sources: Sequence[tuple[Series, FoundSeries]],
    every: Sequence[Reading],
    made: Mapping[str, Any],
    options: Options,
) -> list[str]:
    """Write the DICOM objects of each series' microbleeds. Returns a note per object that the headers do not allow."""
    notes = []
    for series, found in sources:
        own = [reading for reading in every if reading.series is found]
        lesions = [reading.lesion for reading in own if reading.result == YES]
        readers = sorted({name for reading in own for name in reading.answers})
        chosen = replace(options, threshold=made["threshold"])
        said = write_objects(series, found.folder, lesions, made["detector"], chosen, out, readers)
        notes += [f"{found.folder}: {note}" for note in said]
    return notes


def _table(every: Sequence[Reading]) -> pd.DataFrame:
    """A row per lesion: the columns of lesions.csv, each reader's answer, the result and the agreement."""
    rows = [
        lesions_table(reading.series.images, [reading.lesion]).assign(
            **{f"{READER}{name}": answer for name, answer in reading.answers.items()},
            result=reading.result,
            agreement=reading.agreement,
        )
        for reading in every
    ]
    return pd.concat(rows or [lesions_table([], []).assign(result=[], agreement=[])], ignore_index=True)


def _counts(reviewed: Sequence[FoundSeries], every: Sequence[Reading]) -> list[dict[str, Any]]:
    """A row per patient: numbers of detected, added, accepted, rejected and unsure lesions, and the pattern of the
    microbleeds."""
    counts = []
    for patient in dict.fromkeys(series.patient for series in reviewed):
        own = [reading for reading in every if reading.series.patient == patient]
        results = Counter(reading.result for reading in own)
        added = sum(reading.lesion.score is None for reading in own)
        row = {"patient": patient, "detected": len(own) - added, "added": added}
        row |= {answer: results[answer] for answer in (YES, NO, UNSURE)}
        counts.append({**row, "pattern": pattern(reading.lesion.region for reading in own if reading.result == YES)})
    return counts


def _write_page(path: Path, result: Mapping[str, Any], table: pd.DataFrame) -> None:
    shown = table[[column for column in table if column in SHOWN or column.startswith(READER)] + ["result"]]
    agreed = [
        [own["readers"], own["lesions"], *(_number(own[key]) for key in ("same_answer", "kappa")), own["kind"]]
        for own in result["agreement"]
    ]
    page = (
        templates("cmbfe.findings")
        .get_template("reviewed.html.jinja")
        .render(
            title="Review",
            result=result,
            patients=[list(counts.values()) for counts in result["patients"]],
            agreement=agreed,
            lesions=shown.to_html(index=False, na_rep="", float_format="{:.2f}".format, border=0),
        )
    )
    path.write_text(page, encoding="utf-8")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
