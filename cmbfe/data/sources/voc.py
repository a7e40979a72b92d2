"""Images with Pascal VOC XML: the XML beside each image, or in Annotations with the images in JPEGImages.

VOC counts pixels from 1 and its corners are inside the box: xmin, ymin, xmax, ymax of 11, 21, 15, 26 is the
COCO box [10, 20, 5, 6]. What VOC has no place for (patient, slice, lesion, …) is kept in elements of the
same names as in COCO, which other programs skip. `difficult` objects are ignore regions.
"""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from cmbfe.data.dicom.lookup import ANNOTATIONS
from cmbfe.data.folders import files_named
from cmbfe.data.labelled.labels import CATEGORIES, Labels, check_labels
from cmbfe.data.sources.labelled import found_in_labels
from cmbfe.data.sources.series import Found
from cmbfe.errors import InputError

IMAGE_KEYS = {"patient_id": str, "series_uid": str, "slice_index": int, "split": str}
BOX_KEYS = ("lesion_id", "location")
IMAGES = "JPEGImages"
"""Folder of the images, where the XML lies in `ANNOTATIONS`."""


def find_voc(source: Path) -> Found:
    """Find the images of all VOC files (*.xml) under a folder; `patient_id` as for COCO.

    Raises:
        InputError: as `read_voc` and `found_in_labels`, or an image that is not there.
    """
    labels = read_voc(source)
    files: dict[str, str] = {}
    for image in labels["images"]:
        # The folder Annotations is nobody's name: without it, an image in it lies in no patient's folder.
        own = Path(*(part for part in Path(image["file_name"]).parts if part != ANNOTATIONS)).as_posix()
        files[own], image["file_name"] = image["file_name"], own

    def image_file(own: str) -> Path:
        name = files[own]
        parts = [IMAGES if part == ANNOTATIONS else part for part in Path(name).parts]
        candidates = [source / name, source / Path(*parts), source.parent / IMAGES / name]
        for path in candidates:
            if path.is_file():
                return path
        raise InputError(f"{candidates[0]}: no such image, beside its XML or in {IMAGES}; get it, or remove the XML")

    return found_in_labels(labels, source, image_file)


def read_voc(folder: Path | str) -> Labels:
    """Read all VOC files (*.xml) under a folder as COCO labels; file names are relative to that folder.

    Images and boxes are numbered from 1 in the order of their paths; the category `cmb` comes first, others by name.

    Raises:
        InputError: no XML file, one that is malformed or lacks an element, or unsound labels; names the file.
    """
    folder = Path(folder)
    paths = files_named(folder, ".xml")
    if not paths:
        raise InputError(f"{folder}: no VOC file (*.xml) in it or below")
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number, path in enumerate(paths, 1):
        try:
            root = ET.parse(path).getroot()
        except (ET.ParseError, OSError, ValueError, LookupError) as error:  # ValueError: expat lacks the encoding
            raise InputError(f"{path}: not readable as XML: {error}") from None
        image = {"id": number, **_image(root, path)}
        image["file_name"] = (path.relative_to(folder).parent / image["file_name"]).as_posix()
        images.append(image)
        own = [{"image_id": number, **_box(element, path)} for element in root.iter("object")]
        numbered = [{"id": count, "category_id": 1, **box} for count, box in enumerate(own, 1)]
        check_labels({"images": [image], "annotations": numbered, "categories": CATEGORIES}, str(path))
        boxes += own
    first = CATEGORIES[0]["name"]
    names = sorted({box["name"] for box in boxes} or {first}, key=lambda name: (name != first, name))
    annotations = [
        {"id": number, "category_id": names.index(box.pop("name")) + 1, **box} for number, box in enumerate(boxes, 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return check_labels({"images": images, "annotations": annotations, "categories": categories}, str(folder))


def _image(root: ET.Element, path: Path) -> dict[str, Any]:
    image = {
        "file_name": Path(_text(root, "filename", path)).name,
        "width": _value(root, "size/width", int, path),
        "height": _value(root, "size/height", int, path),
        **{key: _value(root, key, kind, path) for key, kind in IMAGE_KEYS.items() if root.find(key) is not None},
    }
    if root.find("pixel_spacing_mm") is not None:
        sides = ("pixel_spacing_mm/row", "pixel_spacing_mm/column")
        image["pixel_spacing_mm"] = [_value(root, side, float, path) for side in sides]
    return image


def _box(element: ET.Element, path: Path) -> dict[str, Any]:
    corners = [_value(element, f"bndbox/{side}", float, path) for side in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = corners
    box = {
        "name": _text(element, "name", path),
        "bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1],
        **{key: _text(element, key, path) for key in BOX_KEYS if element.find(key) is not None},
    }
    return box | ({"ignore": 1} if (element.findtext("difficult") or "0").strip() == "1" else {})


def _text(element: ET.Element, name: str, path: Path) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise InputError(f"{path}: the element {name} is missing or empty")
    return text


def _value(element: ET.Element, name: str, kind: type, path: Path) -> Any:
    text = _text(element, name, path)
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{path}: the element {name} is {text!r} and no number") from None
