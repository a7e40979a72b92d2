"""Read, check and write COCO labels and COCO detections.

Labels are the dictionary of a COCO file. Files of this project have additional keys, which are checked if present:

* `images`: `patient_id`, `series_uid`, `slice_index`, `pixel_spacing_mm` ([row, column]), `split` and, of images with
  phase, `phase_file_name`;
* `annotations`: `lesion_id`, the same on every slice of one three-dimensional microbleed; `tight_bbox`, the box around
  the dark voxels, used for measurements; `bbox` has a margin, as readers draw boxes.

Category 1 is `cmb`.
"""

import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np

from cmbfe.errors import InputError
from cmbfe.files import read_json, within_python, write_json
from cmbfe.metrics.matching import Detections, Labels, of_one_category, overlaps, with_boxes

CATEGORIES = [{"id": 1, "name": "cmb"}]
LISTS = ("images", "annotations", "categories")
LOCATIONS = ("lobar", "deep", "infratentorial")
"""Values of an annotation's `location`, if it is known."""
LABELS_FILE = "annotations.json"
"""File name of the labels, which lie beside their images or DICOM series."""
MIMICS_FILE = "mimics.json"
"""File name of the labelled mimics, which are never training targets."""
UNLABELLED_SPLIT = "unlabelled"
"""Split of patients without ground truth: neither boxes nor a statement that they have no microbleeds."""
EDGE_TOLERANCE_PX = 0.01
"""How far a labelled box may extend beyond its image, because other tools round coordinates to two decimals."""
OF_IMAGES = ("patient_id", "series_uid", "sop_instance_uid", "split")
OF_BOXES = ("lesion_id", "location")
REGION_FLAGS = ("iscrowd", "ignore")
NUMBERED = ("id", "image_id", "category_id", "slice_index", *OF_IMAGES, *OF_BOXES)
"""Keys whose values, if whole floats, become integers: pandas writes 1 as 1.0 in a column with missing values."""
OF_POLYGON = "is_of_polygon"
"""Key that marks an annotation whose `bbox` was computed from its polygons."""
LARGEST_PX = 1e9
"""Largest accepted image size; with larger sizes, areas could overflow."""
LARGEST_SLICE = 10**9
LARGEST_SPACING_MM = 1e6
SMALLEST_PX = 0.5
"""Smallest side of a labelled box; a narrower box cannot have been drawn on an image."""
NEARLY_ONE = 0.8
"""IoU from which two boxes of an image may be one microbleed drawn twice."""
UPLOAD = re.compile(
    r"^((\w+://[^/]*)?/data/(upload/(\d+/)?|local-files/\?d=)|(/|(\.\./){2,})(.*/)?label-studio/(data/)?media/upload/(\d+/)?)"
)
"""Prefix that Label Studio adds to the name of an image."""


def read_labels(path: Path | str) -> Labels:
    """Read a COCO label file and check it with `check_labels`.

    Raises:
        InputError: names the file, the entry and the reason.
    """
    return check_labels(read_json(path), str(path))


def read_foreign_labels(path: Path | str) -> Labels:
    """Read COCO labels of another tool, and also check the keys of this project that are not part of COCO.

    Ids of patients, series and lesions, splits and locations may be numbers or text. Floats such as 1.0 count as
    integers, and null, NaN and blanks as missing. Splits become text. A reference to an id may be text although the id
    is a number, or vice versa. An annotation without `bbox` gets the box around its polygons.

    Raises:
        InputError: like `read_labels` and `refuse_narrow`; one of these keys with another type, a region flag other
            than 0 or 1, an implausible length, or a mask without `bbox`.
    """
    where = str(path)
    with within_python(path):
        labels = check_labels(_plain(read_json(path), where), where)
    images = [_foreign_image(image, f"{where}: image {image['id']}") for image in labels["images"]]
    boxes = labels["annotations"]
    for box in boxes:
        _check_texts(box, OF_BOXES, f"{where}: annotation {box['id']}")
        for flag in REGION_FLAGS:
            if box.get(flag) not in (None, 0, 1):
                raise InputError(
                    f"{where}: annotation {box['id']}: {flag} {box[flag]!r} is neither 0 nor 1; correct it"
                )
    refuse_narrow(boxes, where)
    return {**labels, "images": images}


def refuse_shares(boxes: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raise `InputError` if all boxes (`bbox`) lie between 0 and 1, like the fractions of the image in YOLO labels."""
    if boxes and max(max(box["bbox"]) for box in boxes) <= 1:
        how = "multiply x and width by the image's width, y and height by its height"
        raise InputError(f"{where}: all boxes lie within 0 to 1: shares of the image, and no px; {how}")


def refuse_narrow(boxes: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raise `InputError` for boxes in fractions of the image, or with a side below `SMALLEST_PX`."""
    refuse_shares(boxes, where)
    if narrow := [box for box in boxes if min(box["bbox"][2:]) < SMALLEST_PX]:
        first = f"annotation {narrow[0]['id']}: the box {list(narrow[0]['bbox'])}"
        count = f"{len(narrow)} of {len(boxes)} boxes are"
        raise InputError(f"{where}: {first} is narrower than {SMALLEST_PX} px ({count}); redraw or remove such boxes")


def repeats(labels: Labels, boxes: Sequence[Mapping[str, Any]]) -> tuple[set[int], set[int]]:
    """Indices of the boxes that equal an earlier box of their image, and of those that nearly do (`NEARLY_ONE`)."""
    near = overlaps(with_boxes(labels, boxes), of_one_category(boxes), NEARLY_ONE)
    box, earlier = near.order[near.detection], near.truth
    later, is_same = box > earlier, near.nearness > 1 - 1e-9
    same = set(box[later & is_same].tolist())
    return same, set(box[later].tolist()) - same


def may_be_corners(boxes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there are at least three boxes (`bbox`) and all look like x1, y1, x2, y2: their width exceeds x and their
    height exceeds y. Boxes x, y, w, h look so only near the upper left corner of the image."""
    return len(boxes) > 2 and all(x < width and y < height for x, y, width, height in (box["bbox"] for box in boxes))


def plain_path(name: str) -> PurePosixPath:
    """A `file_name` with slashes instead of backslashes, and without the prefix of Label Studio (`UPLOAD`).

    >>> print(*map(plain_path, ("P1\\\\0.png", "/data/upload/3/0.png", "/data/local-files/?d=P1/0.png")))
    P1/0.png 0.png P1/0.png
    """
    slashed = name.replace("\\", "/")
    own = UPLOAD.sub("", slashed)
    return PurePosixPath(own if own == slashed else unquote(own))


def refuse_half_characters(value: Any, what: str) -> None:
    """Raise `InputError` for text with half of a surrogate pair, which JSON can escape but no text file can hold."""
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{what} {value!r} holds half a character, which is no text; correct it")


def write_labels(path: Path | str, labels: Labels) -> None:
    """Check `labels` and write them as COCO JSON; equal labels give equal bytes.

    Raises:
        InputError: like `check_labels`; no file is written then.
    """
    write_json(path, check_labels(labels, str(path)))


def refuse_other_channels(path: Path, phase: bool) -> None:
    """Raise `InputError` unless all images have phase (if `phase` is true) or all lack phase (if `phase` is false)."""
    for image in read_labels(path)["images"]:
        if ("phase_file_name" in image) != phase:
            has, wanted = "no phase" if phase else "phase", str(phase).lower()
            raise InputError(f"{path}: {image['file_name']} has {has}, but images.phase is {wanted} in the settings")


def read_detections(path: Path | str, labels: Labels) -> Detections:
    """Read a COCO results file that belongs to `labels` and check it with `check_detections`.

    Raises:
        InputError: names the file, the entry (counted from 0) and the reason.
    """
    return check_detections(read_json(path), labels, str(path))


def labels_of_split(labels: Labels, split: str) -> Labels:
    """The labels of the images of one split, including images without a microbleed.

    Raises:
        InputError: no image is in that split.
    """
    images = [image for image in labels["images"] if image.get("split") == split]
    if not images:
        known = sorted({str(image["split"]) for image in labels["images"] if "split" in image})
        raise InputError(f"no image of the labels is in split {split!r}; there are: {', '.join(known)}")
    kept = {image["id"] for image in images}
    annotations = [box for box in labels["annotations"] if box["image_id"] in kept]
    return {**labels, "images": images, "annotations": annotations}


def labelled(labels: Labels) -> Labels:
    """The labels without the images in `UNLABELLED_SPLIT`, which have no annotations."""
    return {**labels, "images": [image for image in labels["images"] if image.get("split") != UNLABELLED_SPLIT]}


def xyxy(annotations: Sequence[dict]) -> np.ndarray:
    """Boxes of COCO annotations as corners xyxy px, float64 [K, 4]."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def with_margin(box: Sequence[float], margin_mm: float, image: Mapping[str, Any]) -> list[float]:
    """Enlarge a box [x, y, w, h] px by a margin on each side, rounded to whole px and clipped to its image.

    >>> with_margin([1, 10, 4, 5], 1.0, {"width": 64, "height": 64, "pixel_spacing_mm": [0.5, 0.4]})
    [0, 8, 7, 9]
    """
    rows, columns = (round(margin_mm / pixel_mm) for pixel_mm in image["pixel_spacing_mm"])
    x, y, width, height = box
    left, top = max(x - columns, 0), max(y - rows, 0)
    right, end = min(x + width + columns, image["width"]), min(y + height + rows, image["height"])
    return [left, top, right - left, end - top]


def check_labels(labels: Any, where: str) -> Labels:
    """Check labels and return them; `where` (a file name) begins the text of every error.

    Raises:
        InputError: a missing key, a duplicate id, an unknown image or category, an impossible image size or pixel
            spacing, a `patient_id` in only some images, or a patient in two splits; also a box that has no extent, is
            not finite, or leaves its image by over `EDGE_TOLERANCE_PX`.
    """
    if not isinstance(labels, dict):
        raise InputError(f"{where}: not a COCO label file: the top level is not an object; export COCO")
    for key in LISTS:
        if not isinstance(labels.get(key), list):
            raise InputError(f"{where}: not a COCO label file: no list under the key {key!r}; add it")
        _check_ids(labels[key], f"{where}: {key}")
    for image in labels["images"]:
        _check_image(image, f"{where}: image {image['id']}")
    images = {image["id"]: image for image in labels["images"]}
    categories = {category["id"] for category in labels["categories"]}
    for annotation in labels["annotations"]:
        entry = f"{where}: annotation {annotation['id']}"
        _check_box(annotation, images, categories, entry)
        _check_extent(annotation["bbox"], images[annotation["image_id"]], entry)
        if "tight_bbox" in annotation:
            _check_numbers(annotation["tight_bbox"], "tight_bbox", entry)
            _check_extent(annotation["tight_bbox"], images[annotation["image_id"]], entry)
    _check_patients(labels["images"], where)
    return labels


def check_detections(detections: Any, labels: Labels, where: str) -> Detections:
    """Check detections and return them; `where` (a file name) begins the text of every error.

    A box may extend beyond its image or have no extent, because detectors make such boxes.

    Raises:
        InputError: a missing key, an image or category that `labels` does not have, a negative size, or a box or score
            that is not finite.
    """
    if not isinstance(detections, list):
        raise InputError(f"{where}: not a COCO results file: no list of detections; give one")
    images = {image["id"] for image in labels["images"]}
    categories = {category["id"] for category in labels["categories"]}
    for index, detection in enumerate(detections):
        entry = f"{where}: detection {index}"
        _check_box(detection, images, categories, entry)
        _check_keys(detection, ("score",), entry)
        if not _is_number(detection["score"]):
            raise InputError(f"{entry}: score {detection['score']!r} is not a finite number; correct it")
    return detections


def _check_ids(entries: list[Any], where: str) -> None:
    for index, entry in enumerate(entries):
        _check_keys(entry, ("id",), f"{where}[{index}]")
        if isinstance(entry["id"], bool) or not isinstance(entry["id"], int | str):
            raise InputError(f"{where}[{index}]: id {entry['id']!r} is neither an integer nor text; correct it")
    for identity, count in Counter(entry["id"] for entry in entries).items():
        if count > 1:
            raise InputError(f"{where}: id {identity!r} is used {count} times; ids must be unique")


def _check_image(image: dict[str, Any], where: str) -> None:
    _check_keys(image, ("file_name", "width", "height"), where)
    for key in ("width", "height"):
        if not _is_positive(image[key]):
            raise InputError(f"{where}: {key} {image[key]!r} is not a positive number of px; correct it")
    spacing = image.get("pixel_spacing_mm", [1, 1])
    if not (isinstance(spacing, list | tuple) and len(spacing) == 2 and all(map(_is_positive, spacing))):
        raise InputError(
            f"{where}: pixel_spacing_mm {spacing!r} is not [row, column] in mm, both positive; correct it"
        )
    index = image.get("slice_index", 0)
    if isinstance(index, bool) or not isinstance(index, int):
        raise InputError(f"{where}: slice_index {index!r} is not an integer; correct it")


def _check_box(entry: Any, images: Collection[Any], categories: Collection[Any], where: str) -> None:
    """Check the image id, the category id and the box (four numbers) of an annotation or a detection."""
    _check_keys(entry, ("image_id", "category_id", "bbox"), where)
    for key, known in (("image_id", images), ("category_id", categories)):
        # A list or an object as an id is not hashable: `in` would raise TypeError.
        if not isinstance(entry[key], int | str) or entry[key] not in known:
            raise InputError(f"{where}: {key}: {entry[key]!r} is the id of no {key[:-3]} in the labels; correct it")
    _check_numbers(entry["bbox"], "bbox", where)


def _check_numbers(box: Any, key: str, where: str) -> None:
    if not isinstance(box, list | tuple) or len(box) != 4:
        raise InputError(f"{where}: {key} {box!r} is not [x, y, width, height]; correct it")
    if not all(map(_is_number, box)):
        raise InputError(f"{where}: {key} {box!r} holds a value that is not a finite number; correct it")
    if min(box[2:]) < 0:
        raise InputError(f"{where}: the box {list(box)} has a negative size; it must be [x, y, w, h]")


def _check_extent(box: Sequence[float], image: Mapping[str, Any], where: str) -> None:
    x, y, width, height = box
    if not (width and height):
        zero = "height" if width else "width"
        raise InputError(f"{where}: the box {box} has zero {zero}; redraw it or remove it")
    beyond = max(-x, -y, x + width - image["width"], y + height - image["height"])
    if beyond > EDGE_TOLERANCE_PX:
        size = f"{image['width']} x {image['height']} px"
        may_be_corners = x < width <= image["width"] and y < height <= image["height"]
        hint = ", or if it is x1, y1, x2, y2, give x, y, width, height" if may_be_corners else ""
        raise InputError(f"{where}: the box {box} lies {beyond:g} px outside its image ({size}); clip it{hint}")


def _check_patients(images: list[dict[str, Any]], where: str) -> None:
    named = [image for image in images if "patient_id" in image]
    if named and len(named) < len(images):
        nameless = next(image["id"] for image in images if "patient_id" not in image)
        raise InputError(
            f"{where}: image {nameless} has no patient_id, but others have; give it to all images, or to none"
        )
    split_of_patients(((str(image["patient_id"]), image.get("split")) for image in named), where)


def split_of_patients(pairs: Iterable[tuple[str, Any]], where: object) -> dict[str, str]:
    """Patient -> split, from (patient, split) pairs; pairs with the split None are ignored.

    Raises:
        InputError: a patient in two splits.
    """
    splits: dict[str, str] = {}
    for patient, split in pairs:
        if split is not None and splits.setdefault(patient, str(split)) != str(split):
            both = ", ".join(sorted((splits[patient], str(split))))
            raise InputError(f"{where}: patient {patient!r} is in two splits: {both}; keep one")
    return splits


def _check_keys(entry: Any, keys: Iterable[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: not an object but {entry!r}; correct it")
    for key in keys:
        if key not in entry:
            raise InputError(f"{where}: the key {key!r} is missing; add it")


def _is_number(value: Any) -> bool:
    # Compared, because math.isfinite raises for integers beyond the range of a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _plain(labels: Any, where: str) -> Any:
    """Unchecked labels in the form that `check_labels` expects, see `read_foreign_labels`."""
    if not isinstance(labels, dict):
        return labels
    lists = {key: value for key, value in labels.items() if key in LISTS and isinstance(value, list)}
    plain = {
        key: [_plain_entry(entry, f"{where}: {key}[{n}]") for n, entry in enumerate(lists[key])] for key in lists
    }
    for key, known in (("image_id", "images"), ("category_id", "categories")):
        ids = [entry.get("id") for entry in plain.get(known, ()) if isinstance(entry, dict)]
        times = Counter(map(str, ids))
        id_of = {str(own): own for own in ids if times[str(own)] == 1}
        for box in plain.get("annotations", ()):
            if isinstance(box, dict) and isinstance(box.get(key), int | str):
                box[key] = id_of.get(str(box[key]), box[key])
    return labels | plain


def _plain_entry(entry: Any, where: str) -> Any:
    if not isinstance(entry, dict):
        return entry
    kept = {key: value for key, value in entry.items() if not _is_missing(value)}
    for key in NUMBERED:
        if isinstance(kept.get(key), float) and kept[key].is_integer():
            kept[key] = int(kept[key])
    if not kept.get("bbox") and "segmentation" in kept:
        kept |= {"bbox": _around(kept["segmentation"], where), OF_POLYGON: True}
    return kept


def _around(polygons: Any, where: str) -> list[float]:
    """The box x, y, w, h around COCO's polygons."""
    try:
        points = np.concatenate([np.reshape(np.asarray(polygon, float), (-1, 2)) for polygon in polygons])
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: has neither bbox nor polygons; export boxes, also of masks (RLE)") from None
    return [*points.min(axis=0).tolist(), *np.ptp(points, axis=0).tolist()]


def _check_texts(entry: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        value = entry.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise InputError(f"{where}: {key} {value!r} is neither text nor a number; correct it")
        refuse_half_characters(value, f"{where}: {key}")


def _is_missing(value: Any) -> bool:
    is_nan = isinstance(value, float) and np.isnan(value)
    return value is None or is_nan or (isinstance(value, str) and not value.strip())


def _foreign_image(image: dict[str, Any], where: str) -> dict[str, Any]:
    """Check the texts and lengths of an image entry, and return it with its split as text."""
    _check_texts(image, OF_IMAGES, where)
    refuse_half_characters(image["file_name"], f"{where}: file_name")
    lengths = {"width": LARGEST_PX, "height": LARGEST_PX, "slice_index": LARGEST_SLICE}
    for key, largest in (lengths | {"pixel_spacing_mm": LARGEST_SPACING_MM}).items():
        if np.max(np.abs(image.get(key, 0))) > largest:
            raise InputError(f"{where}: {key} {image[key]} is beyond {largest:g}; correct it")
    return image | ({"split": str(image["split"])} if "split" in image else {})
