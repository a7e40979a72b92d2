"""Tiny data sets in the layouts of the public ones: heads as NIfTI, with microbleeds at known voxels."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
from nibabel.eulerangles import euler2mat
from scipy.io import savemat
from tiny_world import tiny_params

from cmbfe.data.labelled.labels import LABELS_FILE, Labels, read_labels
from cmbfe.data.sources.importer import Options, import_source
from cmbfe.data.sources.writing import SERIES_FILE
from cmbfe.files import read_json
from cmbfe.params import Images

SHAPE = 40, 36, 10
"""Columns, rows and slices of a head that lies as its file says."""
DIRECTIONS = {"L": (-1, 0, 0), "R": (1, 0, 0), "P": (0, -1, 0), "A": (0, 1, 0), "I": (0, 0, -1), "S": (0, 0, 1)}
"""Patient directions, in NIfTI's coordinates (to the right, front, head)."""


def affine_of(
    codes: str, spacing: Sequence[float] = (0.5, 0.7, 2.0), tilt: float = 0.0, origin: Sequence[float] = (11, -7, 5)
) -> np.ndarray:
    """NIfTI affine of voxels whose axes run to `codes`; `tilt`: radians about all three axes."""
    axes = np.array([DIRECTIONS[code] for code in codes], float).T
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(tilt, tilt / 2, -tilt) @ axes * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def head(shape: Sequence[int] = SHAPE, dots: Sequence[Sequence[float]] = (), seed: int = 0) -> np.ndarray:
    """float32 voxels: a bright head with noise in dark air, each dot a dark cube of 3 voxels."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    voxels = 50 + 800 * ((grid**2).sum(axis=0) < 1.6) + np.random.default_rng(seed).normal(0, 15, shape)
    for dot in dots:
        voxels[mask_slices(dot)] = 60
    return voxels.clip(0).astype(np.float32)


def mask_slices(dot: Sequence[float]) -> tuple[slice, ...]:
    """The cube of 3 voxels around a voxel."""
    return tuple(slice(int(place) - 1, int(place) + 2) for place in dot)


def mask(shape: Sequence[int], dots: Sequence[Sequence[float]], values: Sequence[float] = (1, 2, 3)) -> np.ndarray:
    """float32 mask of such cubes; their values follow one another."""
    voxels = np.zeros(shape, np.float32)
    for number, dot in enumerate(dots):
        voxels[mask_slices(dot)] = values[number % len(values)]
    return voxels


def save(path: Path, voxels: np.ndarray, affine: np.ndarray, **texts: str) -> Path:
    """Write NIfTI; `texts` fill free text fields of its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    for name, text in texts.items():
        image.header[name] = text
    nib.save(image, path)
    return path


VOC_KEYS = ("patient_id", "series_uid", "slice_index", "split")
IMAGES = tiny_params().images.model_copy(
    update={
        "format": "png",
        "bias_correction": tiny_params().images.bias_correction.model_copy(update={"iterations": (1,)}),
    }
)


def valdo(folder: Path, dots: Mapping[str, Sequence], affine: np.ndarray | None = None, **texts: str) -> Path:
    """VALDO's Task 2: patient -> microbleeds (voxels)."""
    affine = affine_of("LAS") if affine is None else affine
    for seed, (patient, own) in enumerate(dots.items()):
        stem = folder / "Task2" / patient / f"{patient}_space-T2S"
        volume = head(dots=own, seed=seed)
        volume[0, 0, 0] = np.nan
        save(Path(f"{stem}_desc-masked_T2S.nii.gz"), volume, affine, **texts)
        save(Path(f"{stem}_desc-masked_T1.nii.gz"), volume, affine)
        save(Path(f"{stem}_CMB.nii.gz"), mask(volume.shape, own), affine, **texts)
    return folder / "Task2"


def workbook(path: Path, rows: Sequence[Sequence[object]], first: str = "NIFTI File Name ") -> Path:
    """A workbook as the CSIRO data set has them."""
    book = openpyxl.Workbook()
    book.active.append([first, "Location CMB # 1", None, None, "Location CMB # 2", None, None])
    for row in rows:
        book.active.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def dou(folder: Path, dots: Mapping[str, Sequence], affines: Mapping[str, np.ndarray] | None = None) -> Path:
    """Dou et al.: volume -> microbleeds (voxels)."""
    for seed, (name, own) in enumerate(dots.items()):
        affine = (affines or {}).get(name, affine_of("LPS"))
        save(folder / "nii" / f"{name}.nii", head(dots=own, seed=seed), affine)
        truth = folder / "ground_truth" / f"{name}.mat"
        truth.parent.mkdir(exist_ok=True)
        savemat(truth, {"cen": np.reshape(own, (-1, 3)) + 1.0, "gt_num": len(own)})
    return folder


def write_voc(labels: Labels, folder: Path) -> None:
    """COCO labels as Pascal VOC XML, a file per image, named like the image; corners with decimals, counted from 0."""
    names = {category["id"]: category["name"] for category in labels["categories"]}
    for image in labels["images"]:
        root = ET.Element("annotation")
        size = {"width": image["width"], "height": image["height"]}
        spacing = dict(zip(("row", "column"), image.get("pixel_spacing_mm", ()), strict=False))
        _add(root, {"filename": Path(image["file_name"]).name, "size": size, "pixel_spacing_mm": spacing})
        _add(root, {key: image[key] for key in VOC_KEYS if key in image})
        for box in (box for box in labels["annotations"] if box["image_id"] == image["id"]):
            x, y, width, height = box["bbox"]
            corners = {"xmin": float(x), "ymin": float(y), "xmax": float(x + width), "ymax": float(y + height)}
            own = {key: box[key] for key in ("lesion_id", "location") if key in box}
            name = {"name": names[box["category_id"]], "difficult": box.get("ignore", 0)}
            _add(ET.SubElement(root, "object"), {**name, **own, "bndbox": corners})
        file = folder / Path(image["file_name"]).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        ET.ElementTree(root).write(file)


def _add(parent: ET.Element, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _add(ET.SubElement(parent, name), value) if value else None
        else:
            ET.SubElement(parent, name).text = str(value)


def imported(kind: str, source: Path, out: Path, images: Images = IMAGES, **options: object) -> Labels:
    """Import in this process; returns the labels."""
    chosen = Options(**{"keep_ids": True, **options})
    import_source(kind, source, out, images, 0, chosen, 1, "threading", progress=False)
    return read_labels(out / LABELS_FILE)


def reported(out: Path, part: str = "notes") -> dict[str, int]:
    """What an import has noted or `left_out` -> how often."""
    return {entry["what"]: entry["count"] for entry in read_json(out / "report.json")[part]}


def places_mm(out: Path) -> dict[str, np.ndarray]:
    """Lesion -> centre of its boxes in mm, in NIfTI's coordinates: out of the written files alone."""
    labels, series = read_labels(out / LABELS_FILE), read_json(out / SERIES_FILE)
    image_of = {image["id"]: image for image in labels["images"]}
    centres: dict[str, list] = {}
    for box in labels["annotations"]:
        image, (x, y, width, height) = image_of[box["image_id"]], box["bbox"]
        place = [x + width / 2 - 0.5, y + height / 2 - 0.5, image["slice_index"], 1]
        affine = np.array(series[image["series_uid"]]["affine"])
        centres.setdefault(box["lesion_id"], []).append((affine @ place)[:3] * [-1, -1, 1])
    return {lesion: np.mean(own, axis=0) for lesion, own in centres.items()}


def assert_at(out: Path, affine: np.ndarray, dots: Sequence[Sequence[float]], prefix: str = "") -> None:
    """Every lesion lies within half a voxel of its dot (voxels of the file with this affine), and none is missing."""
    found = [place for lesion, place in places_mm(out).items() if lesion.startswith(prefix)]
    assert len(found) == len(dots)
    back = np.linalg.inv(affine)
    voxels = np.array([(back @ [*place, 1])[:3] for place in found])
    for dot in dots:
        assert np.abs(voxels - dot).max(axis=1).min() <= 0.5, f"{dot}: {voxels}"
