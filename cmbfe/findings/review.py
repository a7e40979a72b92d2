"""Reviews of the lesions that `cmbfe detect` has found, as one JSON file per reader and patient.

The page of a patient (templates/review.js) writes the file. This module reads it, checks it against the findings, and
combines it with the reviews of other readers. docs/review.md describes the format.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from cmbfe.data.dicom.series import to_patient_mm
from cmbfe.data.labelled.detections import IMAGES_FILE
from cmbfe.data.sources.lesions import LARGEST_MM, SMALLEST_MM, lesions_of_points
from cmbfe.data.sources.writing import SERIES_FILE
from cmbfe.errors import InputError
from cmbfe.files import read_json
from cmbfe.findings.lesions import REVIEWED_FILE, Lesion, fingerprint, from_json, lesion_of
from cmbfe.findings.search import Place, even_place
from cmbfe.metrics.agreement import fleiss_kappa
from cmbfe.metrics.lesions import LINK_MM
from cmbfe.params import checked

YES, NO, UNSURE = "yes", "no", "unsure"
Answer = Literal["yes", "no", "unsure"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Answered(_Part):
    lesion: int
    answer: Answer


class Added(_Part):
    """A microbleed that a reader saw and the detector missed: its centre in px, on a slice counted from 0."""

    slice: int
    x: Annotated[float, Field(allow_inf_nan=False)]
    y: Annotated[float, Field(allow_inf_nan=False)]
    diameter_mm: Annotated[float, Field(ge=SMALLEST_MM, le=LARGEST_MM)]
    answer: Literal["yes", "unsure"]


class _SeriesReview(_Part):
    uid: str
    findings: str
    lesions: list[_Answered]
    added: list[Added]

    @property
    def answers(self) -> dict[int, Answer]:
        return {answered.lesion: answered.answer for answered in self.lesions}


class Review(_Part):
    """One reader's review of a patient, as stored in the file."""

    format: Literal["cmbfe review"]
    version: Literal[1]
    patient: str
    reader: Annotated[str, Field(min_length=1, max_length=40)]
    series: list[_SeriesReview]
    checksum: int


@dataclass(frozen=True)
class FoundSeries:
    """A series and its lesions, as `cmbfe detect` writes them."""

    uid: str
    patient: str
    folder: str
    images: list[dict[str, Any]]
    """COCO `images` in the order of the slices."""
    place: dict[str, Any]
    """As in `cmbfe.data.sources.series.Loaded`."""
    lesions: list[Lesion]

    @property
    def geometry(self) -> Place:
        return even_place(self.place, self.images)


@dataclass(frozen=True)
class Reading:
    """A lesion and the answers of the patient's readers."""

    series: FoundSeries
    lesion: Lesion
    """A lesion that a reader added has no score."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """Reader -> answer."""

    @property
    def result(self) -> Answer:
        """The answer of more than half of the readers, else unsure."""
        answer, count = Counter(self.answers.values()).most_common(1)[0]
        return answer if 2 * count > len(self.answers) else UNSURE

    @property
    def agreement(self) -> float:
        """Share of the pairs of readers with the same answer; NaN for a single reader."""
        pairs = list(combinations(self.answers.values(), 2))
        return float(np.mean([first == second for first, second in pairs])) if pairs else np.nan


def read_found(folder: Path) -> list[FoundSeries]:
    """Read the series that `cmbfe detect` has written to a folder, with their lesions. Raises `InputError` for a folder
    without results, with results of images, or with inconsistent files."""
    if not (folder / REVIEWED_FILE).is_file():
        what = "give the folder that `cmbfe detect` has written for DICOM or NIfTI"
        raise InputError(f"{folder}: no {REVIEWED_FILE} there; {what}")
    images, places, lesions = (read_json(folder / name) for name in (IMAGES_FILE, SERIES_FILE, REVIEWED_FILE))
    try:
        return [
            FoundSeries(
                uid=uid,
                patient=place["patient_id"],
                folder=place["folder"],
                images=[image for image in images["images"] if image["series_uid"] == uid],
                place={key: value for key, value in place.items() if key not in ("patient_id", "folder")},
                lesions=[from_json(lesion) for lesion in lesions if lesion["series_uid"] == uid],
            )
            for uid, place in places.items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: its files were changed ({error!r}); run `cmbfe detect` again") from None


def read_review(path: Path, found: Sequence[FoundSeries]) -> Review:
    """Read a review and check it against the findings.

    Raises:
        InputError: the file is not a review, was changed after it was saved, belongs to another patient, other series,
            other findings or other lesions, or has an added lesion outside the images.
    """
    content = read_json(path)
    review = checked(content, Review, path, "a review")
    without = {key: value for key, value in content.items() if key != "checksum"}
    if zlib.crc32(json.dumps(without, ensure_ascii=False, separators=(",", ":")).encode()) != review.checksum:
        raise InputError(
            f"{path}: was changed after it was saved: its checksum is another; save it again in the page"
        )
    own = {series.uid: series for series in found if series.patient == review.patient}
    if not own:
        raise InputError(f"{path}: is of the patient {review.patient!r}, whom these findings do not have")
    if others := _others([series.uid for series in review.series], own):
        raise InputError(f"{path}: is not of the series of {review.patient} in these findings: {others}")
    for series in review.series:
        _check_series(path, series, own[series.uid])
    return review


def _others(said: Sequence[Any], known: Iterable[Any]) -> str:
    """The entries that are missing in `said` or in `known`, or repeated in `said`, as text; "" if there are none."""
    counts = Counter(said)
    return ", ".join(map(str, sorted({one for one in {*counts, *known} if counts[one] != 1 or one not in known})))


def _check_series(path: Path, review: _SeriesReview, found: FoundSeries) -> None:
    where = f"{path}: series {found.uid}"
    if review.findings != fingerprint(found.images, found.lesions):
        raise InputError(f"{where}: was reviewed on other findings than these; review the page of this detection")
    if others := _others([one.lesion for one in review.lesions], [lesion.number for lesion in found.lesions]):
        raise InputError(f"{where}: its lesions are not those that were found: {others}; save it again in the page")
    for added in review.added:
        is_inside = 0 <= added.slice < len(found.images)
        image = found.images[added.slice if is_inside else 0]
        if not (is_inside and 0 <= added.x <= image["width"] and 0 <= added.y <= image["height"]):
            at = f"slice {added.slice}, {added.x:g}, {added.y:g} px"
            raise InputError(f"{where}: an added lesion lies outside its images: {at}; save it again in the page")


def readings(found: Sequence[FoundSeries], reviews: Sequence[Review]) -> list[Reading]:
    """Every lesion of the reviewed patients, including added lesions, with the readers' answers.

    Lesions that two readers added within 3 mm count as the same lesion. Readers who did not add it count as a no.
    """
    every = []
    for series in found:
        own = {review.reader: _of_series(review, series) for review in reviews if review.patient == series.patient}
        if not own:
            continue
        every += [
            Reading(series, lesion, {reader: said.answers[lesion.number] for reader, said in own.items()})
            for lesion in series.lesions
        ]
        groups = _joined({reader: said.added for reader, said in own.items()}, series)
        for number, group in enumerate(groups, len(series.lesions) + 1):
            answers = {reader: group[reader].answer if reader in group else NO for reader in own}
            every.append(Reading(series, _as_lesion(number, list(group.values()), series), answers))
    return every


def _of_series(review: Review, series: FoundSeries) -> _SeriesReview:
    return next(said for said in review.series if said.uid == series.uid)


def _joined(added: dict[str, list[Added]], series: FoundSeries) -> list[dict[str, Added]]:
    """Reader -> addition, for each added lesion. Additions of two readers within `LINK_MM` are the same lesion."""
    groups: list[tuple[np.ndarray, dict[str, Added]]] = []
    for reader, own in added.items():
        for one in own:
            place = np.array(to_patient_mm(series.geometry, one.slice, one.x, one.y))
            near = [(float(np.linalg.norm(place - at)), group) for at, group in groups if reader not in group]
            distance, group = min(near, key=lambda pair: pair[0], default=(np.inf, {}))
            if distance > LINK_MM:
                group = {}
                groups.append((place, group))
            group[reader] = one
    return [group for _, group in groups]


def _as_lesion(number: int, added: Sequence[Added], series: FoundSeries) -> Lesion:
    """The lesion at the mean of the readers' additions: a square on each slice that a ball of mean diameter reaches."""
    index, x, y, diameter = np.mean([(one.slice, one.x, one.y, one.diameter_mm) for one in added], axis=0)
    first, geometry = series.images[0], series.geometry
    shape = len(series.images), first["height"], first["width"]
    spacing_mm = geometry.slice_spacing_mm, *geometry.pixel_spacing_mm
    point = np.array([[min(x, first["width"]) - 0.5, min(y, first["height"]) - 0.5, index]])
    (boxes,) = lesions_of_points(point, [diameter], shape, spacing_mm, series.uid)
    best = min(boxes, key=lambda each: abs(each - index))
    ordered = [best, *(each for each in boxes if each != best)]
    return lesion_of(number, [(each, {"bbox": boxes[each], "score": None}) for each in ordered], geometry)


def cohen_kappa(first: Sequence[Answer], second: Sequence[Answer]) -> float:
    """Agreement of two readers beyond chance (Cohen 1960), for unordered answers. NaN without answers, or if both
    readers give the same answer to every lesion."""
    one, other = np.array(first), np.array(second)
    if not len(one):
        return np.nan
    by_chance = sum((one == answer).mean() * (other == answer).mean() for answer in {*first})
    return float(((one == other).mean() - by_chance) / (1 - by_chance)) if by_chance < 1 else np.nan


def fleiss_kappa_of(answers: np.ndarray) -> float:
    """Agreement of several readers beyond chance (Fleiss 1971), for answers [n lesions, k readers]: the mean of
    the kappas of each answer against the others, weighted by p (1 - p) for its share p. NaN as in `fleiss_kappa`."""
    given = [answers == answer for answer in np.unique(answers)]
    weights = [own.mean() * (1 - own.mean()) for own in given]
    return float(np.average([fleiss_kappa(own) for own in given], weights=weights)) if sum(weights) else np.nan


def agreement(every: Sequence[Reading]) -> pd.DataFrame:
    """Agreement of each pair of readers, and of all: number of common lesions, share with the same answer, and kappa.

    Added lesions are left out, as readers are asked about detected lesions only.
    """
    detected = [reading.answers for reading in every if reading.lesion.score is not None]
    readers = sorted({reader for reading in every for reader in reading.answers})
    rows = []
    for chosen in [*combinations(readers, 2), *([tuple(readers)] if len(readers) > 2 else [])]:
        table = np.array([[of[reader] for reader in chosen] for of in detected if {*chosen} <= {*of}], dtype=str)
        table = table.reshape(-1, len(chosen))
        kappa = cohen_kappa(*table.T.tolist()) if len(chosen) == 2 else fleiss_kappa_of(table)
        same = float((table == table[:, :1]).all(axis=1).mean()) if len(table) else np.nan
        kind = "Cohen" if len(chosen) == 2 else "Fleiss"
        rows.append((", ".join(chosen), len(table), same, kind, kappa))
    return pd.DataFrame(rows, columns=["readers", "lesions", "same_answer", "kind", "kappa"])
