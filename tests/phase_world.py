"""Heads with a phase series on the same slices, as a scanner sends them."""

from pathlib import Path

import numpy as np
from dicom_series import mr_series, uid, write
from pydicom.dataset import Dataset
from tiny_world import SIDE, dicom_head, labelled_images, tiny_head

from cmbfe.data.conversion import to_8_bit_phase
from cmbfe.data.labelled.images import save_image
from cmbfe.data.labelled.labels import LABELS_FILE, Labels, write_labels

PHASE = {"ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P"]}


def phase_volume(slices: int = 4) -> np.ndarray:
    """int16 [slices, 64, 64] mrad: everywhere 0, but a square of +1 rad and one of -2 rad."""
    volume = np.zeros((slices, SIDE, SIDE), np.int16)
    volume[:, 10:20, 30:40], volume[:, 40:50, 5:15] = 1000, -2000
    return volume


def phase_series(folder: Path, patient: str = "P1", volume: np.ndarray | None = None, **attributes: object) -> None:
    """Write the phase of `dicom_head`'s slices."""
    own = {"PatientID": patient, "SeriesInstanceUID": uid("phase", patient, sorted(attributes.items())), **PHASE}
    write(folder, mr_series(phase_volume() if volume is None else volume, **{**own, **attributes}))


def head_with_phase(folder: Path, patient: str = "P1") -> list[Dataset]:
    """A patient's magnitude and phase, four slices each; returns the magnitude's."""
    images = dicom_head(folder / patient / "magnitude", patient)
    phase_series(folder / patient / "phase", patient)
    return images


def image_with_phase(seed: int = 0) -> np.ndarray:
    """uint8 [64, 64, 2]: a head, and a phase with two squares."""
    head = (tiny_head(seed=seed)[0] // 4).astype(np.uint8)
    return np.stack([head, to_8_bit_phase(phase_volume()[0])], axis=-1)


def images_with_phase(folder: Path, images: int = 3) -> Labels:
    """As `labelled_images`, with the phase beside each."""
    labels = labelled_images(folder, images)
    for image in labels["images"]:
        save_image(folder / image["file_name"], image_with_phase(image["id"]))
        image["phase_file_name"] = image["file_name"].replace(".png", ".phase.png")
    write_labels(folder / LABELS_FILE, labels)
    return labels
