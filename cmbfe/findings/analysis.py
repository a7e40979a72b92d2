"""The analysis of one series, from its files to its findings. Threads write overlays while the network detects."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmbfe.data.labelled.images import magnitude_of
from cmbfe.data.labelled.labels import Detections
from cmbfe.data.sources.dicom import NO_PATIENT, OTHER_VIEW
from cmbfe.data.sources.series import Loaded, Series
from cmbfe.errors import InputError
from cmbfe.figures.style import overlay
from cmbfe.files import whole_file
from cmbfe.findings.lesions import Lesion, find_lesions
from cmbfe.findings.model import Detector
from cmbfe.findings.regions import NotRegistered, placed, register, series_image, shrunk, struck_out
from cmbfe.findings.search import Place, in_batches, place_of
from cmbfe.params import Images
from cmbfe.training.detection import detect

OVERLAYS, IMAGES = "overlays", "images"
"""Folders of the slices with and without drawn detections. `IMAGES` holds only series with a known position."""
UNSEEN = "nothing can be seen in them, and a lesion across them counts twice"
SHOWN_AT_MOST = 200
"""Largest number of images of one series on a page, as a folder may hold any number of images."""


@dataclass(frozen=True)
class Task:
    """A series and its names in the outputs."""

    series: Series
    number: int
    first_id: int
    folder: str
    patient: str
    name: str
    keep_uids: bool
    """Whether the image entries keep the SOPInstanceUID of their source."""
    run: int = 1
    """Number of the series within its patient, from 1."""


@dataclass(frozen=True)
class Findings:
    """A series and the detections in it."""

    task: Task
    images: list[dict[str, Any]]
    detections: Detections
    place: dict[str, Any]
    """As in `Loaded`; empty for images."""
    scan: dict[str, float]
    """As in `Loaded`."""
    lesions: list[Lesion] | None
    """None for a folder of images, whose position in the patient is unknown."""
    shown: dict[int, tuple[np.ndarray, Detections]]
    """Image id -> image and its detections that reach the threshold, for the `SHOWN_AT_MOST` best images."""
    threshold: float
    notes: tuple[str, ...]
    """Assumptions about the series, one sentence each, without names."""

    @property
    def counted(self) -> list[Lesion]:
        """The lesions that are not struck out."""
        return [lesion for lesion in self.lesions or () if not lesion.struck_out]


def analyse(
    task: Task, detector: Detector, settings: Images, threshold: float, out: Path, by_anatomy: bool = False
) -> Findings:
    """Read a series, detect microbleeds in it, and write its slices with and without overlays below `out`. `by_anatomy`
    strikes out lesions by the rules of `regions`. Raises `InputError` if the series cannot be read."""
    loaded = task.series.load(None)
    images, place = _named(task, loaded), place_of(task.series, loaded)
    small: list[np.ndarray] = []
    detections: Detections = []
    shown: dict[int, tuple[np.ndarray, Detections]] = {}
    waiting: list[Future] = []
    following = iter(images)
    blank = 0
    with ThreadPoolExecutor(2) as pool:
        for batch in in_batches(loaded.draw(settings)):
            own = list(islice(following, len(batch)))
            of_batch = detect(detector.model, batch, [image["id"] for image in own], detector.compute)
            _wait_for(waiting)  # no more than two batches wait to be written
            small += [shrunk(magnitude_of(pixels), place) for pixels in batch] if place else []
            blank += sum(magnitude_of(pixels).min() == magnitude_of(pixels).max() for pixels in batch)
            for image, pixels in zip(own, batch, strict=True):
                drawn = [box for box in of_batch if box["image_id"] == image["id"] and box["score"] >= threshold]
                files = [out / folder / image["file_name"] for folder in (OVERLAYS, *([IMAGES] if place else []))]
                waiting.append(pool.submit(_write_slice, files, magnitude_of(pixels), drawn))
                if drawn:
                    shown[image["id"]] = (pixels, drawn)
            detections += of_batch
            if len(shown) > SHOWN_AT_MOST:
                kept = sorted(shown, key=lambda image_id: -shown[image_id][1][0]["score"])[:SHOWN_AT_MOST]
                shown = {image_id: shown[image_id] for image_id in sorted(kept)}
        _wait_for(waiting)
    if blank == len(images):
        raise InputError(f"{task.series.files[0]}: no contrast: every image has one value only; export them again")
    notes = [note for note, times in loaded.notes.items() if times and note not in (NO_PATIENT, OTHER_VIEW)]
    notes += [f"{blank} of {len(images)} images have one value only: {UNSEEN}."] if blank else []
    if place is None:
        return Findings(task, images, detections, {}, loaded.scan, None, shown, threshold, tuple(notes))
    lesions = find_lesions(images, detections, place, threshold)
    lesions, said = _in_the_brain(lesions, small, images[0], place, by_anatomy)
    return Findings(task, images, detections, loaded.place, loaded.scan, lesions, shown, threshold, (*notes, *said))


def _in_the_brain(
    lesions: list[Lesion], small: list[np.ndarray], image: dict[str, Any], place: Place, by_anatomy: bool
) -> tuple[list[Lesion], list[str]]:
    """Add the regions of the lesions, and return notes about the series. A series without lesions is not registered."""
    if not lesions:
        return lesions, []
    to_template, notes = None, []
    try:
        to_template = register(series_image(small, (image["height"], image["width"]), place))
        lesions = placed(lesions, to_template)
    except NotRegistered as error:
        notes.append(f"Regions are unknown, as the series could not be registered to a template: {error}.")
    judged = struck_out(lesions, place, to_template)
    if by_anatomy:
        return judged, notes
    if against := sum(bool(lesion.struck_out) for lesion in judged):
        which = f"{against} of {len(lesions)} lesions lie outside the brain or run along a vein"
        notes.append(f"{which}: --by-anatomy strikes them out.")
    return lesions, notes


def _named(task: Task, loaded: Loaded) -> list[dict[str, Any]]:
    """The COCO `images` of a series, with their ids and output names."""
    hidden = () if task.keep_uids else ("sop_instance_uid",)
    digits = max(3, len(str(len(loaded.images) - 1)))
    return [
        {
            "id": task.first_id + number,
            "file_name": f"{task.folder}/{number:0{digits}d}.png",
            "patient_id": task.patient,
            "series_uid": task.name,
            **{key: value for key, value in image.items() if key not in hidden},
        }
        for number, image in enumerate(loaded.images)
    ]


def _write_slice(files: Sequence[Path], pixels: np.ndarray, drawn: Detections) -> None:
    """Write a slice with the boxes `drawn` to the first file, and a copy without boxes to the second file, if given."""
    for path, image in zip(files, (overlay(pixels, drawn), Image.fromarray(pixels)), strict=False):
        with whole_file(path.with_suffix(".png")) as file:
            image.save(file, compress_level=1)


def _wait_for(waiting: list[Future]) -> None:
    for future in waiting:
        future.result()
    waiting.clear()
