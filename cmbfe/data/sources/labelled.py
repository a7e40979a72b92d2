"""Import images that are labelled already (COCO; also used by `voc`). Images and labels are checked and written anew,
without EXIF and comments; the only text kept from the labels is that of `TRAITS`.

COCO: a .json file, or a folder with annotations.json or one other .json (also in its subfolder annotations). Images
lie below the folder, or in image folders of COCO, CVAT and Label Studio. The patient is `patient_id`, or the folder.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from cmbfe.data.labelled.images import image_notes, is_turned, natural_key, read_image
from cmbfe.data.labelled.labels import (
    CATEGORIES,
    LABELS_FILE,
    LOCATIONS,
    OF_POLYGON,
    Labels,
    may_be_corners,
    plain_path,
    read_foreign_labels,
    repeats,
)
from cmbfe.data.sources.image_files import ImageFiles, Place, composed
from cmbfe.data.sources.lesions import IMPOSSIBLE_MM, odd_sizes
from cmbfe.data.sources.series import Found, Frame, Loaded
from cmbfe.errors import InputError
from cmbfe.metrics.matching import is_region

NAME = re.compile(r"\s*(cmb|(cerebral[\s_-]*)?microbleed)s?\s*", re.IGNORECASE)
"""Names of the microbleed category; if a file has a single category, any name is accepted."""
TRAITS: dict[str, Callable[[Any], bool]] = {
    "location": lambda value: value in LOCATIONS,
    **dict.fromkeys(("true_diameter_mm", "visible_diameter_mm", "contrast"), lambda value: isinstance(value, float)),
}
"""Other keys of a microbleed to keep -> check of their values. Other text is dropped, as it could name a person."""
BOXES = ("bbox", "tight_bbox")
"""Keys of the boxes of an annotation: x, y, w, h px."""
ANNOTATIONS = "annotations"
"""Folder of COCO files beside the image folders."""
OTHERS = f"boxes of other categories than {CATEGORIES[0]['name']}"
DOUBLED = "boxes that repeat another of their image"
NEARLY_DOUBLED = "Boxes overlap another of their image by an IoU of 0.8 or more: one microbleed may be drawn twice."
MAYBE_CORNERS = (
    "All boxes are wider than left of them and higher than above them: they may be corners x1, y1, x2, y2."
)
NO_LESION_ID = "Boxes have no lesion_id: each is a microbleed of its own, also where it continues on the next slice."
AROUND = "Boxes are those around polygons, as annotations have no bbox."
REGIONS = "Boxes are marked as iscrowd, ignore or difficult: regions to leave out, and no microbleeds."
APART = "Microbleeds have two boxes on a slice, or none on one between: one lesion_id may stand for several."
UPLOAD_ID = re.compile(r"^[0-9a-f]{8}-(?=\w)")
"""Prefix that Label Studio adds to the name of an uploaded image; eight digits may also be a date."""
BY_NAME = "Series have no slice_index: their images are in the order of their names, slice2 before slice10."
BY_FOLDER = "Images have no patient_id: the name of their folder stands for the patient."
ELSEWHERE = (
    "Images were found by another case, suffix, encoding (%20) or folder than in their labels, "
    "or by the name of their XML."
)
WIDE = "Boxes are wider or higher than a quarter of their image, whose pixel spacing is not known."
Box = dict[str, Any]
"""A box with the keys `BOXES`, `TRAITS` and `lesion` (the same for all boxes of a microbleed). Optional keys are
`ignore` and, for mimics, `kind`."""


def find_coco(source: Path) -> Found:
    """Find the images of a COCO file. Raises `InputError` like `labels_file`, `read_foreign_labels`,
    `ImageFiles.find` and `found_in_labels`."""
    file = labels_file(source) if source.is_dir() else source
    folder = file.parent.resolve()
    files = ImageFiles(folder.parent if folder.name.casefold() == ANNOTATIONS else folder)
    here, subset = PurePosixPath(folder.relative_to(files.root)), file.stem.removeprefix("instances_")

    def image_file(image: Mapping[str, Any]) -> Path:
        name = image["file_name"]
        return files.find(name, file, *(_places(spelt, here, subset) for spelt in (name, _decoded(name))))

    found = found_in_labels(read_foreign_labels(file), file, image_file)
    return replace(found, read=(file,), notes={**found.notes, ELSEWHERE: files.elsewhere})


def _decoded(name: str) -> str:
    """A name with %20 decoded, and without Label Studio's project folder, which is not exported."""
    return re.sub(r"^images/\d+/", "images/", unquote(name).replace("\\", "/"))


def _places(name: str, here: Place, subset: str) -> list[Place]:
    """Possible paths of an image: beside or below the COCO file (`here`), below the source, or in the image folders of
    CVAT and Label Studio (images/) or COCO (train2017/). The name of the subset may be part of the path."""
    own = plain_path(name)
    images = PurePosixPath("images")
    return [here / own, here / name, own, images / own, images / subset / own, PurePosixPath(subset) / own]


def labels_file(folder: Path) -> Path:
    """The COCO file of a folder: annotations.json, or the only .json in the folder or in its subfolder annotations.
    Raises `InputError` if there is none."""
    if (folder / LABELS_FILE).is_file():
        return folder / LABELS_FILE
    files = _json_files(folder) or _json_files(folder / ANNOTATIONS)
    if len(files) != 1:
        found = f"{len(files)} other files *.json in {files[0].parent}" if files else "no other *.json"
        below = [file for path in sorted(folder.iterdir()) for file in _json_files(path)]
        such = f", such as {below[0]}" if below else ""
        raise InputError(f"{folder}: no {LABELS_FILE}, and {found}; give the COCO file itself{such}")
    return files[0]


def _json_files(folder: Path) -> list[Path]:
    """The .json files of a folder that are not hidden; empty if the folder does not exist."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in files if file.suffix.lower() == ".json" and not file.name.startswith("."))


@dataclass(frozen=True)
class Image:
    """One image file with its boxes."""

    file: Path
    width: int
    height: int
    slice_index: int
    pixel_spacing_mm: tuple[float, float] | None
    boxes: tuple[Box, ...]

    @property
    def wide_boxes(self) -> int:
        """Number of boxes wider or higher than a quarter of the image; 0 if the pixel spacing is known."""
        sides = (box["bbox"][2:] for box in self.boxes if "ignore" not in box and not self.pixel_spacing_mm)
        return sum(4 * width > self.width or 4 * height > self.height for width, height in sides)


@dataclass(frozen=True)
class ImageSeries:
    """Images of one series, in the order of their slices."""

    patient: str
    name: str
    images: tuple[Image, ...]
    split: str | None = None
    is_labelled: bool = True
    place: Mapping[str, Any] = field(default_factory=dict)
    """As in `Loaded`; empty for COCO and VOC, which give no position."""

    @property
    def files(self) -> Sequence[Path]:
        return [image.file for image in self.images]

    def load(self, size: int | None) -> Loaded:
        """See `Series`. Every image is decoded once to check it, and again when it is drawn."""
        images, frames = [], []
        for image in self.images:
            rows, columns = read_image(image.file).shape
            if (rows, columns) != (image.height, image.width):
                shown = f"{columns} x {rows} px{' once turned by its EXIF' if is_turned(image.file) else ''}"
                said = f"{image.width} x {image.height}; correct one, and the boxes with it"
                raise InputError(f"{image.file}: is shown with {shown}, but its label says {said}")
            frames.append(Frame(rows, columns, *(image.pixel_spacing_mm or (1.0, 1.0)), size))
            images.append({**frames[-1].entry, "slice_index": image.slice_index})
            if not image.pixel_spacing_mm:
                del images[-1]["pixel_spacing_mm"]
        boxes = [image.boxes for image in self.images]
        spacings_mm = [image.pixel_spacing_mm for image in self.images]
        pairs = list(zip(self.images, frames, strict=True))
        return Loaded(
            images,
            records(boxes, frames),
            place=dict(self.place),
            notes={
                **image_notes(self.files),
                APART: lesions_apart(boxes),
                WIDE: sum(image.wide_boxes for image in self.images),
                **size_notes(boxes, spacings_mm, self.images[0].file.parent),
            },
            draw=lambda _: (frame.image(read_image(image.file)) for image, frame in pairs),
        )


def records(boxes: Sequence[Sequence[Box]], frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """The boxes of all images in the form of `Loaded`, scaled like their image; lesions are numbered from 1."""
    numbers: dict[str, int] = {}
    return [
        {
            **box,
            "image": index,
            **{key: frame.box(_clipped(box[key], frame)) for key in BOXES if key in box},
            "lesion": numbers.setdefault(box["lesion"], len(numbers) + 1),
        }
        for index, (own, frame) in enumerate(zip(boxes, frames, strict=True))
        for box in own
    ]


def _clipped(bbox: Sequence[float], frame: Frame) -> list[float]:
    """The part of a box inside the image; a label may exceed the image by 0.01 px, which scaling would enlarge."""
    x, y, width, height = bbox
    left, top = max(x, 0.0), max(y, 0.0)
    return [left, top, min(x + width, frame.columns) - left, min(y + height, frame.rows) - top]


def lesions_apart(boxes: Sequence[Sequence[Box]]) -> int:
    """Number of microbleeds that skip a slice or have two boxes on a slice. `boxes`: the boxes of each slice."""
    slices = defaultdict(list)
    for index, own in enumerate(boxes):
        for box in own:
            slices[box["lesion"]].append(index)
    return sum(of_one != list(range(of_one[0], of_one[0] + len(of_one))) for of_one in slices.values())


def size_notes(
    boxes: Sequence[Sequence[Box]], spacings_mm: Sequence[tuple[float, float] | None], where: Path
) -> dict[str, int]:
    """Notes on microbleeds of unusual size (`odd_sizes`). The size is the longer side of the largest box.

    Args:
        boxes: the boxes of each slice.
        spacings_mm: row and column spacing of each slice, or None if unknown.
        where: begins the text of errors.

    Raises:
        InputError: a microbleed of more than `IMPOSSIBLE_MM`.
    """
    sides_mm: dict[str, float] = defaultdict(float)
    for own, spacing_mm in zip(boxes, spacings_mm, strict=True):
        for box in own if spacing_mm else ():
            side_mm = max(box["bbox"][3] * spacing_mm[0], box["bbox"][2] * spacing_mm[1])
            if side_mm > IMPOSSIBLE_MM and "ignore" not in box:
                what = f"the box {box['bbox']} is {side_mm:.0f} mm long, and of no microbleed"
                raise InputError(f"{where}: {what}; correct it, or the pixel spacing")
            sides_mm[box["lesion"]] = max(sides_mm[box["lesion"]], 0 if "ignore" in box else side_mm)
    return odd_sizes([side_mm for side_mm in sides_mm.values() if side_mm])


def found_in_labels(labels: Labels, where: Path, image_file: Callable[[Mapping[str, Any]], Path]) -> Found:
    """The series of COCO labels, sorted by patient and series UID; the folder of an image replaces a missing id.

    Args:
        where: begins the text of errors.
        image_file: returns the file of an image entry.

    Raises:
        InputError: no image, an image of unknown patient, two images with the same file or slice, a slice index in only
            some images of a series, or no microbleed category.
    """
    if not labels["images"]:
        raise InputError(f"{where}: holds no images; give labels that name some")
    category = microbleed_category(labels, where)
    labels, left_out, notes = without_doubles(labels, category)
    boxes = boxes_of_images(labels, {category: ""})
    groups = _grouped(labels, where, image_file)
    series = tuple(_series(*key, group, boxes, where) for key, group in sorted(groups.items()))
    notes[BY_NAME] = sum(len(group) > 1 and "slice_index" not in group[0][0] for group in groups.values())
    notes[BY_FOLDER] = sum("patient_id" not in image for image in labels["images"])
    return Found(series, left_out, notes=notes)


def _grouped(
    labels: Labels, where: Path, image_file: Callable[[Mapping[str, Any]], Path]
) -> dict[tuple[str, str], list[tuple[dict[str, Any], Path]]]:
    """(patient, series) -> its images, with the file of each."""
    groups = defaultdict(list)
    for image in labels["images"]:
        name = image["file_name"]
        if not isinstance(name, str) or "\0" in name:
            raise InputError(f"{where}: image {image['id']}: file_name {name!r} is no name of a file")
        folder = unquote(plain_path(name).parent.as_posix())
        if "patient_id" not in image and folder == ".":
            raise InputError(f"{where}: image {image['id']} ({name}) needs a patient_id, or a folder per patient")
        key = composed(str(image.get("patient_id", folder))), composed(str(image.get("series_uid") or folder))
        groups[key].append((image, image_file(image)))
    files = Counter(file for group in groups.values() for _, file in group)
    if (repeated := files.most_common(1)[0])[1] > 1:
        raise InputError(f"{where}: {repeated[1]} images are the file {repeated[0]}; keep one")
    return groups


def microbleed_category(labels: Labels, where: Path) -> Any:
    """Id of the microbleed category; raises `InputError` if there is none, or several. A supercategory without boxes,
    as added by Roboflow, does not count."""
    names = {category["id"]: str(category.get("name", "")) for category in labels["categories"]}
    used = {box["category_id"] for box in labels["annotations"]}
    above = [(other["id"], other.get("supercategory")) for other in labels["categories"]]
    wanted = [
        category
        for category, name in names.items()
        if NAME.fullmatch(name) and (category in used or all(other == category or name != of for other, of in above))
    ]
    if len(names) == 1:
        wanted = list(names)
    if len(wanted) != 1:
        raise InputError(f"{where}: of the categories {', '.join(names.values()) or '(none)'} one must be named cmb")
    return wanted[0]


def without_doubles(labels: Labels, category: Any) -> tuple[Labels, Counter[str], Counter[str]]:
    """Labels without repeated boxes of microbleeds, counts of what is left out, and notes for the report."""
    boxes = [box for box in labels["annotations"] if box["category_id"] == category and not is_region(box)]
    same, nearly = repeats(labels, boxes)
    dropped = {boxes[index]["id"] for index in same}
    kept = [box for box in labels["annotations"] if box["id"] not in dropped]
    others = sum(box["category_id"] != category for box in kept)
    notes = Counter({NEARLY_DOUBLED: len(nearly), MAYBE_CORNERS: len(boxes) if may_be_corners(boxes) else 0})
    notes[AROUND] = sum(OF_POLYGON in box for box in boxes)
    notes[NO_LESION_ID] = sum("lesion_id" not in box for box in boxes)
    notes[REGIONS] = sum(box["category_id"] == category and is_region(box) for box in labels["annotations"])
    return {**labels, "annotations": kept}, Counter({OTHERS: others, DOUBLED: len(dropped)}), notes


def boxes_of_images(labels: Labels, kinds: Mapping[Any, str]) -> dict[Any, list[Box]]:
    """Image id -> its boxes of the categories in `kinds`, for images with such boxes."""
    boxes = defaultdict(list)
    for box in labels["annotations"]:
        if box["category_id"] in kinds:
            boxes[box["image_id"]].append(_box(box, kinds[box["category_id"]]))
    return boxes


def _box(box: dict[str, Any], kind: str) -> Box:
    return {
        **{key: [float(value) for value in box[key]] for key in BOXES if key in box},
        "lesion": composed(f"lesion {box['lesion_id']}" if "lesion_id" in box else f"box {box['id']}"),
        **({"ignore": 1} if box.get("iscrowd") or box.get("ignore") else {}),
        **({"kind": kind} if kind else {}),
        **{name: box[name] for name, is_sound in TRAITS.items() if name in box and is_sound(box[name])},
    }


def _series(patient: str, name: str, group: list, boxes: Mapping[Any, list[Box]], where: Path) -> ImageSeries:
    is_indexed = _is_indexed([image for image, _ in group], where)
    group = sorted(group, key=lambda pair: pair[0]["slice_index"]) if is_indexed else _by_name(group)
    images = tuple(
        Image(
            file=file,
            width=int(image["width"]),
            height=int(image["height"]),
            slice_index=image["slice_index"] if is_indexed else number,
            pixel_spacing_mm=tuple(map(float, image["pixel_spacing_mm"])) if "pixel_spacing_mm" in image else None,
            boxes=tuple(boxes.get(image["id"], ())),
        )
        for number, (image, file) in enumerate(group)
    )
    splits = {str(image["split"]) for image, _ in group if "split" in image}
    if len(splits) > 1:
        raise InputError(f"{where}: the series of {group[0][0]['file_name']} is in {len(splits)} splits; keep one")
    return ImageSeries(patient, f"{patient}/{name}", images, splits.pop() if splits else None)


def _by_name(group: list) -> list:
    """Images with their files, in the natural order of their names without Label Studio's prefix."""
    names = [plain_path(composed(unquote(image["file_name"]))) for image, _ in group]
    are_dates = all(path.name[:8].isdigit() for path in names)
    if all(UPLOAD_ID.match(path.name) for path in names) and not are_dates:
        names = [path.with_name(UPLOAD_ID.sub("", path.name)) for path in names]
    return [group[number] for number in sorted(range(len(group)), key=lambda number: natural_key(names[number]))]


def _is_indexed(images: Sequence[Mapping[str, Any]], where: Path) -> bool:
    """Whether the images of a series have a `slice_index`. Raises `InputError` if only some have it or two share it."""
    indices = Counter(image["slice_index"] for image in images if "slice_index" in image)
    said = f"{where}: of {len(images)} images of one series, that of {images[0]['file_name']},"
    if 0 < indices.total() < len(images):
        raise InputError(f"{said} {indices.total()} have a slice_index; give one to all or to none")
    if len(indices) < indices.total():
        repeated, times = indices.most_common(1)[0]
        raise InputError(f"{said} {times} have the slice_index {repeated}; correct it, or give scans a series_uid")
    return bool(indices)
