"""Lesions get the region and side of the place that they have in the template, or an honest unknown."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import read_volume
from cmbfe.findings.lesions import REGIONS, Lesion, lesion_of, pattern
from cmbfe.findings.regions import (
    ALONG_A_VEIN,
    OUTSIDE,
    NotRegistered,
    load_template,
    placed,
    region_at,
    register,
    series_image,
    shrunk,
    struck_out,
)
from cmbfe.findings.search import Place

STEP_MM = 4.0


def lesion(region: str = "unknown", struck: str = "", **values: object) -> Lesion:
    fields = {"number": 1, "uid": "1.2", "score": 0.9, "centre_mm": (0.0, 0.0, 0.0), "size_mm": 3.0}
    fields |= {"extent_mm": (3.0, 3.0, 4.0), "boxes": {0: ([0.0, 0.0, 3.0, 3.0], 0.9)}, "best_slice": 0}
    side = "unknown" if region == "unknown" else "left"
    return Lesion(**{**fields, "region": region, "side": side, "struck_out": struck, **values})


@pytest.mark.parametrize(
    ("region", "left_front_up_mm"),
    [
        ("deep", (12, -18, 8)),  # thalamus
        ("deep", (-26, 2, 0)),  # putamen
        ("deep", (20, -10, 12)),  # internal capsule
        ("lobar", (40, -2, 0)),  # insula
        ("lobar", (20, 40, 20)),  # frontal white matter
        ("lobar", (-24, -22, -14)),  # hippocampus
        ("lobar", (20, -90, -8)),  # occipital
        ("lobar", (50, -30, -22)),  # temporal
        ("infratentorial", (3, -25, -30)),  # pons
        ("infratentorial", (3, -52, -12)),  # culmen, above the level of the temporal lobes' base
        ("infratentorial", (-30, -65, -38)),  # cerebellar hemisphere
    ],
)
def test_places_of_the_template_are_in_the_region_that_anatomy_says(region, left_front_up_mm):
    left, front, up = left_front_up_mm
    assert REGIONS[int(region_at(np.array([left, -front, up])))] == region


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ((), "none"),
        (("lobar", "lobar"), "strictly lobar"),
        (("deep",), "strictly deep"),
        (("infratentorial",), "strictly deep"),
        (("lobar", "infratentorial"), "mixed"),
        (("lobar", "deep", "unknown"), "mixed"),
        (("lobar", "unknown"), "unknown"),
    ],
)
def test_the_pattern_is_said_only_where_no_unknown_lesion_can_change_it(regions, expected):
    assert pattern(regions) == expected


def head(turn: np.ndarray, shift: np.ndarray, size: float) -> tuple[np.ndarray, Place]:
    """Slices as T2* shows a head: fluid bright, bone dark, scalp bright; the template, smaller, turned and moved."""
    template = load_template()
    first = np.array([-96.0, -112.0, -72.0]) + shift
    index = np.indices((40, 56, 48)).reshape(3, -1)[::-1]
    here = index * STEP_MM + first[:, None]
    there = turn.T @ (here - shift[:, None]) / size
    t1 = template.at(sitk.GetArrayViewFromImage(template.t1), there)
    outside = template.at(template.outside_mm, there)
    image = np.select([outside == 0, outside < 10, outside < 15], [200 - 110 * t1, 12.0, 120.0], 4.0)
    noisy = image + np.random.default_rng(0).normal(0, 4, image.shape)
    positions = [(first[0], first[1], first[2] + n * STEP_MM) for n in range(40)]
    place = Place((1.0, 0, 0, 0, 1.0, 0), tuple(positions), (STEP_MM, STEP_MM), STEP_MM)
    return noisy.clip(0, 255).reshape(40, 56, 48), place


TURN, SHIFT_MM, SIZE = (
    Rotation.from_euler("xyz", (14, -8, 10), degrees=True).as_matrix(),
    np.array([9.0, -20, 31]),
    0.9,
)


@pytest.fixture(scope="module")
def turned() -> tuple[np.ndarray, Place]:
    return head(TURN, SHIFT_MM, SIZE)


def as_image(voxels: np.ndarray, place: Place) -> sitk.Image:
    return series_image(list(voxels), voxels.shape[1:], place)


def test_a_turned_and_moved_head_is_found_and_lesions_get_region_and_side(turned):
    voxels, place = turned
    way = register(as_image(voxels, place))
    known = {"deep": (22.0, -2, 2), "lobar": (-30.0, 55, 35), "infratentorial": (-25.0, 62, -36)}
    here = {region: tuple((TURN @ (SIZE * np.array(point)) + SHIFT_MM).tolist()) for region, point in known.items()}
    for region, point in here.items():
        assert np.linalg.norm(np.subtract(way.TransformPoint(point), known[region])) < 5
    found = placed([lesion(centre_mm=point) for point in here.values()], way)
    assert [(each.region, each.side) for each in found] == [
        ("deep", "left"),
        ("lobar", "right"),
        ("infratentorial", "right"),
    ]
    places = [lesion(boxes={20: ([0.0, 0.0, 2.0, 2.0], 0.9)}), lesion(boxes={20: ([23.0, 27.0, 2.0, 2.0], 0.9)})]
    assert [each.struck_out for each in struck_out(places, place, way)] == [OUTSIDE, ""]


def test_a_real_head_with_face_and_neck_is_found():
    folder = Path(__file__).resolve().parents[2] / "shared" / "real" / "ge_signa_pd"
    if not folder.exists():
        pytest.skip("the real GE series does not lie beside the project")
    (series,) = find_series(folder)
    place = Place(series.orientation, series.positions_mm, series.pixel_spacing_mm, series.slice_spacing_mm)
    image = series_image([shrunk(each, place) for each in read_volume(series)], (series.rows, series.columns), place)
    by_eye = {
        (45, 65, 6): ("infratentorial", "right"),
        (60, 52, 12): ("deep", "left"),
        (72, 38, 14): ("lobar", "left"),
    }
    here = [image.TransformContinuousIndexToPhysicalPoint(each) for each in by_eye]  # cerebellum, thalamus, frontal
    found = placed([lesion(centre_mm=point) for point in here], register(image))
    assert [(each.region, each.side) for each in found] == list(by_eye.values())


@pytest.mark.parametrize("change", ["upside-down", "inverted", "thin", "empty"])
def test_what_is_no_head_as_its_header_says_is_not_registered(turned, change):
    voxels, place = turned
    changed = {"upside-down": voxels[::-1], "inverted": 255 - voxels, "thin": voxels[18:20], "empty": 0 * voxels}
    with pytest.raises(NotRegistered):
        register(as_image(changed[change], place))


@pytest.mark.parametrize(("slices", "spacing_mm", "rule"), [(2, 7.0, ""), (3, 7.0, ALONG_A_VEIN), (5, 1.0, "")])
def test_a_lesion_long_across_slices_is_struck_out_as_a_vein_also_without_registration(slices, spacing_mm, rule):
    place = Place((1.0, 0, 0, 0, 1.0, 0), tuple((0.0, 0.0, spacing_mm * n) for n in range(9)), (0.5, 0.5), spacing_mm)
    members = [(index, {"bbox": [10.0, 10.0, 12.0, 12.0], "score": 0.9}) for index in range(slices)]
    (found,) = struck_out([lesion_of(1, members, place)], place, None)
    assert found.struck_out == rule
