"""`cmbfe describe`: sizes, shapes and counts by hand, blobs, and the table beside published numbers."""

import numpy as np
import pandas as pd
import pytest
from tiny_world import refused

from cmbfe.baselines.candidates import Volume
from cmbfe.data.labelled.images import save_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE, write_labels
from cmbfe.files import read_json, write_json
from cmbfe.patients.blobs import RADII_MM, blob_response
from cmbfe.patients.describe import compare_patients
from cmbfe.patients.measure import measure_lesion, shape_of
from cmbfe.patients.published import PUBLISHED

SIDE = 48
SLICES = 4
SPACING_MM = (2.0, 0.5, 0.5)
DOTS = {"A": {"a": (1, 12, 12), "b": (2, 12, 24)}, "B": {"a": (1, 30, 30)}, "C": {}}
"""Patient -> microbleed -> first of its two slices, row and column of its first pixel; each is 3 x 3 px."""


def volume_of(voxels: np.ndarray, spacing_mm=SPACING_MM) -> Volume:
    return Volume(voxels.astype(np.float32), spacing_mm, (np.zeros((0, 4)),) * len(voxels))


def with_dots(dots, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Slices of 0.8 with dots of 0.2."""
    voxels = np.full((SLICES, SIDE, SIDE), 0.8) + noise * np.random.default_rng(seed).standard_normal(
        (SLICES, SIDE, SIDE)
    )
    for first, row, column in dots:
        voxels[first : first + 2, row : row + 3, column : column + 3] -= 0.6
    return voxels


def write_folder(folder, location: str | None = "lobar", **of_images) -> None:
    """The patients of `DOTS` as an import leaves them, a mimic 4 mm to the right of B's microbleed."""
    images, boxes, mimics = [], [], []
    for patient, dots in DOTS.items():
        voxels = with_dots(dots.values(), 0.02, len(images))
        for index, image in enumerate(voxels):
            name = f"{patient}/{index:03d}.png"
            save_image(folder / name, np.round(image.clip(0, 1) * 255).astype(np.uint8))
            place = {"patient_id": patient, "series_uid": f"uid-{patient}", "slice_index": index}
            size = {"width": SIDE, "height": SIDE, "pixel_spacing_mm": list(SPACING_MM[1:])}
            images.append({"id": len(images) + 1, "file_name": name, **place, **size, **of_images})
            for lesion, (first, row, column) in dots.items():
                if first <= index < first + 2:
                    box = {"image_id": len(images), "category_id": 1, "bbox": [column - 1, row - 1, 5, 5]}
                    where = {"location": location} if location else {}
                    boxes.append({"id": len(boxes) + 1, "lesion_id": lesion, **box, **where})
                    if patient == "B":
                        beside = {**box, "bbox": [column + 7, row - 1, 5, 5]}
                        mimics.append({"id": len(mimics) + 1, "lesion_id": "vein", **beside})
    write_labels(folder / LABELS_FILE, {"images": images, "annotations": boxes, "categories": CATEGORIES})
    kinds = [{"id": 1, "name": "vein"}]
    write_labels(folder / MIMICS_FILE, {"images": images, "annotations": mimics, "categories": kinds})


def write_spacings(folder, slice_mm: float = 2.0) -> None:
    write_json(folder / "series.json", {f"uid-{patient}": {"slice_spacing_mm": slice_mm} for patient in DOTS})


@pytest.mark.parametrize(("sides", "volume", "in_plane", "elongation"), [
    ((2, 2, 2), 8, np.sqrt(5), 1),  # from the middle of an edge to that of the edge across
    ((1, 1, 4), 4, 4, 0),
    ((1, 2, 4), 8, np.sqrt(17), np.sqrt(0.25 / 1.25)),  # variances of 2 and of 4 voxels in a row
    ((1, 1, 1), 1, 1, np.nan),
])  # fmt: skip
def test_size_and_elongation_of_blocks(sides, volume, in_plane, elongation):
    shape = shape_of(np.ones(sides, bool), (1, 1, 1))
    assert shape["equivalent_mm"] == pytest.approx((6 * volume / np.pi) ** (1 / 3))
    assert shape["in_plane_mm"] == pytest.approx(in_plane)
    assert shape["elongation"] == pytest.approx(elongation, nan_ok=True)


def test_sphericity_of_an_octahedron_and_of_a_ball():
    voxel = shape_of(np.ones((1, 1, 1), bool), (0.5, 0.5, 0.5))["sphericity"]  # its mesh is an octahedron
    assert voxel == pytest.approx((np.pi / (3 * np.sqrt(3))) ** (1 / 3))
    squares = np.add.outer(np.add.outer(np.arange(-9, 10) ** 2 * 4, np.arange(-18, 19) ** 2), np.arange(-18, 19) ** 2)
    ball = shape_of(squares <= 17**2, (1.0, 0.5, 0.5))
    assert ball["equivalent_mm"] == pytest.approx(17, rel=0.01)
    assert ball["elongation"] == pytest.approx(1, abs=0.02)
    assert 0.88 < ball["sphericity"] < 1


@pytest.mark.parametrize("margin", [0, 3])
def test_a_microbleed_is_measured_at_half_its_depth_whatever_the_margin_of_its_boxes(margin):
    voxels = with_dots([(1, 20, 20)])
    voxels[1, 25, 25] = 0.2  # as dark, but not joined to it
    voxels[1, 20, 18] = 0.6  # less than half as dark
    voxels[1, 21, 21] = 0.19
    boxes = np.array([[20 - margin, 20 - margin, 23 + margin, 23 + margin]] * 2, float)
    measured = measure_lesion(volume_of(voxels), np.array([1, 2]), boxes)
    assert measured["equivalent_mm"] == pytest.approx((6 * 1.5 * 1.5 * 4 / np.pi) ** (1 / 3))
    assert measured["in_plane_mm"] == pytest.approx(np.hypot(1.5, 1.0))
    assert np.isnan(measured["contrast_to_noise"])  # there is no noise


def test_contrast_is_told_in_standard_deviations_of_the_noise():
    measured = measure_lesion(
        volume_of(with_dots([(1, 20, 20)], 0.02)), np.array([1, 2]), np.array([[19.0, 19, 24, 24]] * 2)
    )
    assert measured["contrast_to_noise"] == pytest.approx(0.6 / 0.02, rel=0.15)


def test_what_is_no_darker_than_its_surroundings_has_no_size():
    boxes = np.array([[20.0, 20, 23, 23]])
    assert measure_lesion(volume_of(np.full((SLICES, SIDE, SIDE), 0.5)), np.array([0]), boxes) == {}
    everything = np.array([[0.0, 0, SIDE, SIDE]])
    assert measure_lesion(volume_of(with_dots([(0, 20, 20)])), np.array([0]), everything) == {}


def test_a_dot_has_a_quarter_of_its_depth_a_line_nothing_and_a_bright_dot_less():
    sigma = RADII_MM[1] / np.sqrt(2)
    row, column = np.mgrid[-30:31, -30:31] * np.array([0.4, 0.5])[:, None, None]
    dot, line = np.exp(-(row**2 + column**2) / (2 * sigma**2)), np.exp(-(row**2) / (2 * sigma**2))
    response = blob_response(volume_of(0.8 - 0.4 * np.stack([dot, line, -dot]), (2.0, 0.4, 0.5)))
    assert response[0, 30, 30] == response[0].max() == pytest.approx(0.1, rel=0.02)
    assert np.abs(response[1, 30, 10:50]).max() < 1e-4
    assert response[2, 30, 30] < 0


def test_the_table_counts_measures_and_judges(tmp_path):
    write_folder(tmp_path)
    write_spacings(tmp_path)
    table = compare_patients(tmp_path, resamples=50, progress=False)
    ours = table["ours"]
    diameter = (6 * 9 / np.pi) ** (1 / 3)
    assert ours["equivalent diameter, mm, median"] == pytest.approx(diameter, rel=0.02)
    assert ours["equivalent diameter under 5 mm, share"] == 1
    assert ours["microbleeds in a positive patient, median"] == 1.5
    assert ours["a single microbleed in a positive patient, share"] == 0.5
    assert ours["microbleeds in a patient, most"] == 2
    assert ours["patients without a microbleed, share"] == pytest.approx(1 / 3)
    # Of A on slices 1, 2 and 2, 3: two boxes on slice 2. Of B on 1 and 2.
    assert ours["boxes on an image with boxes, mean"] == pytest.approx(6 / 5)
    assert ours[["lobar, share", "deep, share", "infratentorial, share"]].tolist() == [1, 0, 0]
    # A's two are 6 mm apart, on the slice that both are on; B's mimic is 4 mm away.
    assert ours["distance to the nearest microbleed or mimic, mm, median"] == 6
    assert ours["blobs beside 95 % of the microbleeds, a series"] == 0
    judged = table["in_range"]
    assert judged["equivalent diameter, mm, median"] == "yes"
    assert judged["lobar, share"] == "no"
    assert judged["distance to the nearest microbleed or mimic, mm, median"] == "unknown"
    assert judged["blobs beside 95 % of the microbleeds, a series"] == "unknown"  # of 8 mm of a head
    assert "8 mm" in table["note"]["blobs beside 95 % of the microbleeds, a series"]
    assert table["citation"].ne("").sum() == len(PUBLISHED) - 1


def test_size_and_distance_are_those_of_the_tight_boxes(tmp_path):
    tight, wide = tmp_path / "tight", tmp_path / "wide"
    for folder in (tight, wide):
        write_folder(folder)
        write_spacings(folder)
    labels = read_json(wide / LABELS_FILE)
    for box in labels["annotations"]:
        x, y, width, height = box["tight_bbox"] = box["bbox"]
        box["bbox"] = [x - 9, y - 5, width + 10, height + 9]
    write_labels(wide / LABELS_FILE, labels)
    same = compare_patients(tight, resamples=50, progress=False)["ours"]
    pd.testing.assert_series_equal(compare_patients(wide, resamples=50, progress=False)["ours"], same)


def test_patients_that_nobody_has_labelled_do_not_count(tmp_path):
    write_folder(tmp_path)
    labels = read_json(tmp_path / LABELS_FILE)
    for image in labels["images"]:
        image["split"] = "unlabelled" if image["patient_id"] == "C" else "test"
    write_labels(tmp_path / LABELS_FILE, labels)
    table = compare_patients(tmp_path, slice_mm=2.0, resamples=20, progress=False)
    assert table["ours"]["patients without a microbleed, share"] == 0


def test_what_the_labels_lack_is_unknown_and_says_why(tmp_path):
    write_folder(tmp_path, location=None)
    (tmp_path / MIMICS_FILE).unlink()
    table = compare_patients(tmp_path, slice_mm=2.0, resamples=20, progress=False)
    assert table.loc["lobar, share", ["in_range", "note"]].tolist() == ["unknown", "the labels name no location"]
    assert np.isnan(table["ours"]["readers' agreement, Fleiss' κ"])
    assert table.loc[table["in_range"] == "unknown", "note"].ne("").all()


@pytest.mark.parametrize(("spoil", "match"), [
    (lambda folder: (folder / LABELS_FILE).unlink(), "annotations.json: no such file"),
    (lambda folder: (folder / "series.json").unlink(), "--slice-mm"),
    (lambda folder: write_spacings(folder, -1.0), "--slice-mm"),
    (lambda folder: write_json(folder / "series.json", [1]), "series.json"),
    (lambda folder: (folder / "A/001.png").unlink(), "A/001.png"),
    (lambda folder: write_labels(folder / LABELS_FILE, {"images": [], "annotations": [], "categories": CATEGORIES}),
     "no microbleed"),
])  # fmt: skip
def test_bad_input_is_refused_in_a_line(spoil, match, tmp_path):
    write_folder(tmp_path)
    write_spacings(tmp_path)
    spoil(tmp_path)
    with refused(tmp_path, match):
        compare_patients(tmp_path, progress=False)
