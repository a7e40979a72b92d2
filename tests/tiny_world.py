"""A whole pipeline in seconds: settings, an untrained detector, labelled images and DICOM heads, all tiny."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dicom_series import mr_series, uid, write
from pydicom.dataset import Dataset

from cmbfe.data.labelled.images import save_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, Labels, write_labels
from cmbfe.errors import InputError
from cmbfe.params import Params, load_params, profile_file, save_params

SIDE = 64
BOX = [20.3, 30.7, 6.1, 5.9]
"""x, y, w, h px of the dark dot in every tiny head; bf16 would round each of its corners."""


def tiny_params(seed: int = 7, **training: object) -> Params:
    """The smoke profile, four iterations on one CPU in float32; `training` replaces settings of that section."""
    settings = {"accelerator": "cpu", "precision": "32-true", "batch": 2, "iterations": 4, "milestones": (2, 3)}
    params = load_params(profile_file("smoke"))
    schedule = params.training.model_copy(update={**settings, "checkpoint_every": 2, **training})
    return params.model_copy(update={"seed": seed, "training": schedule})


def tiny_head(slices: int = 1, seed: int = 0) -> np.ndarray:
    """uint16 [slices, 64, 64]: a bright disc with noise and a dark dot in BOX, dark air around it."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    head = (rows - 32) ** 2 + (columns - 32) ** 2 < 28**2
    dot = (rows - 33.6) ** 2 + (columns - 23.3) ** 2 < 2.9**2
    noise = np.random.default_rng(seed).normal(0, 20, (slices, SIDE, SIDE))
    return np.clip(50 + 800 * head - 700 * dot + noise, 0, None).astype(np.uint16)


def labelled_images(folder: Path, count: int = 5, split: str = "train") -> Labels:
    """Write PNG images with one box each and annotations.json, as an augmented set is."""
    images, annotations = [], []
    for number in range(1, count + 1):
        name = f"P{number}/000.png"
        save_image(folder / name, (tiny_head(seed=number)[0] // 4).astype(np.uint8))
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE, "split": split})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": BOX})
    labels = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    write_labels(folder / LABELS_FILE, labels)
    return labels


def dicom_head(
    folder: Path, patient_id: str = "P1", slices: int = 4, names: Sequence[str] | None = None, **attributes: object
) -> list[Dataset]:
    """Write a head as a DICOM series of 2 mm slices with pixels of 0.5 mm (rows) by 0.75 mm (columns)."""
    series = uid("series", patient_id, sorted(attributes.items()))
    own = {"PatientID": patient_id, "SeriesInstanceUID": series, **attributes}
    images = mr_series(tiny_head(slices), **own)
    write(folder, images, names)
    return images


def dicom_labels(images: Sequence[Dataset], **image_keys: object) -> Labels:
    """COCO labels with one box on the second of these slices; the others are there without one."""
    entries = [
        {
            "id": number,
            "file_name": f"{number}.dcm",
            "width": SIDE,
            "height": SIDE,
            "sop_instance_uid": str(image.SOPInstanceUID),
            **image_keys,
        }
        for number, image in enumerate(images, 10)
    ]
    box = {"id": 1, "image_id": 11, "category_id": 1, "bbox": BOX, "lesion_id": "a"}
    return {"images": entries, "annotations": [box], "categories": CATEGORIES}


def save_tiny_model(folder: Path, variant: str = "ssd300-fe") -> Path:
    """Save an untrained detector as a training would: weights, config.json and params.yaml."""
    from cmbfe.detector.weights import save_model
    from cmbfe.training.loop import build_from_params

    save_model(build_from_params(variant, tiny_params()), folder)
    save_params(tiny_params(), folder / "params.yaml")
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder with its bytes, None for folders: two equal trees are equal folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def refused(folder: Path, match: str) -> Iterator[None]:
    """The block ends with an InputError, one line that matches, and has changed nothing below the folder."""
    before = tree(folder)
    with pytest.raises(InputError, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert tree(folder) == before
