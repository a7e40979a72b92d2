"""From volumes to images: N4 removes a smooth field only, one window a series, each series has its own folder."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import mr_series, write
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from tiny_world import SIDE, dicom_head, dicom_labels, tiny_head, tiny_params

from cmbfe.data.conversion import series_folders, to_8_bit
from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import LABELS_FILE, Labels
from cmbfe.data.n4 import correct_bias, head_mask
from cmbfe.data.sources.importer import import_dicom
from cmbfe.errors import InputError

SPACING_MM = (2.0, 1.0, 1.0)
ITERATIONS = (30, 30)


def head(slices: int = 12, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid of two tissues in black air with noise, and where the ellipsoid is."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (slices, side, side)), indexing="ij")
    inside = (z / 1.3) ** 2 + (y / 0.85) ** 2 + (x / 0.75) ** 2 < 1
    tissue = np.where((y / 0.85) ** 2 + (x / 0.75) ** 2 < 0.4, 600.0, 500.0)
    noise = np.random.default_rng(0).normal(0, 8, inside.shape)
    return np.where(inside, tissue + noise, np.abs(noise)), inside


def smooth_field(shape: tuple[int, int, int]) -> np.ndarray:
    """A coil's field as surface coils make it: brighter to one side and up, 3:1 over the volume."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.exp(0.35 * x - 0.25 * y**2 + 0.1 * z)


def variation(values: np.ndarray) -> float:
    return float(values.std() / values.mean())


@pytest.mark.parametrize("slices", [1, 3, 12])
def test_a_known_field_is_found_and_removed_and_a_dark_dot_keeps_its_contrast(slices):
    volume, inside = (whole[(12 - slices) // 2 :][:slices] for whole in head())
    dot, ring = np.s_[:, 30:33, 40:43], np.s_[:, 27:36, 37:46]
    volume[dot] *= 0.2
    field = smooth_field(volume.shape)
    corrected = correct_bias(volume * field, SPACING_MM, 2, ITERATIONS)
    assert variation(corrected[inside] / volume[inside]) < variation(field[inside]) / 2
    before, after = (v[dot].mean() / np.median(v[ring]) for v in (volume * field, corrected))
    assert before < 0.3
    assert after == pytest.approx(before, rel=0.03)
    estimated = np.log((volume * field)[inside] / corrected[inside])
    assert slices < 12 or np.corrcoef(estimated, np.log(field[inside]))[0, 1] > 0.95


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_the_mask_is_the_head_with_what_scipy_calls_holes_filled(share):
    speckled = (np.random.default_rng(0).random((4, 40, 50)) < share).astype(float)
    filled = [ndimage.binary_fill_holes(image) for image in speckled]
    np.testing.assert_array_equal(head_mask(speckled), filled)
    volume, inside = head()
    volume[4:8, 30:36, 28:34] = 0
    assert (head_mask(volume) == inside).mean() > 0.99
    assert head_mask(volume)[4:8, 30:36, 28:34].all()


def test_the_last_bit_does_not_depend_on_how_many_cores_there_are():
    volume, _ = head(slices=4)
    biased = volume * smooth_field(volume.shape)
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    corrected = []
    try:
        for cores in (1, 2, 5):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(cores)
            corrected.append(correct_bias(biased, SPACING_MM, 2, (5, 5)))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == cores
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(corrected[1:], corrected[:1] * 2)


NARROW = [np.random.default_rng(0).random(shape) * 100 for shape in ((1, 2, 2), (2, 3, 3), (1, 5, 90), (3, 64, 3))]
SPOTS = [np.zeros((4, 32, 32)) for _ in range(3)]
SPOTS[0][0, 0, 0] = SPOTS[1][1] = SPOTS[2][:, 8:24, 8:24] = 100


@pytest.mark.parametrize("volume", [*NARROW, *SPOTS])
def test_tiny_and_narrow_volumes_and_those_of_two_values_give_finite_values(volume):
    assert np.isfinite(correct_bias(volume, SPACING_MM, 4, (5,))).all()
    plain = np.full((3, 8, 8), 7, np.uint16)  # without contrast
    np.testing.assert_array_equal(correct_bias(plain, SPACING_MM), plain)


IMAGES = tiny_params().images


def imported(source: Path, out: Path, **changes: object) -> Labels:
    return import_dicom(source, out, IMAGES.model_copy(update=changes), 0, 1, progress=False)


@settings(deadline=None)
@given(
    arrays.arrays(np.float32, (2, 3, 4), elements=st.floats(0, 1e6, width=32)),
    st.tuples(st.floats(0, 40), st.floats(60, 100)),
)
def test_the_window_maps_its_percentiles_to_0_and_255_and_keeps_the_order_of_brightness(volume, percentiles):
    straight = [0] * 11 + [5 * n for n in range(1, 51)] + [255] * 40
    assert to_8_bit(np.arange(101, dtype=float), (10, 61)).tolist() == straight
    try:
        image = to_8_bit(volume, percentiles)
    except InputError:  # without contrast
        assume(False)
    assert image.dtype == np.uint8
    assert (np.diff(image.ravel()[volume.ravel().argsort()].astype(int)) >= 0).all()


def head_with(change: Callable[[np.ndarray], object]) -> np.ndarray:
    volume, _ = head()
    change(volume)
    return volume


BLACK_OR_WHITE = {
    "of one value": np.full((2, 4, 4), 700.0),
    "nearly of one value": head_with(lambda volume: np.put(volume, np.arange(100, volume.size), 5)),
    "a mask": head()[1].astype(float),
    "padding inside the window": head_with(lambda volume: np.put(volume, np.arange(2000), 65535)),
    "saturated": head_with(lambda volume: np.copyto(volume, np.where(volume > 100, 4095, volume))),
}


@pytest.mark.parametrize("volume", BLACK_OR_WHITE.values(), ids=BLACK_OR_WHITE)
def test_a_volume_in_which_nothing_can_be_seen_is_refused(volume):
    with pytest.raises(InputError, match="no contrast"):
        to_8_bit(volume, (0.5, 99.8))


def test_a_series_without_contrast_is_named(tmp_path):
    write(tmp_path / "in", mr_series(tiny_head(4).clip(0, 400)))
    with pytest.raises(InputError, match=rf"{tmp_path}.*: no contrast"):
        imported(tmp_path / "in", tmp_path / "out")


def test_one_window_serves_the_whole_series(tmp_path):
    """A slice half as bright as the others stays darker than they are."""
    volume = np.random.default_rng(0).integers(800, 1000, (4, SIDE, SIDE), dtype=np.uint16)
    volume[2] //= 2
    write(tmp_path / "in", mr_series(volume))
    imported(tmp_path / "in", tmp_path / "out", window_percentiles=(0.0, 100.0))
    means = [read_image(file).mean() for file in sorted((tmp_path / "out").rglob("*.png"))]
    assert means[2] < min(means[:2] + means[3:]) - 50


def test_images_are_the_slices_in_anatomical_order_whatever_the_files_are_called(tmp_path):
    slices = dicom_head(tmp_path / "in", names=["d.dcm", "c.dcm", "a.dcm", "b.dcm"])
    images = imported(tmp_path / "in", tmp_path / "out")["images"]
    assert [image["sop_instance_uid"] for image in images] == [each.SOPInstanceUID for each in slices]
    assert [image["slice_index"] for image in images] == [0, 1, 2, 3]
    assert [image["file_name"] for image in images] == [f"P1/00{index}.png" for index in range(4)]
    assert images[0]["pixel_spacing_mm"] == [0.5, 0.75]
    assert read_image(tmp_path / "out" / "P1" / "001.png").shape == (SIDE, SIDE)


@pytest.mark.parametrize("patients", [
    ["A/B", "A_B"],
    ["a", "A"],  # one folder on a file system that ignores case
    ["A", "A", "A-1", "A-1", "A-2"],
    ["", "unknown"],
    ["anonymous"] * 30_000,
    ["..", "__", "//", "../../etc", "/etc/passwd", "a\\b", "C:\\x", "né é", ".hidden", "~", "x" * 64],
])  # fmt: skip
def test_every_series_has_a_folder_of_its_own_below_the_output(patients):
    folders = series_folders(patients)
    assert len({folder.casefold() for folder in folders}) == len(patients)
    assert all(len(Path(folder).parts) == 1 and not folder.startswith(".") for folder in folders)


@pytest.mark.parametrize("patient", ["P1", "pseudonym"])
def test_the_split_of_the_labels_is_kept_under_whatever_name_they_have_for_the_patient(tmp_path, patient):
    images = dicom_head(tmp_path / "in", "P1", slices=2)
    (tmp_path / "in" / LABELS_FILE).write_text(json.dumps(dicom_labels(images, split="train", patient_id=patient)))
    dicom_head(tmp_path / "in" / "more", "P9", slices=2)
    labels = imported(tmp_path / "in", tmp_path / "out")
    splits = {(image["patient_id"], image["split"]) for image in labels["images"]}
    assert splits == {("P1", "train"), ("P9", "unlabelled")}
