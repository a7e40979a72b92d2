"""Import images with Pascal VOC XML, which lies beside each image, or in Annotations beside JPEGImages or images.

VOC counts pixels from 1, and its corners are inside the box: (xmin, ymin, xmax, ymax) = (11, 21, 15, 26) is the COCO
box [10, 20, 5, 6]. Some tools count from 0, with corners between pixels: (10, 20, 15, 26). An xmin or ymin of 0, or a
decimal, in any file means counting from 0. Elements that VOC does not define (patient, slice, …) are named as in COCO.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cmbfe.data.inventory import take_inventory
from cmbfe.data.labelled.labels import CATEGORIES, Labels, check_labels, plain_path, refuse_narrow
from cmbfe.data.sources.image_files import ImageFiles, Place
from cmbfe.data.sources.labelled import ELSEWHERE, found_in_labels
from cmbfe.data.sources.series import Found
from cmbfe.errors import InputError

IMAGE_KEYS = {"patient_id": str, "series_uid": str, "slice_index": int, "split": str}
BOX_KEYS = ("lesion_id", "location")
SIDES = ("xmin", "ymin", "xmax", "ymax")
ANNOTATIONS = "Annotations"
LABEL_FOLDERS = (ANNOTATIONS.casefold(), "labels")
"""Folders of the XML. The paths of images have one of `IMAGE_FOLDERS` instead."""
IMAGE_FOLDERS = ("JPEGImages", "images")
FROM_0 = "Boxes of VOC are counted from 0, their corners between pixels, as some corner is 0 or has decimals."
FROM_1 = (
    "Boxes of VOC are counted from 1, their corners inside, as none is 0 or has decimals: "
    "they are 1 px too large if the tool counts from 0."
)


@dataclass(frozen=True)
class Voc:
    """The VOC files of a folder."""

    labels: Labels
    files: tuple[Path, ...]
    """The XML of each image."""
    said: tuple[tuple[str, str], ...]
    """The elements `folder` and `path` of each image, as labelImg writes them; "" if missing."""
    notes: Mapping[str, int]
    """Assumption -> number of boxes."""


def find_voc(source: Path) -> Found:
    """Find the images of all VOC files (*.xml) under a folder; `patient_id` as for COCO. Raises `InputError` like
    `read_voc`, `ImageFiles.find` and `found_in_labels`."""
    voc = read_voc(source)
    root = source.parent if source.name.casefold() in LABEL_FOLDERS else source
    files = ImageFiles(root)
    xml_of = {image["id"]: pair for image, *pair in zip(voc.labels["images"], voc.files, voc.said, strict=True)}
    for image in voc.labels["images"]:
        # Label folders are removed from the path, so that they are not taken as patients.
        parts = (part for part in PurePosixPath(image["file_name"]).parts if part.casefold() not in LABEL_FOLDERS)
        image["file_name"] = PurePosixPath(*parts).as_posix()

    def image_file(image: Mapping[str, Any]) -> Path:
        xml, said = xml_of[image["id"]]
        own = PurePosixPath(xml.relative_to(root))
        named = own.with_name(PurePosixPath(image["file_name"]).name)
        return files.find(
            image["file_name"], xml, [*_beside(named), *_said(named, *said)], _beside(own.with_suffix(""))
        )

    found = found_in_labels(voc.labels, source, image_file)
    return replace(found, read=voc.files, notes={**found.notes, **voc.notes, ELSEWHERE: files.elsewhere})


def _beside(place: Place) -> list[Place]:
    """Possible paths of an image: beside its XML, or in an image folder instead of the XML folder."""
    return [place] + [
        PurePosixPath(*(folder if part.casefold() in LABEL_FOLDERS else part for part in place.parts))
        for folder in IMAGE_FOLDERS
    ]


def _said(named: Place, folder: str, path: str) -> list[Place]:
    """Possible paths of an image by the element `folder` (below the source, or beside the XML folder), and by the end
    of the element `path`, whose first folders may be those of another computer."""
    own, parts = plain_path(folder) / named.name, plain_path(path).parts
    tails = [PurePosixPath(*parts[-length:]) for length in range(len(parts), 1, -1)]
    return [own, named.parent.parent / own, *tails]


def read_voc(folder: Path | str) -> Voc:
    """Read all VOC files (*.xml) under a folder as COCO labels; file names are relative to that folder.

    Images and boxes are numbered from 1 in the order of their paths; the category `cmb` comes first, others by name.

    Raises:
        InputError: no VOC file, a malformed XML file, a missing element, or invalid labels; the error names the file.
    """
    folder = Path(folder)
    roots = _roots(folder)
    from_0 = any(_counts_from_0(element) for root in roots.values() for element in root.iter("object"))
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number, (path, root) in enumerate(roots.items(), 1):
        image = {"id": number, **_image(root, path)}
        image["file_name"] = (path.relative_to(folder).parent / image["file_name"]).as_posix()
        images.append(image)
        own = [{"image_id": number, **_box(element, path, from_0)} for element in root.iter("object")]
        numbered = [{"id": count, "category_id": 1, **box} for count, box in enumerate(own, 1)]
        check_labels({"images": [image], "annotations": numbered, "categories": CATEGORIES}, str(path))
        boxes += own
    first = CATEGORIES[0]["name"]
    names = sorted({box["name"] for box in boxes} or {first}, key=lambda name: (name != first, name))
    annotations = [
        {"id": number, "category_id": names.index(box.pop("name")) + 1, **box} for number, box in enumerate(boxes, 1)
    ]
    refuse_narrow(annotations, str(folder))
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    labels = check_labels({"images": images, "annotations": annotations, "categories": categories}, str(folder))
    said = tuple(tuple((root.findtext(name) or "").strip() for name in ("folder", "path")) for root in roots.values())
    return Voc(labels, tuple(roots), said, {FROM_0 if from_0 else FROM_1: len(boxes)})


def _roots(folder: Path) -> dict[Path, ET.Element]:
    """The VOC files under a folder, parsed; other XML is passed over."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give that of the XML files, unpacked")
    parsed = {path: _parsed(path) for path in take_inventory(folder).named(".xml")}
    if voc := {path: root for path, root in parsed.items() if root.tag == "annotation"}:
        return voc
    tags = ", ".join(sorted({root.tag for root in parsed.values()}))
    others = f", but XML that begins with {tags}; export Pascal VOC" if tags else ""
    raise InputError(f"{folder}: no VOC file (*.xml) in it or below{others}")


def _parsed(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except (ET.ParseError, OSError, ValueError, LookupError) as error:  # ValueError: expat lacks the encoding
        raise InputError(f"{path}: not readable as XML: {error}; correct it, or remove it") from None


def _counts_from_0(element: ET.Element) -> bool:
    left, top, *others = ((element.findtext(f"bndbox/{side}") or "").strip() for side in SIDES)
    return "0" in (left, top) or any("." in text for text in (left, top, *others))


def _image(root: ET.Element, path: Path) -> dict[str, Any]:
    name = plain_path(_text(root, "filename", path)).name
    if not name:
        raise InputError(f"{path}: the element filename names no file; correct it")
    image = {
        "file_name": name,
        "width": _value(root, "size/width", int, path),
        "height": _value(root, "size/height", int, path),
        **{key: _value(root, key, kind, path) for key, kind in IMAGE_KEYS.items() if root.find(key) is not None},
    }
    if root.find("pixel_spacing_mm") is not None:
        sides = ("pixel_spacing_mm/row", "pixel_spacing_mm/column")
        image["pixel_spacing_mm"] = [_value(root, side, float, path) for side in sides]
    return image


def _box(element: ET.Element, path: Path, from_0: bool) -> dict[str, Any]:
    left, top, right, bottom = (_value(element, f"bndbox/{side}", float, path) for side in SIDES)
    step = 0 if from_0 else 1
    box = {
        "name": _text(element, "name", path),
        "bbox": [left - step, top - step, right - left + step, bottom - top + step],
        **{key: _text(element, key, path) for key in BOX_KEYS if element.find(key) is not None},
    }
    difficult = (element.findtext("difficult") or "0").strip().casefold()
    return box | ({"ignore": 1} if difficult in ("1", "1.0", "true") else {})


def _text(element: ET.Element, name: str, path: Path) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise InputError(f"{path}: the element {name} is missing or empty; add it")
    return text


def _value(element: ET.Element, name: str, kind: type, path: Path) -> Any:
    text = _text(element, name, path)
    try:
        return kind(re.sub(r"\.0+$", "", text) if kind is int else text)
    except ValueError:
        raise InputError(f"{path}: the element {name} is {text!r} and no number; correct it") from None
