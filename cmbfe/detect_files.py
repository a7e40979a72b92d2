"""Detection for a user's own files: a DICOM folder or pictures in; JSON, CSV and overlays out."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn
from tqdm import tqdm

from cmbfe.data.labels import CATEGORIES, Detections
from cmbfe.data.picture_files import read_picture
from cmbfe.data.pictures import image_entries, magnitude_series, series_pictures
from cmbfe.detect import DETECTIONS_FILE, detect
from cmbfe.devices import Compute
from cmbfe.errors import InputError
from cmbfe.figures import overlay
from cmbfe.files import whole_file, whole_folder, write_json
from cmbfe.params import Pictures

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGES_FILE = "images.json"
"""The COCO `images` that the detections belong to. Also what an earlier result is recognised by: other folders too
hold a detections.json."""


@dataclass(frozen=True)
class Source:
    """One series of pictures to detect in, with the COCO `images` entries that describe them."""

    images: list[dict]
    pictures: np.ndarray


def dicom_sources(source: Path, settings: Pictures) -> Iterator[Source]:
    """The magnitude series of a DICOM folder one after another, as 8-bit pictures.

    All headers are read and checked at once, pixels when their turn comes.
    """
    all_series = magnitude_series(source)
    images = image_entries(all_series, "png")
    of_series = [[image for image in images if image["series_uid"] == one.series_uid] for one in all_series]
    return (Source(own, series_pictures(one, settings)) for own, one in zip(of_series, all_series, strict=True))


def picture_files(source: Path, out: Path) -> list[Path]:
    """PNG and JPG files under a folder (or the one file given), sorted by path; hidden ones and `out` are left out.

    Raises:
        InputError: two that differ in their suffix only, or DICOM files beside them.
    """
    found = sorted(source.rglob("*")) if source.is_dir() else []
    files = [file for file in found if _is_visible(file, source, out)] or [source]
    pictures = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]
    if pictures and (dicom := next((file for file in files if _is_dicom(file)), None)):
        what = f"pictures ({pictures[0].name}) and DICOM ({dicom.name})"
        raise InputError(f"{source}: holds {what}; give a folder of one of the two")
    for one, other in pairwise(sorted(pictures, key=lambda file: file.with_suffix(""))):
        if one.with_suffix("") == other.with_suffix(""):
            raise InputError(f"{other}: differs from {one.name} in its suffix only; keep one")
    return pictures


def _is_visible(file: Path, source: Path, out: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(source).parts)
    return not hidden and file.is_file() and not file.resolve().is_relative_to(out.resolve())


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def picture_sources(files: Sequence[Path], root: Path) -> Iterator[Source]:
    """Pictures one after another; the folder of a picture stands for patient and series.

    All pictures are decoded once to check them, and again when their turn comes.
    """
    index_in_folder: dict[Path, int] = defaultdict(int)
    images = []
    for number, file in enumerate(tqdm(files, desc="checking pictures", unit="picture", delay=1), 1):
        rows, columns = read_picture(file).shape
        relative = file.relative_to(root)
        image = {
            "id": number,
            "file_name": relative.as_posix(),
            "width": columns,
            "height": rows,
            "patient_id": relative.parent.as_posix() if relative.parent.name else root.resolve().name,
            "series_uid": "",
            "slice_index": index_in_folder[relative.parent],
        }
        index_in_folder[relative.parent] += 1
        images.append(image)
    return (Source([image], read_picture(file)[None]) for image, file in zip(images, files, strict=True))


def detections_table(images: Sequence[dict], detections: Detections) -> pd.DataFrame:
    """One row per detection: patient, series, slice, box in px and in mm from the picture's corner, score.

    Millimetres are missing where the pixel spacing is not known.
    """
    by_id = {image["id"]: image for image in images}
    columns = ["patient_id", "series_uid", "slice_index", "file_name"]
    names = [f"{side}_{unit}" for unit in ("px", "mm") for side in ("x", "y", "width", "height")]
    rows = []
    for detection in detections:
        image = by_id[detection["image_id"]]
        row_mm, column_mm = image.get("pixel_spacing_mm", (np.nan, np.nan))
        box_mm = np.multiply(detection["bbox"], [column_mm, row_mm, column_mm, row_mm]).round(3)
        rows.append([*(image[key] for key in columns), *detection["bbox"], *box_mm, detection["score"]])
    return pd.DataFrame(rows, columns=[*columns, *names, "score"])


def detect_files(
    source: Path, model: nn.Module, out: Path, settings: Pictures, compute: Compute, threshold: float = 0.5
) -> pd.DataFrame:
    """Detect in a DICOM folder or in pictures and write detections.json, detections.csv, images.json and overlays.

    Args:
        threshold: detections of at least this score are drawn in the overlays; the files hold all.

    Returns:
        The table of detections.

    Raises:
        InputError: nothing to read, unreadable input, or an `out` that holds something else than an earlier result;
            then nothing is written.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    images: list[dict] = []
    detections: Detections = []
    with whole_folder(out, IMAGES_FILE, inputs=[source]) as temporary:
        files = picture_files(source, out)
        root = source.parent if source.is_file() else source
        sources = picture_sources(files, root) if files else dicom_sources(source, settings)
        for one in tqdm(sources, desc=f"detecting in {source.name}", unit="picture" if files else "series"):
            found = detect(model, one.pictures, [image["id"] for image in one.images], compute, progress=not files)
            _write_overlays(temporary / "overlays", one, found, threshold)
            images += one.images
            detections += found
        table = detections_table(images, detections)
        write_json(temporary / DETECTIONS_FILE, detections)
        write_json(temporary / IMAGES_FILE, {"images": images, "annotations": [], "categories": CATEGORIES})
        with whole_file(temporary / "detections.csv") as file:
            table.to_csv(file, index=False)
    return table


def _write_overlays(folder: Path, source: Source, detections: Detections, threshold: float) -> None:
    for image, picture in zip(source.images, source.pictures, strict=True):
        boxes = [d for d in detections if d["image_id"] == image["id"] and d["score"] >= threshold]
        with whole_file((folder / image["file_name"]).with_suffix(".png")) as file:
            overlay(picture, boxes).save(file)
