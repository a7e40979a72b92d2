"""Boxes for the slices of DICOM series, from COCO or Pascal VOC; slices are found as `SliceLookup` says."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmbfe.data.conversion import given_splits
from cmbfe.data.dicom.lookup import Place, SliceLookup
from cmbfe.data.dicom.series import SeriesHeaders
from cmbfe.data.folders import files_named
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, read_foreign_labels
from cmbfe.data.sources.labelled import Box, boxes_of_images, labels_file, microbleed_category, other_boxes
from cmbfe.data.sources.voc import read_voc
from cmbfe.errors import InputError


@dataclass(frozen=True)
class Labelled:
    """The boxes of one series."""

    boxes: tuple[tuple[Box, ...], ...]
    """Microbleeds of each slice."""
    mimics: tuple[tuple[Box, ...], ...]
    unnamed: int
    """Slices that no label names."""


@dataclass(frozen=True)
class OfSeries:
    """The labels of all series."""

    labelled: tuple[Labelled | None, ...]
    """None where no label names a slice of the series."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Patient -> split, where the labels give one."""
    mimic_kinds: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


def labels_of_series(series: Sequence[SeriesHeaders], source: Path, given: Path | None) -> OfSeries:
    """Read the labels of series and put them on their slices.

    Args:
        source: folder of the series. Its mimics.json (COCO), if there is one, names what only looks like a microbleed.
        given: COCO file, or folder with one or with VOC XML; None: `source`'s annotations.json or VOC XML, if any.

    Raises:
        InputError: unsound labels; an image that is no slice of these series, several, the slice of another image, or
            of another size; a patient in two splits.
    """
    where, labels = _read(source, given)
    if labels is None:
        return OfSeries((None,) * len(series))
    slices = SliceLookup(series, source)
    places = slices.of_images(labels, where)
    category = microbleed_category(labels, where)
    boxes = _by_place(places, boxes_of_images(labels, {category: ""}))
    mimics, kinds = _mimics(source, slices)
    named = set(places.values())
    patients = {image: {"patient_id": series[number].patient_id} for image, (number, _) in places.items()}
    labelled = tuple(
        _of_series(number, len(headers.files), named, boxes, mimics) for number, headers in enumerate(series)
    )
    return OfSeries(labelled, given_splits(labels, patients, where), kinds, other_boxes(labels, category))


def _read(source: Path, given: Path | None) -> tuple[Path, Labels | None]:
    """The labels and where they were read from; None where nobody gave any."""
    if given is not None and not given.exists():
        raise InputError(f"{given}: no such file or folder with labels")
    if given is not None and given.is_file():
        return given, read_foreign_labels(given)
    folder = given or source
    is_folder = folder.is_dir()
    coco = folder / LABELS_FILE
    for file in (coco, folder / MIMICS_FILE):
        if (file.exists() or file.is_symlink()) and not file.is_file():
            raise InputError(f"{file}: is no file, but a folder or a link to nothing; get the labels again")
    xml = is_folder and _holds_voc(folder)
    if xml and coco.is_file():
        raise InputError(f"{folder}: holds {LABELS_FILE} and VOC XML; say which labels to take with --labels")
    if xml:
        return folder, read_voc(folder)
    if given is not None:
        coco = labels_file(given)
    return coco, read_foreign_labels(coco) if is_folder and coco.is_file() else None


def _holds_voc(folder: Path) -> bool:
    """Whether an XML file there is VOC's; one that cannot be read might be."""
    return any(_is_voc(path) for path in files_named(folder, ".xml"))


def _is_voc(path: Path) -> bool:
    try:
        return next(ET.iterparse(path, events=("start",)))[1].tag == "annotation"
    except (ET.ParseError, OSError, ValueError, LookupError):
        return True


def _mimics(source: Path, slices: SliceLookup) -> tuple[dict[Place, list[Box]], tuple[str, ...]]:
    file = source / MIMICS_FILE
    if not file.is_file():
        return {}, ()
    mimics = read_foreign_labels(file)
    kinds = {category["id"]: str(category.get("name", "mimic")) for category in mimics["categories"]}
    return _by_place(slices.of_images(mimics, file), boxes_of_images(mimics, kinds)), tuple(kinds.values())


def _by_place(places: Mapping[Any, Place], boxes: Mapping[Any, list[Box]]) -> dict[Place, list[Box]]:
    return {places[image]: own for image, own in boxes.items()}


def _of_series(
    number: int,
    count: int,
    named: set[Place],
    boxes: Mapping[Place, list[Box]],
    mimics: Mapping[Place, list[Box]],
) -> Labelled | None:
    unnamed = sum((number, index) not in named for index in range(count))
    if unnamed == count:
        return None
    both = (tuple(tuple(of.get((number, index), ())) for index in range(count)) for of in (boxes, mimics))
    return Labelled(*both, unnamed)
