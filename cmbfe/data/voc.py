"""PASCAL VOC XML, one file per image, to COCO labels and back.

VOC counts pixels from 1 and its corners are inside the box: xmin, ymin, xmax, ymax of 11, 21, 15, 26 is the
COCO box [10, 20, 5, 6]. What VOC has no place for (patient, slice, lesion, …) is kept in elements of the
same names as in COCO, which other programs skip. `difficult` objects are ignore regions.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmbfe.data.folders import files_named
from cmbfe.data.labelled.labels import CATEGORIES, Labels, check_labels
from cmbfe.errors import InputError
from cmbfe.files import whole_folder

IMAGE_KEYS = {"patient_id": str, "series_uid": str, "slice_index": int, "split": str}
BOX_KEYS = ("lesion_id", "location")
MARKER = "voc.txt"
"""Names a folder as an export of ours, which may be replaced by another."""


def read_voc(folder: Path | str) -> Labels:
    """Read all VOC files (*.xml) under a folder as COCO labels; file names are relative to that folder.

    Images and boxes are numbered from 1 in the order of their paths; the category `cmb` comes first, if there is
    one or no box at all, and others follow by name.

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
        root = _parse(path)
        image = {"id": number, **_image(root, path)}
        image["file_name"] = (path.relative_to(folder).parent / image["file_name"]).as_posix()
        images.append(image)
        own = [{"image_id": number, **_box(one, path)} for one in root.iter("object")]
        numbered = [{"id": count, "category_id": 1, **box} for count, box in enumerate(own, 1)]
        check_labels({"images": [image], "annotations": numbered, "categories": CATEGORIES}, str(path))
        boxes += own
    first = CATEGORIES[0]["name"]
    found = {box["name"] for box in boxes} or {first}
    names = sorted(found, key=lambda name: (name != first, name))
    annotations = [
        {"id": number, "category_id": names.index(box.pop("name")) + 1, **box} for number, box in enumerate(boxes, 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return check_labels({"images": images, "annotations": annotations, "categories": categories}, str(folder))


def write_voc(labels: Labels, out: Path | str) -> None:
    """Write COCO labels as VOC XML into the folder `out`, a file per image, named like the image.

    Raises:
        InputError: unsound labels, two images whose files would have one name, or a folder of other things.
    """
    check_labels(labels, str(out))
    names = {category["id"]: category["name"] for category in labels["categories"]}
    taken: dict[Path, str] = {}
    with whole_folder(out, MARKER) as folder:
        (folder / MARKER).write_text("VOC XML, a file per image\n", encoding="utf-8")
        for image in labels["images"]:
            path = Path(image["file_name"]).with_suffix(".xml")
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f"{image['file_name']}: leads out of the folder; file names must be relative")
            if path in taken:
                raise InputError(f"{image['file_name']} and {taken[path]} would both be {path}; rename one")
            taken[path] = image["file_name"]
            own = [box for box in labels["annotations"] if box["image_id"] == image["id"]]
            tree = ET.ElementTree(_annotation(image, own, names))
            ET.indent(tree)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            tree.write(folder / path, encoding="utf-8")


def _parse(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except (ET.ParseError, OSError, ValueError, LookupError) as error:  # ValueError: an encoding that expat lacks
        raise InputError(f"{path}: not readable as XML: {error}") from None


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


def _annotation(image: Mapping[str, Any], boxes: list[dict[str, Any]], names: Mapping[Any, str]) -> ET.Element:
    root = ET.Element("annotation")
    _add(root, "filename", Path(image["file_name"]).name)
    size = ET.SubElement(root, "size")
    for name, value in (("width", image["width"]), ("height", image["height"]), ("depth", 1)):
        _add(size, name, value)
    for key in (key for key in IMAGE_KEYS if key in image):
        _add(root, key, image[key])
    if "pixel_spacing_mm" in image:
        spacing = ET.SubElement(root, "pixel_spacing_mm")
        for name, value in zip(("row", "column"), image["pixel_spacing_mm"], strict=True):
            _add(spacing, name, value)
    for box in boxes:
        element = ET.SubElement(root, "object")
        _add(element, "name", names[box["category_id"]])
        _add(element, "difficult", int(bool(box.get("ignore") or box.get("iscrowd"))))
        for key in (key for key in BOX_KEYS if key in box):
            _add(element, key, box[key])
        x, y, width, height = box["bbox"]
        corners = ET.SubElement(element, "bndbox")
        for name, value in zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + width, y + height), strict=True):
            _add(corners, name, value)
    return root


def _add(parent: ET.Element, name: str, value: Any) -> None:
    ET.SubElement(parent, name).text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
