"""One series from its files to its findings: while the network works on a batch, threads write overlays."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cmbfe.data.labelled.images import magnitude_of
from cmbfe.data.labelled.labels import Detections
from cmbfe.figures.style import overlay
from cmbfe.files import whole_file
from cmbfe.findings.lesions import Lesion, find_lesions
from cmbfe.findings.model import Detector
from cmbfe.findings.series import Loaded, Series
from cmbfe.params import Images
from cmbfe.training.detection import detect

OVERLAYS = "overlays"
SHOWN_AT_MOST = 200
"""Images of one series in a page; a folder of images may hold any number."""


@dataclass(frozen=True)
class Task:
    """A series, and what it is called in the outputs."""

    series: Series
    number: int
    first_id: int
    """Id of its first image."""
    folder: str
    """Of its overlays."""
    patient: str
    name: str
    keep_uids: bool
    """Whether images name the SOP instance that they were made of."""


@dataclass(frozen=True)
class Findings:
    """A series with what was detected in it."""

    task: Task
    images: list[dict[str, Any]]
    detections: Detections
    lesions: list[Lesion] | None
    """None for images, whose place is not known."""
    pixels: dict[int, np.ndarray]
    """Image id -> image, for those with a detection of at least the threshold (`SHOWN_AT_MOST` of them, the best)."""
    threshold: float

    @cached_property
    def drawn(self) -> dict[int, Detections]:
        """Image id, as `pixels` has them -> the detections that reach the threshold."""
        drawn: dict[int, Detections] = {image_id: [] for image_id in self.pixels}
        for detection in self.detections:
            if detection["score"] >= self.threshold and detection["image_id"] in drawn:
                drawn[detection["image_id"]].append(detection)
        return drawn


def analyse(task: Task, detector: Detector, settings: Images, threshold: float, out: Path) -> Findings:
    """Read a series, detect in it, and write its overlays below `out`.

    Raises:
        InputError: the series cannot be read.
    """
    loaded = task.series.load(settings)
    images = _named(task, loaded)
    detections: Detections = []
    shown: dict[int, tuple[float, np.ndarray]] = {}
    waiting: list[Future] = []
    start = 0
    with ThreadPoolExecutor(2) as pool:
        for batch in loaded.batches:
            own = images[start : start + len(batch)]
            start += len(batch)
            of_batch = detect(detector.model, batch, [image["id"] for image in own], detector.compute)
            _wait_for(waiting)  # of the batch before: no more than two batches wait to be written
            waiting = []
            for image, pixels in zip(own, batch, strict=True):
                own_boxes = (box for box in of_batch if box["image_id"] == image["id"])
                drawn = [box for box in own_boxes if box["score"] >= threshold]
                waiting.append(pool.submit(_write_overlay, out / OVERLAYS, image, magnitude_of(pixels), drawn))
                if drawn:
                    shown[image["id"]] = (drawn[0]["score"], pixels)
            detections += of_batch
            shown = _best(shown)
        _wait_for(waiting)
    lesions = None if loaded.place is None else find_lesions(images, detections, loaded.place, threshold)
    pixels_shown = {image_id: pixels for image_id, (_, pixels) in shown.items()}
    return Findings(task, images, detections, lesions, pixels_shown, threshold)


def _named(task: Task, loaded: Loaded) -> list[dict[str, Any]]:
    """COCO `images` of a series, with ids and the names of the outputs."""
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


def _write_overlay(folder: Path, image: dict[str, Any], pixels: np.ndarray, drawn: Detections) -> None:
    with whole_file((folder / image["file_name"]).with_suffix(".png")) as file:
        overlay(pixels, drawn).save(file, compress_level=1)


def _wait_for(waiting: list[Future]) -> None:
    for future in waiting:
        future.result()


def _best(shown: dict[int, tuple[float, np.ndarray]]) -> dict[int, tuple[float, np.ndarray]]:
    if len(shown) <= SHOWN_AT_MOST:
        return shown
    kept = sorted(shown, key=lambda image_id: -shown[image_id][0])[:SHOWN_AT_MOST]
    return {image_id: shown[image_id] for image_id in sorted(kept)}
