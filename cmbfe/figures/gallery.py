"""The content of the viewer: series of images with boxes and scores, and each detector's point on the FROC.

A `Gallery` is read once, with every detection matched. A `View` selects the part that is shown. The functions of a
gallery and a view are fast enough for every move of a slider.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import torch

from cmbfe.data.labelled.detections import IMAGES_FILE, detections_of, images_file
from cmbfe.data.labelled.images import read_with_phase
from cmbfe.data.labelled.labels import LABELS_FILE, Detections, Labels, read_labels, xyxy
from cmbfe.detector.explain import enhancement_steps
from cmbfe.detector.fe import enhancement_mask
from cmbfe.detector.ssd import SSD
from cmbfe.detector.weights import load_model
from cmbfe.errors import InputError
from cmbfe.metrics.curves import froc, match
from cmbfe.training.batches import to_input

GROUND_TRUTH = "ground truth"
IMAGE, MASK, DIFFERENCE = "image", "FE mask", "feature map"
LAYER_MEANING = {
    MASK: "green: FE mask M, 0 to 1, opaque where it is largest",
    DIFFERENCE: "green: what FE adds to the channel of the first feature map that it changes most",
}


@dataclass(frozen=True)
class Boxes:
    """The detections of an image, the best first, or its ground truth, which has no scores."""

    boxes: np.ndarray  # float64 [K, 4] x, y, w, h px
    scores: np.ndarray  # float64 [K], descending, or empty

    def above(self, threshold: float) -> "Boxes":
        """The boxes with a score of at least `threshold`."""
        kept = int(np.searchsorted(-self.scores, -threshold, side="right"))
        return Boxes(self.boxes[:kept], self.scores[:kept])


NOTHING = Boxes(np.zeros((0, 4)), np.zeros(0))


@dataclass(frozen=True)
class Gallery:
    """Images by series, and the detections on them."""

    folder: Path
    series: dict[str, list[dict[str, Any]]]
    """Name of a series (its patient) -> COCO `images` in the order of the slices."""
    truth: dict[Any, np.ndarray] | None
    """Image id -> boxes, float64 [K, 4] x, y, w, h px, of every labelled image; None without labels."""
    detections: dict[str, dict[Any, Boxes]]  # detector -> image id -> its detections
    curves: dict[str, pd.DataFrame]
    """Detector -> its FROC (`cmbfe.metrics.curves.froc`); empty without ground truth."""
    model: SSD | None = None  # the detector whose feature map shows what FE adds

    @property
    def layers(self) -> list[str]:
        """The layers that an image can have. The FE layers need ground truth, and `DIFFERENCE` also needs a model."""
        of_fe = [MASK, DIFFERENCE] if self.model else [MASK]
        return [IMAGE, *(of_fe if self.curves else [])]

    @property
    def drawable(self) -> list[str]:
        """Names of all sets of boxes: the ground truth, if any, and the detectors."""
        return [*([GROUND_TRUTH] if self.curves else []), *self.detections]

    @cached_property
    def threshold_range(self) -> tuple[float, float]:
        """Lowest and highest threshold: 0 and 1, or the scores' limits if they are wider."""
        best = [of_image.scores for by_image in self.detections.values() for of_image in by_image.values()]
        scores = np.concatenate([*best, [0.0, 1.0]])
        return float(scores.min()), float(scores.max())


@dataclass(frozen=True)
class View:
    """The part of a gallery that is shown."""

    series: str
    position: int  # place of the slice in its series, from 0
    layer: str
    shown: tuple[str, ...]  # sets of boxes to draw, from `Gallery.drawable`
    threshold: float  # lowest score of the drawn detections, and threshold of the FROC point


def open_gallery(
    images: Path | str,
    detections: Mapping[str, Path | str | Detections],
    labels: Path | str | Labels | None = None,
    model: Path | str | None = None,
    iou: float = 0.5,
) -> Gallery:
    """Read images, labels and detections, and match them once.

    Args:
        images: folder of 8-bit images.
        detections: name -> COCO results, as a file or already read. For a file from `cmbfe detect`, the images.json
            beside it identifies its images, whatever their suffix. Other results use the image ids of the labels.
        labels: COCO labels for the FROC. The default is annotations.json among the images, or images.json beside the
            detections. Labels without boxes give no ground truth and no FROC.
        model: folder of a trained detector, to show what FE adds to its feature map.
        iou: smallest overlap at which a detection is a hit.

    Raises:
        InputError: no image, no detections, or files that cannot be read or do not fit together.
    """
    folder = Path(images)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    if not detections:
        raise InputError("no detections to show: give a name and a detections.json for each detector")
    own = folder / LABELS_FILE
    whole = read_labels(own) if own.is_file() else None
    counted = _labels(labels, whole, detections)
    results = {name: detections_of(given, counted) for name, given in detections.items()}
    series = _series(counted, whole, folder)
    for image in chain.from_iterable(series.values()):
        if not (folder / image["file_name"]).is_file():
            raise InputError(f"{folder / image['file_name']}: no such image")
    truth, curves = None, {}
    if counted["annotations"]:
        truth = {image["id"]: NOTHING.boxes for image in counted["images"]}
        truth |= {image_id: boxes.boxes for image_id, boxes in _by_image(counted["annotations"]).items()}
        curves = {name: froc(match(counted, of_file, iou=iou)) for name, of_file in results.items()}
    by_image = {name: _by_image(of_file) for name, of_file in results.items()}
    return Gallery(folder, series, truth, by_image, curves, load_model(model) if model is not None else None)


def _labels(labels: Path | str | Labels | None, whole: Labels | None, detections: Mapping[str, Any]) -> Labels:
    """The labels from which the FROC is computed."""
    if labels is None and whole is not None:
        return whole
    for given in (labels, *map(images_file, detections.values())):
        if given is not None:
            return given if isinstance(given, dict) else read_labels(given)
    raise InputError(f"which image has which id? Give labels; there is neither {LABELS_FILE} nor {IMAGES_FILE}")


def _series(counted: Labels, whole: Labels | None, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Name -> complete series with ordered slices, for each patient and series in `counted`."""
    if not counted["images"]:
        raise InputError(f"{folder}: the labels name no image; give labels that do")
    source = whole or counted
    names = {image["id"]: image["file_name"] for image in source["images"]}
    if any(names.get(image["id"]) != image["file_name"] for image in counted["images"]):
        source = counted  # `whole` does not contain these images
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in sorted(map(_key, counted["images"]))}
    for image in source["images"]:
        if _key(image) in grouped:
            grouped[_key(image)].append(image)
    patients = [patient for patient, _ in grouped]
    named = {}
    for number, ((patient, _), images) in enumerate(grouped.items(), 1):
        name = patient if patients.count(patient) == 1 else f"{patient}, series {patients[:number].count(patient)}"
        named[name] = sorted(images, key=lambda image: (image.get("slice_index", 0), str(image["file_name"])))
    return named


def _key(image: Mapping[str, Any]) -> tuple[str, str]:
    """Patient and series of an image. If the file names no patient, the image's folder counts as the patient."""
    patient = image.get("patient_id", PurePosixPath(image["file_name"]).parent.name or "pictures")
    return str(patient), str(image.get("series_uid", ""))


def _by_image(boxes: Sequence[Mapping[str, Any]]) -> dict[Any, Boxes]:
    """Image id -> boxes, from COCO results (the best first) or from annotations."""
    grouped = defaultdict(list)
    for box in sorted(boxes, key=lambda box: -box.get("score", 0)):
        grouped[box["image_id"]].append(box)
    return {
        image_id: Boxes(
            np.array([box["bbox"] for box in of_image], float),
            np.array([box["score"] for box in of_image if "score" in box], float),
        )
        for image_id, of_image in grouped.items()
    }


def first_view(gallery: Gallery) -> View:
    """The first view: the image with most microbleeds or, without any, the best score. Threshold: `first_threshold`."""
    low = gallery.threshold_range[0]
    places = [(name, place) for name, images in gallery.series.items() for place in range(len(images))]

    def interest(where: tuple[str, int]) -> tuple[int, float]:
        identity = gallery.series[where[0]][where[1]]["id"]
        best = [by_image[identity].scores[0] for by_image in gallery.detections.values() if identity in by_image]
        return len((gallery.truth or {}).get(identity, ())), max(best, default=low)

    series, position = max(places, key=interest)
    return View(series, position, IMAGE, tuple(gallery.drawable), first_threshold(gallery))


def first_threshold(gallery: Gallery) -> float:
    """The score (two decimals) at which the first detector has one false positive per image; 0.5 without a FROC."""
    for curve in gallery.curves.values():
        at_most_one = curve["threshold"][(curve["false_positives"] <= 1) & (curve["threshold"] < np.inf)]
        if len(at_most_one):
            return float(np.ceil(100 * at_most_one.iloc[-1]) / 100)
    return 0.5


def moved(gallery: Gallery, view: View, steps: int) -> View:
    """The view moved by `steps` slices, but not beyond the ends of the series."""
    last = len(gallery.series[view.series]) - 1
    return replace(view, position=min(max(view.position + steps, 0), last))


def image_of(gallery: Gallery, view: View) -> dict[str, Any]:
    """The COCO `images` entry of the shown slice."""
    return gallery.series[view.series][view.position]


def boxes_of(gallery: Gallery, view: View) -> dict[str, Boxes]:
    """Name -> boxes to draw: detections that reach the threshold, and ground truth, which has no scores."""
    identity = image_of(gallery, view)["id"]
    drawn = {}
    for name in view.shown:
        if name == GROUND_TRUTH:
            drawn[name] = Boxes((gallery.truth or {}).get(identity, NOTHING.boxes), NOTHING.scores)
        else:
            drawn[name] = gallery.detections[name].get(identity, NOTHING).above(view.threshold)
    return drawn


def froc_point(curve: pd.DataFrame, threshold: float) -> tuple[float, float]:
    """False positives per image and sensitivity of a curve (`cmbfe.metrics.curves.froc`) at a threshold."""
    row = int(np.searchsorted(-curve["threshold"].to_numpy(), -threshold, side="right")) - 1
    return float(curve["false_positives"].iloc[row]), float(curve["sensitivity"].iloc[row])


def layer_of(gallery: Gallery, view: View) -> np.ndarray | None:
    """The layer over the image: float [any rows, any columns], 0 or more; None for the image alone.

    `MASK` is M in [0, 1] at the image's size; `DIFFERENCE` is what FE adds to the most changed channel of the model's
    first map, at the size of that map.
    """
    if view.layer == IMAGE:
        return None
    entry, model = image_of(gallery, view), gallery.model
    boxes = (gallery.truth or {}).get(entry["id"], NOTHING.boxes)
    corners = torch.from_numpy(xyxy([{"bbox": box} for box in boxes])).float()
    phase = entry.get("phase_file_name")
    pixels = read_with_phase(gallery.folder / entry["file_name"], phase and gallery.folder / phase)
    image = to_input(pixels[None], torch.device("cpu"))
    if view.layer == MASK or model is None:
        beta = {} if model is None else {"beta": model.config.beta}
        return enhancement_mask(image, [corners], **beta)[0, 0].numpy()
    scale = model.input_size / torch.tensor(image.shape[:-3:-1]).repeat(2)  # columns, rows, columns, rows
    steps = enhancement_steps(model, model.resize(image)[0], corners * scale)
    return steps["difference"].abs().numpy()
