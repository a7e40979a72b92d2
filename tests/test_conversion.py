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
from tiny_world import SIDE, dicom_head, dicom_labels, refused, tiny_head, tiny_params

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


def test_a_known_field_is_found_and_removed():
    volume, inside = head()
    field = smooth_field(volume.shape)
    corrected = correct_bias(volume * field, SPACING_MM, 2, ITERATIONS)
    estimated = np.log((volume * field)[inside] / corrected[inside])
    assert np.corrcoef(estimated, np.log(field[inside]))[0, 1] > 0.95
    residual = variation(corrected[inside] / volume[inside])
    assert residual < variation(field[inside]) / 2


def test_a_dark_dot_keeps_its_contrast_to_its_surroundings():
    volume, _ = head()
    dot, ring = (slice(5, 7), slice(30, 33), slice(40, 43)), (slice(5, 7), slice(27, 36), slice(37, 46))
    volume[dot] *= 0.2
    biased = volume * smooth_field(volume.shape)
    corrected = correct_bias(biased, SPACING_MM, 2, ITERATIONS)
    before, after = (v[dot].mean() / np.median(v[ring]) for v in (biased, corrected))
    assert before < 0.3
    assert after == pytest.approx(before, rel=0.03)


def test_the_mask_is_the_head_with_its_dark_holes_filled():
    volume, inside = head()
    volume[4:8, 30:36, 28:34] = 0
    assert (head_mask(volume) == inside).mean() > 0.99
    assert head_mask(volume)[4:8, 30:36, 28:34].all()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.7])
def test_holes_in_the_mask_are_what_scipy_calls_holes(share):
    speckled = (np.random.default_rng(0).random((4, 40, 50)) < share).astype(float)
    filled = [ndimage.binary_fill_holes(image) for image in speckled]
    np.testing.assert_array_equal(head_mask(speckled), filled)


def test_the_last_bit_does_not_depend_on_how_many_cores_there_are():
    volume, _ = head()
    biased = volume * smooth_field(volume.shape)
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    corrected = []
    try:
        for cores in (1, 2, 5):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(cores)
            corrected.append(correct_bias(biased, SPACING_MM, 2, ITERATIONS))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == cores
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(corrected[1], corrected[0])
    np.testing.assert_array_equal(corrected[2], corrected[0])


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_thin_series_are_corrected_too(slices):
    volume, inside = head()
    volume, inside = volume[4 : 4 + slices], inside[4 : 4 + slices]
    field = smooth_field(volume.shape)
    corrected = correct_bias(volume * field, SPACING_MM, 2, ITERATIONS)
    assert corrected.shape == volume.shape
    assert variation(corrected[inside] / volume[inside]) < variation(field[inside]) / 2


@pytest.mark.parametrize("value", [0, 7])
def test_a_volume_without_contrast_comes_back_unchanged(value):
    volume = np.full((3, 8, 8), value, np.uint16)
    np.testing.assert_array_equal(correct_bias(volume, SPACING_MM), volume)


def spot(place: object) -> np.ndarray:
    volume = np.zeros((4, 32, 32))
    volume[place] = 100
    return volume


@pytest.mark.parametrize(
    "volume",
    [
        *(np.random.default_rng(0).random(shape) * 100 for shape in ((1, 2, 2), (2, 3, 3), (1, 5, 90), (3, 64, 3))),
        *map(spot, (np.s_[0, 0, 0], np.s_[1], np.s_[:, 8:24, 8:24])),
    ],
)
def test_tiny_and_narrow_volumes_and_those_of_two_values_give_finite_values(volume):
    assert np.isfinite(correct_bias(volume, SPACING_MM, 4, (5,))).all()


IMAGES = tiny_params().images


def imported(source: Path, out: Path, **changes: object) -> Labels:
    return import_dicom(source, out, IMAGES.model_copy(update=changes), 0, 1, progress=False)


def test_the_window_maps_its_percentiles_to_0_and_255_and_clips_beyond():
    volume = np.arange(101, dtype=float)
    assert to_8_bit(volume, (10, 61)).tolist() == [0] * 11 + [5 * n for n in range(1, 51)] + [255] * 40


@settings(deadline=None)
@given(
    arrays.arrays(np.float32, (2, 3, 4), elements=st.floats(0, 1e6, width=32)),
    st.tuples(st.floats(0, 40), st.floats(60, 100)),
)
def test_the_window_keeps_the_order_of_brightness(volume, percentiles):
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


@pytest.mark.parametrize("volume", [np.full((4, SIDE, SIDE), 100), tiny_head(4).clip(0, 400), tiny_head(4) > 400])
def test_a_series_without_contrast_is_named(tmp_path, volume):
    write(tmp_path / "in", mr_series(volume.astype(np.uint16)))
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
    images = dicom_head(tmp_path / "in", names=["d.dcm", "c.dcm", "a.dcm", "b.dcm"])
    labels = imported(tmp_path / "in", tmp_path / "out")
    assert [image["sop_instance_uid"] for image in labels["images"]] == [image.SOPInstanceUID for image in images]
    assert [image["slice_index"] for image in labels["images"]] == [0, 1, 2, 3]
    assert [image["file_name"] for image in labels["images"]] == [f"P1/00{index}.png" for index in range(4)]
    assert labels["images"][0]["pixel_spacing_mm"] == [0.5, 0.75]
    assert read_image(tmp_path / "out" / "P1" / "001.png").shape == (SIDE, SIDE)


def test_what_labels_say_of_their_boxes_goes_along(tmp_path):
    labels = dicom_labels(dicom_head(tmp_path / "in"))
    labels["annotations"][0] |= {"tight_bbox": [21, 31, 5, 4], "contrast": 0.5}
    (tmp_path / "in" / LABELS_FILE).write_text(json.dumps({**labels, "info": {"box_margin_mm": 1.0}}))
    moved = imported(tmp_path / "in", tmp_path / "out")
    assert moved["info"] == {"box_margin_mm": 1.0}
    assert [(box["tight_bbox"], box["contrast"]) for box in moved["annotations"]] == [([21, 31, 5, 4], 0.5)]


@pytest.mark.parametrize(
    "patients",
    [
        ["A/B", "A_B"],
        ["a", "A"],  # one folder on a file system that ignores case
        ["A", "A", "A-1", "A-1", "A-2"],
        ["..", "__", "//"],
        ["", "unknown"],
        ["anonymous"] * 30_000,
        ["..", "../../etc", "/etc/passwd", "a\\b", "C:\\x", "né é", ".hidden", "~", "x" * 64],
    ],
)
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


@pytest.mark.parametrize("out", ["in", ".", "elsewhere"])
def test_labelled_dicom_series_are_never_taken_for_an_earlier_import(tmp_path, out):
    for name in ("in", "elsewhere"):
        images = dicom_head(tmp_path / name)
        (tmp_path / name / LABELS_FILE).write_text(json.dumps(dicom_labels(images)))
    with refused(tmp_path, "holds|lies in the source"):
        imported(tmp_path / "in", tmp_path / out)
