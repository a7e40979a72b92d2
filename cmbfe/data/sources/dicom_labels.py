"""Boxes for the slices of DICOM series, from COCO or Pascal VOC, by SOP instance UID or by file name.

An image of the labels names its slice by `sop_instance_uid`, or by a `file_name` (VOC: `filename`) that is the SOP
instance UID or the DICOM file's own name: with or without suffix, as images exported for labelling keep the name, and
with as many of its folders as tell it apart.
"""

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cmbfe.data.conversion import given_splits
from cmbfe.data.dicom.series import SeriesHeaders
from cmbfe.data.dicom.slices import DICOM_SUFFIXES
from cmbfe.data.folders import files_named
from cmbfe.data.foreign_labels import read_foreign_labels
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels
from cmbfe.data.sources.coco import labels_file
from cmbfe.data.sources.labelled import Box, boxes_of_images, microbleed_category, other_boxes
from cmbfe.data.sources.voc import ANNOTATIONS
from cmbfe.data.voc import read_voc
from cmbfe.errors import InputError

SUFFIXES = (*DICOM_SUFFIXES, ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".xml")
"""What follows a name; whatever else follows a dot is part of it, such as the last number of a UID."""

Place = tuple[int, int]
"""Number of a series, and of a slice in it."""


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
    slices = _Slices(series, source)
    places = slices.of_images(labels, where)
    category = microbleed_category(labels, where)
    boxes = _by_place(places, boxes_of_images(labels, {category: ""}))
    mimics, kinds = _mimics(source, slices)
    named = set(places.values())
    patients = {image: {"patient_id": series[number].patient_id} for image, (number, _) in places.items()}
    labelled = tuple(_of_one(number, len(one.files), named, boxes, mimics) for number, one in enumerate(series))
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


def _mimics(source: Path, slices: "_Slices") -> tuple[dict[Place, list[Box]], tuple[str, ...]]:
    file = source / MIMICS_FILE
    if not file.is_file():
        return {}, ()
    mimics = read_foreign_labels(file)
    kinds = {category["id"]: str(category.get("name", "mimic")) for category in mimics["categories"]}
    return _by_place(slices.of_images(mimics, file), boxes_of_images(mimics, kinds)), tuple(kinds.values())


def _by_place(places: Mapping[Any, Place], boxes: Mapping[Any, list[Box]]) -> dict[Place, list[Box]]:
    return {places[image]: own for image, own in boxes.items()}


def _of_one(
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


class _Slices:
    """The slices of all series, by UID and by name."""

    def __init__(self, series: Sequence[SeriesHeaders], source: Path) -> None:
        self.series, self.source = series, source
        self.by_uid: dict[str, list[Place]] = defaultdict(list)
        self.by_name: dict[str, list[Place]] = defaultdict(list)
        for number, one in enumerate(series):
            for index, (uid, file) in enumerate(zip(one.sop_instance_uids, one.files, strict=True)):
                self.by_uid[uid].append((number, index))
                self.by_name[_bare(file.name)].append((number, index))

    def of_images(self, labels: Labels, where: Path) -> dict[Any, Place]:
        """Id of each image -> its slice, no two the same."""
        places: dict[Any, Place] = {}
        taken: dict[Place, str] = {}
        for image in labels["images"]:
            said = f"{where}: image {image['id']} ({image['file_name']})"
            place = places[image["id"]] = self._of_image(image, said)
            if place in taken:
                raise InputError(f"{said}: is the slice of image {taken[place]} too; keep one")
            taken[place] = f"{image['id']} ({image['file_name']})"
        return places

    def _of_image(self, image: Mapping[str, Any], said: str) -> Place:
        uid = image.get("sop_instance_uid")
        found = self._named(str(image["file_name"])) if uid is None else self.by_uid.get(str(uid), [])
        what = "this name" if uid is None else f"its UID {uid}"
        if not found:
            raise InputError(f"{said}: no slice of a magnitude series has {what}; correct it, or get the DICOM file")
        if len({self._file(place) for place in found}) < len(found):
            raise InputError(f"{said}: {len(found)} slices have {what}; export one file per slice")
        if len(found) > 1:
            hint = f"give the path below {self.source}, or the key sop_instance_uid"
            raise InputError(f"{said}: {len(found)} slices have {what}; {hint}")
        one = self.series[found[0][0]]
        if (one.columns, one.rows) != (image["width"], image["height"]):
            sizes = f"{image['width']} x {image['height']} px, but the DICOM slice has {one.columns} x {one.rows}"
            raise InputError(f"{said}: {sizes}; correct one")
        return found[0]

    def _named(self, name: str) -> list[Place]:
        path = PurePosixPath(name.replace("\\", "/"))
        *folders, last = [part for part in path.parts if part != ANNOTATIONS] or [""]
        bare, depth = _bare(last), len(folders)
        if bare in self.by_uid:
            return self.by_uid[bare]
        found = [
            place
            for place in self.by_name.get(bare, [])
            if list(self._file(place).parent.parts[-depth:] if depth else []) == folders
        ]
        whole = [place for place in found if list(self._file(place).relative_to(self.source).parts[:-1]) == folders]
        return whole if len(whole) == 1 else found

    def _file(self, place: Place) -> Path:
        return self.series[place[0]].files[place[1]]


def _bare(name: str) -> str:
    """A file's name without a known suffix.

    >>> _bare("IM0001"), _bare("1.2.840.17"), _bare("1.2.840.17.png")
    ('IM0001', '1.2.840.17', '1.2.840.17')
    """
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name
