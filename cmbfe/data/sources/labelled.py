"""Images that are labelled already (COCO; `voc`): read, checked, and written anew.

COCO: a folder with annotations.json (or one other .json), or that file itself. File names are relative to the file's
folder. `patient_id` says whose an image is; without it, its folder does.

Images are decoded and encoded again, so that EXIF and comments stay behind. Of the labels, sizes, slice indices, pixel
spacing, splits, boxes and `TRAITS` are kept, and no other text.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmbfe.data.folders import resolved
from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, LOCATIONS, Labels, read_foreign_labels
from cmbfe.data.sources.series import Found, Frame, Loaded
from cmbfe.errors import InputError

NAMES = ("cmb", "cmbs", "microbleed", "microbleeds", "cerebral microbleed")
"""Categories that are microbleeds, whatever the case; a file with one category only may call it as it likes."""
TRAITS: dict[str, Callable[[Any], bool]] = {
    "location": lambda value: value in LOCATIONS,
    **dict.fromkeys(("true_diameter_mm", "visible_diameter_mm"), lambda value: isinstance(value, float)),
}
"""What else is known of a microbleed and is kept -> whether a value is one: any other text could name somebody."""
Box = dict[str, Any]
"""`bbox` (x, y, w, h px), `lesion` (what boxes of one microbleed share), `ignore` and, of a mimic, `kind` where
they hold, and `TRAITS`."""


def find_coco(source: Path) -> Found:
    """Find the images that a COCO file names.

    Raises:
        InputError: not one COCO file, a name that leads elsewhere, or as `read_foreign_labels` and `found_in_labels`.
    """
    file = labels_file(source) if source.is_dir() else source
    root = file.parent.resolve()

    def image_file(name: str) -> Path:
        path = resolved(root / name)
        if not path.is_relative_to(root):
            raise InputError(f"{file}: {name} leads out of the folder; file names must be relative to it")
        return path

    return found_in_labels(read_foreign_labels(file), file, image_file)


def labels_file(folder: Path) -> Path:
    """The COCO file of a folder: annotations.json, or the only .json; raises `InputError` where there is neither."""
    if (folder / LABELS_FILE).is_file():
        return folder / LABELS_FILE
    files = sorted(folder.glob("*.json"))
    if len(files) != 1:
        found = f"{len(files)} other files *.json" if files else "no other *.json"
        raise InputError(f"{folder}: no {LABELS_FILE}, and {found}; give the COCO file itself")
    return files[0]


@dataclass(frozen=True)
class Image:
    """One image file with its boxes."""

    file: Path
    width: int
    height: int
    slice_index: int
    pixel_spacing_mm: tuple[float, float] | None
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class ImageSeries:
    """Images of one series, in the order of their slices."""

    patient: str
    name: str
    images: tuple[Image, ...]
    split: str | None = None
    is_labelled: bool = True

    @property
    def files(self) -> Sequence[Path]:
        return [image.file for image in self.images]

    def load(self, size: int | None) -> Loaded:
        """See `Series`. Every image is decoded once to check it, and again when it is drawn."""
        images, frames = [], []
        for image in self.images:
            rows, columns = read_image(image.file).shape
            if (rows, columns) != (image.height, image.width):
                said = f"{image.width} x {image.height}"
                raise InputError(f"{image.file}: has {columns} x {rows} px, but its label says {said}; correct one")
            frames.append(Frame(rows, columns, *(image.pixel_spacing_mm or (1.0, 1.0)), size))
            images.append({**frames[-1].entry, "slice_index": image.slice_index})
            if not image.pixel_spacing_mm:
                del images[-1]["pixel_spacing_mm"]
        try:
            boxes = records([image.boxes for image in self.images], frames)
        except InputError as error:
            raise InputError(f"{self.images[0].file.parent}: {error}") from None
        pairs = list(zip(self.images, frames, strict=True))
        return Loaded(images, boxes, draw=lambda _: (frame.image(read_image(image.file)) for image, frame in pairs))


def records(boxes: Sequence[Sequence[Box]], frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """The boxes of each image as `Loaded` has them, moved along with its frame; lesions are numbered from 1."""
    numbers: dict[str, int] = {}
    return [
        {
            **box,
            "image": index,
            "bbox": frame.box(_clipped(box["bbox"], frame, index)),
            "lesion": numbers.setdefault(box["lesion"], len(numbers) + 1),
        }
        for index, (own, frame) in enumerate(zip(boxes, frames, strict=True))
        for box in own
    ]


def _clipped(bbox: Sequence[float], frame: Frame, index: int) -> list[float]:
    """What lies in the image: labels may stick out by a hundredth of a px, which scaling would make more."""
    x, y, width, height = bbox
    left, top = max(x, 0.0), max(y, 0.0)
    inside = [left, top, min(x + width, frame.columns) - left, min(y + height, frame.rows) - top]
    if min(inside[2:]) <= 0:
        raise InputError(f"the box {list(bbox)} of image {index + 1} lies outside it; redraw it or remove it")
    return inside


def found_in_labels(labels: Labels, where: Path, image_file: Callable[[str], Path]) -> Found:
    """The series of COCO labels, by patient and series, each of them else the image's folder.

    Args:
        where: begins the text of errors.
        image_file: the file of an image's `file_name`.

    Raises:
        InputError: no image, one of no known patient, two that are one file or slice, or no category of microbleeds.
    """
    if not labels["images"]:
        raise InputError(f"{where}: holds no images")
    category = microbleed_category(labels, where)
    boxes = boxes_of_images(labels, {category: ""})
    groups = _grouped(labels, where, image_file)
    series = tuple(_series(*key, group, boxes, where) for key, group in sorted(groups.items()))
    return Found(series, other_boxes(labels, category))


def _grouped(
    labels: Labels, where: Path, image_file: Callable[[str], Path]
) -> dict[tuple[str, str], list[tuple[dict[str, Any], Path]]]:
    """(patient, series) -> its images, with the file of each."""
    groups = defaultdict(list)
    for image in labels["images"]:
        name = image["file_name"]
        if not isinstance(name, str) or "\0" in name:
            raise InputError(f"{where}: image {image['id']}: file_name {name!r} is no name of a file")
        folder = Path(name).parent.as_posix()
        if "patient_id" not in image and folder == ".":
            reason = "has no patient_id and lies in no folder; give it one of them, as images are split by patient"
            raise InputError(f"{where}: image {image['id']} ({name}) {reason}")
        key = str(image.get("patient_id", folder)), str(image.get("series_uid") or folder)
        groups[key].append((image, image_file(name)))
    files = Counter(file for group in groups.values() for _, file in group)
    if (repeated := files.most_common(1)[0])[1] > 1:
        raise InputError(f"{where}: {repeated[1]} images are the file {repeated[0]}; keep one")
    return groups


def microbleed_category(labels: Labels, where: Path) -> Any:
    """Id of the category of microbleeds; raises `InputError` if there is not one."""
    names = {category["id"]: str(category.get("name", "")) for category in labels["categories"]}
    wanted = [category for category, name in names.items() if name.strip().casefold() in NAMES]
    if len(names) == 1:
        wanted = list(names)
    if len(wanted) != 1:
        raise InputError(f"{where}: of the categories {', '.join(names.values()) or '(none)'} one must be named cmb")
    return wanted[0]


def other_boxes(labels: Labels, category: Any) -> Counter[str]:
    """How many boxes are of other categories, for `Found.left_out`."""
    others = sum(box["category_id"] != category for box in labels["annotations"])
    return Counter({f"boxes of other categories than {CATEGORIES[0]['name']}": others})


def boxes_of_images(labels: Labels, kinds: Mapping[Any, str]) -> dict[Any, list[Box]]:
    """Id of each image with boxes -> those of the categories that `kinds` names."""
    boxes = defaultdict(list)
    for box in labels["annotations"]:
        if box["category_id"] in kinds:
            boxes[box["image_id"]].append(_box(box, kinds[box["category_id"]]))
    return boxes


def _box(box: dict[str, Any], kind: str) -> Box:
    return {
        "bbox": [float(value) for value in box["bbox"]],
        "lesion": f"lesion {box['lesion_id']}" if "lesion_id" in box else f"box {box['id']}",
        **({"ignore": 1} if box.get("iscrowd") or box.get("ignore") else {}),
        **({"kind": kind} if kind else {}),
        **{name: box[name] for name, is_sound in TRAITS.items() if name in box and is_sound(box[name])},
    }


def _series(patient: str, name: str, group: list, boxes: Mapping[Any, list[Box]], where: Path) -> ImageSeries:
    group = sorted(group, key=lambda pair: (pair[0].get("slice_index", 0), pair[0]["file_name"]))
    is_indexed = all("slice_index" in image for image, _ in group)
    if is_indexed:
        indices = Counter(image["slice_index"] for image, _ in group)
        if (repeated := indices.most_common(1)[0])[1] > 1:
            file = group[0][1].parent
            raise InputError(f"{where}: {repeated[1]} images of one series in {file} have slice_index {repeated[0]}")
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
