"""Write the output of an import: the images of each patient, and the labels of all patients."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmbfe.data.labelled.images import natural_key, phase_entry, save_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE, Labels, write_labels
from cmbfe.data.sources.identity import Pseudonyms
from cmbfe.data.sources.series import Series
from cmbfe.files import read_json, whole_folder, write_json
from cmbfe.params import Images

SERIES_FILE = "series.json"
"""File with patient, folder, axes, affine, slice spacing, echo time and field strength of each series. The affine maps
image coordinates in px to patient coordinates in mm."""
PATIENT_FILE = "patient.json"


@dataclass(frozen=True)
class Patient:
    """The series of one patient, and the folders for their images."""

    name: str
    series: tuple[Series, ...]
    folders: tuple[str, ...]
    """Output folder of each series."""
    work: Path


def is_made(patient: Patient, made_of: str) -> bool:
    """Whether a patient's folder exists, is complete, and was made from the same input (`made_of`)."""
    file = patient.work / PATIENT_FILE
    is_whole = file.exists() and all((patient.work / folder).is_dir() for folder in patient.folders)
    return is_whole and read_json(file)["made_of"] == made_of


def check_patient(patient: Patient, size: int | None) -> None:
    """Read a patient's series to check them; raises `InputError` for invalid series."""
    for series in patient.series:
        series.load(size)


def write_patient(patient: Patient, made_of: str, settings: Images, size: int | None) -> None:
    """Write a patient's images and patient.json atomically."""
    with whole_folder(patient.work, PATIENT_FILE) as temporary:
        pairs = zip(patient.series, patient.folders, strict=True)
        records = [_write_series(series, temporary / folder, settings, size) for series, folder in pairs]
        write_json(temporary / PATIENT_FILE, {"made_of": made_of, "series": records})


def _write_series(series: Series, out: Path, settings: Images, size: int | None) -> dict[str, Any]:
    """Write the images of one series; its volume is in memory only during this call."""
    loaded = series.load(size)
    names = _image_names(len(loaded.images), settings.format)
    for name, image in zip(names, loaded.draw(settings), strict=True):
        save_image(out / name, image, settings.jpeg_quality)
    return loaded.record()


def _image_names(count: int, suffix: str) -> list[str]:
    """Image file names whose alphabetical order is the order of the slices."""
    digits = max(3, len(str(count - 1)))
    return [f"{index:0{digits}d}.{suffix}" for index in range(count)]


def write_dataset(
    out: Path,
    patients: Sequence[Patient],
    names: Pseudonyms,
    splits: Mapping[str, str],
    suffix: str,
    mimic_kinds: Sequence[str],
) -> tuple[Labels, Counter[str]]:
    """Write the labels and series.json of finished patients; return the labels, and the summed notes of all series."""
    notes: Counter[str] = Counter()
    places: dict[str, dict[str, Any]] = {}
    images, annotations, mimics = [], [], []
    for patient in patients:
        records = read_json(patient.work / PATIENT_FILE)["series"]
        whose = {"patient_id": names.patient(patient.name), "split": splits[patient.name]}
        for series, folder, record in zip(patient.series, patient.folders, records, strict=True):
            uid = names.series(patient.name, series.name)
            notes.update(record["notes"])
            places[uid] = {"patient_id": whose["patient_id"], "folder": folder, **record["place"], **record["scan"]}
            own = _images(record, folder, suffix, {**whose, "series_uid": uid}, names)
            images += own
            annotations += _annotations(record["boxes"], folder, own, [""])
            mimics += _annotations(record["mimics"], folder, own, mimic_kinds)
    labels = _numbered(images, annotations, CATEGORIES)
    write_labels(out / LABELS_FILE, labels)
    kinds = [{"id": number, "name": kind} for number, kind in enumerate(mimic_kinds, 1)]
    write_labels(out / MIMICS_FILE, _numbered(images, mimics, kinds))
    write_json(out / SERIES_FILE, places)
    return labels, notes


def _images(
    record: Mapping[str, Any], folder: str, suffix: str, whose: dict[str, str], names: Pseudonyms
) -> list[dict[str, Any]]:
    images = []
    for name, image in zip(_image_names(len(record["images"]), suffix), record["images"], strict=True):
        file = f"{folder}/{name}"
        images.append({"file_name": file, **whose, **image, **phase_entry(file, record["has_phase"])})
        if names.salt is not None:  # a scanner's UIDs may hold its serial number and the time of the study
            images[-1].pop("sop_instance_uid", None)
    return images


def _annotations(
    boxes: Sequence[dict[str, Any]], folder: str, images: Sequence[dict[str, Any]], kinds: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "file_name": images[box["image"]]["file_name"],
            "category_id": kinds.index(box.get("kind", "")) + 1,
            "area": box["bbox"][2] * box["bbox"][3],
            "iscrowd": 0,
            "lesion_id": f"{folder}/{box['lesion']}",
            **{key: value for key, value in box.items() if key not in ("image", "lesion", "kind")},
        }
        for box in boxes
    ]


def _numbered(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], categories: list[dict[str, Any]]
) -> Labels:
    """Labels with images numbered in the natural order of their paths. `cmbfe detect` uses the same order, so that its
    detections in an import have the image ids of annotations.json."""
    images = sorted(images, key=lambda image: natural_key(Path(image["file_name"])))
    number = {image["file_name"]: index for index, image in enumerate(images, 1)}
    annotations = sorted(annotations, key=lambda box: number[box["file_name"]])
    return {
        "images": [{"id": index, **image} for index, image in enumerate(images, 1)],
        "annotations": [
            {"id": index, "image_id": number[box.pop("file_name")], **box} for index, box in enumerate(annotations, 1)
        ],
        "categories": categories,
    }
