"""What was found: lesions at their place in the patient, their DICOM objects as highdicom reads them, their page."""

import base64
import re
from dataclasses import replace

import highdicom as hd
import numpy as np
import pandas as pd
import pytest
from dicom_series import SAGITTAL, enhanced, mr_series, random_volume, write
from findings_world import BOXES, detect
from PIL import Image
from pydicom import dcmread
from pydicom.sr.codedict import codes
from tiny_world import SIDE, dicom_head, refused

from cmbfe.data.dicom.finding import find_series
from cmbfe.detector.ssd import build
from cmbfe.files import read_json
from cmbfe.findings.dicom_objects import write_report, write_segmentation
from cmbfe.findings.lesions import Lesion, find_lesions
from cmbfe.findings.model import Detector
from cmbfe.findings.search import Place
from cmbfe.metrics.lesions import match_lesions
from cmbfe.training.devices import make_compute

AXIAL = Place(
    orientation=(1, 0, 0, 0, 1, 0),
    positions_mm=tuple((-100.0, -90.0, 5.0 + 2 * index) for index in range(6)),
    pixel_spacing_mm=(0.5, 0.75),
    slice_spacing_mm=2.0,
)
COMMON = {"patient_id": "p", "series_uid": "s", "pixel_spacing_mm": [0.5, 0.75]}
IMAGES = [{"id": 10 + index, "slice_index": index, "file_name": f"p/{index:03d}.png", **COMMON} for index in range(6)]


def box(index: int, x: float, y: float, score: float, side: float = 4) -> dict:
    return {"image_id": 10 + index, "category_id": 1, "bbox": [x, y, side, side], "score": score}


def test_boxes_of_one_dot_on_neighbouring_slices_are_one_lesion_at_its_place_in_the_patient():
    boxes = [box(1, 20, 30, 0.6), box(2, 20, 30, 0.8), box(3, 20, 30, 0.6), box(2, 50, 50, 0.7)]
    first, second = find_lesions(IMAGES, boxes, AXIAL, 0.5)
    # Middle at px 22, 32: 21.5 columns of 0.75 mm and 31.5 rows of 0.5 mm from the first pixel's centre.
    assert first.centre_mm == pytest.approx((-100 + 21.5 * 0.75, -90 + 31.5 * 0.5, 5 + 2 * 2))
    assert (first.number, first.score, first.best_slice, first.slices) == (1, 0.8, 2, (1, 3))
    assert first.size_mm == pytest.approx(np.sqrt(3 * 2))
    assert first.extent_mm == pytest.approx((3, 2, 6))
    assert (second.number, second.score, second.slices, second.extent_mm[2]) == (2, 0.7, (2, 2), 2)


def test_the_place_is_the_mean_of_the_boxes_by_their_scores():
    (lesion,) = find_lesions(IMAGES, [box(0, 20, 30, 0.6), box(1, 22, 30, 0.9)], AXIAL, 0.5)
    assert lesion.centre_mm[0] == pytest.approx(-100 + (21.5 * 0.6 + 23.5 * 0.9) / 1.5 * 0.75)
    assert lesion.centre_mm[2] == pytest.approx(5 + 2 * 0.9 / 1.5)
    (lesion,) = find_lesions(IMAGES, [box(0, 20, 30, 0.0), box(1, 22, 30, 0.0)], AXIAL, 0.0)
    assert lesion.centre_mm[0] == pytest.approx(-100 + 22.5 * 0.75)  # scores of 0 have one weight


def test_a_tilted_series_has_its_places_along_its_own_directions():
    coronal = Place((1, 0, 0, 0, 0, -1), ((0.0, 10.0, 80.0), (0.0, 12.0, 80.0)), (0.5, 0.75), 2.0)
    (lesion,) = find_lesions(IMAGES[:2], [box(1, 20, 30, 0.6)], coronal, 0.5)
    assert lesion.centre_mm == pytest.approx((21.5 * 0.75, 12, 80 - 31.5 * 0.5))


def test_a_box_below_the_threshold_joins_two_slices_and_is_no_part_of_the_lesion():
    boxes = [box(1, 20, 30, 0.8), box(2, 20, 30, 0.1), box(3, 20, 30, 0.6), box(4, 20, 30, 0.1)]
    (lesion,) = find_lesions(IMAGES, boxes, AXIAL, 0.5)
    assert sorted(lesion.boxes) == [1, 3]
    apart = find_lesions(IMAGES, [boxes[0], boxes[2]], AXIAL, 0.5)
    assert [each.slices for each in apart] == [(1, 1), (3, 3)]


def test_lesions_are_those_that_an_evaluation_counts():
    rng = np.random.default_rng(3)
    boxes = [
        box(index, *rng.integers(0, 12, 2).tolist(), float(score))
        for index, score in zip(rng.integers(0, 6, 120).tolist(), rng.random(120).round(3), strict=True)
    ]
    counted = match_lesions({"images": IMAGES, "annotations": []}, boxes).score
    for threshold in (0.2, 0.5, 0.9):
        lesions = find_lesions(IMAGES, boxes, AXIAL, threshold)
        assert [lesion.score for lesion in lesions] == counted[counted >= threshold].tolist()


def lesion(number: int, boxes: dict[int, list[float]], score: float = 0.875) -> Lesion:
    by_slice = {index: (box, score) for index, box in boxes.items()}
    return Lesion(number, hd.UID(), score, (1.0, 2.0, 3.0), 3.5, (3.0, 4.0, 2.0), by_slice, min(boxes))


ROUND = {0: [10, 20, 4, 6], 1: [10, 20, 4, 6]}


def groups_of(path) -> list:
    return hd.sr.srread(path).content.get_volumetric_roi_measurement_groups()


@pytest.fixture
def series(tmp_path):
    images = dicom_head(tmp_path / "in", slices=3, FrameOfReferenceUID="1.2.3", PatientName="Doe^Jane", StudyID="7")
    return images, find_series(tmp_path / "in")[0]


def test_a_report_names_the_source_images_and_has_the_boxes(series, tmp_path):
    images, headers = series
    lesions = [lesion(1, {0: [10, 20, 4, 6], 1: [10.5, 20.25, 4, 5]}), lesion(2, {2: [40, 50, 1, 3]}, 0.25)]
    write_report(tmp_path / "sr.dcm", headers, lesions, "ssd512", 0.16)
    groups = groups_of(tmp_path / "sr.dcm")
    assert [group.tracking_uid for group in groups] == [each.uid for each in lesions]
    for group, of_group in zip(groups, lesions, strict=True):
        for region, (index, (box, _)) in zip(group.roi, sorted(of_group.boxes.items()), strict=True):
            assert region.ContentSequence[0].referenced_sop_instance_uid == images[index].SOPInstanceUID
            x, y, width, height = box
            np.testing.assert_array_equal(region.value[[0, 2]], [[x, y], [x + width, y + height]])
            np.testing.assert_array_equal(region.value[0], region.value[-1])
        values = {str(item.name.meaning): item.value for item in group.get_measurements()}
        assert values == {"Certainty of Finding": 100 * of_group.score, "Diameter": 3.5}
        assert group.finding_type.meaning == "Cerebral microbleed"


def test_a_report_says_region_and_side_where_they_are_known(series, tmp_path):
    known = replace(lesion(1, ROUND), region="deep", side="right")
    write_report(tmp_path / "sr.dcm", series[1], [known, lesion(2, ROUND)], "ssd512", 0.16)
    sites = [group.finding_sites[0] for group in groups_of(tmp_path / "sr.dcm")]
    said = [(site.laterality, site.topographical_modifier) for site in sites]
    assert [tuple(code and code.meaning for code in pair) for pair in said] == [
        ("Right", "Deep (BOMBS)"),
        (None, None),
    ]


def test_a_report_without_microbleeds_counts_none_and_is_of_its_images_patient_and_study(series, tmp_path):
    images, headers = series
    write_report(tmp_path / "sr.dcm", headers, [], "ssd512", 0.5)
    assert groups_of(tmp_path / "sr.dcm") == []
    (count,) = hd.sr.srread(tmp_path / "sr.dcm").content.get_image_measurement_groups()
    (number,) = count.get_measurements(name=codes.SCT.NumberOfLesions)
    assert number.value == 0
    report = dcmread(tmp_path / "sr.dcm")
    assert (report.PatientName, report.PatientID, report.StudyID) == ("Doe^Jane", "P1", "7")
    assert report.StudyInstanceUID == images[0].StudyInstanceUID
    assert report.SeriesInstanceUID != images[0].SeriesInstanceUID
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    named = [item.ReferencedSOPInstanceUID for item in evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence]
    assert sorted(named) == sorted(image.SOPInstanceUID for image in images)


def test_a_segmentation_has_an_ellipse_in_each_box_and_the_same_tracking_uids(series, tmp_path):
    images, headers = series
    lesions = [lesion(1, ROUND), lesion(2, {1: [40.1, 50.1, 0.3, 0.3]}, 0.25)]
    write_segmentation(tmp_path / "none.dcm", headers, [], "ssd512")
    assert not (tmp_path / "none.dcm").exists()
    write_segmentation(tmp_path / "seg.dcm", headers, lesions, "ssd512")
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    tracking = [segmentation.get_segment_description(number).tracking_uid for number in (1, 2)]
    assert tracking == [each.uid for each in lesions]
    uids = [image.SOPInstanceUID for image in images]
    pixels = segmentation.get_pixels_by_source_instance(uids[:2], combine_segments=True)
    assert pixels.shape == (2, SIDE, SIDE)
    rows, columns = np.nonzero(pixels[0] == 1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 25, 10, 13)
    assert (pixels[0] == 1).sum() < 4 * 6
    np.testing.assert_array_equal(np.argwhere(pixels[1] == 2), [[50, 40]])
    assert uids[2] not in {uid for _, _, uid in segmentation.get_source_image_uids()}


@pytest.mark.parametrize("uids", [{"StudyInstanceUID": ""}, {"FrameOfReferenceUID": ""}, None])
def test_without_a_frame_of_reference_or_study_there_is_no_segmentation(tmp_path, uids):
    if uids is None:
        write(tmp_path / "in", mr_series(random_volume(), SAGITTAL))
    else:
        dicom_head(tmp_path / "in", slices=3, **{"FrameOfReferenceUID": "1.2.3", **uids})
    headers, lesions = find_series(tmp_path / "in")[0], [lesion(1, {0: [1, 2, 3, 4]})]
    with refused(tmp_path, r"in.\d+\.dcm"):
        write_segmentation(tmp_path / "seg.dcm", headers, lesions, "ssd512")
    if uids is None:
        write_report(tmp_path / "sr.dcm", headers, lesions, "ssd512", 0.5)
        assert len(groups_of(tmp_path / "sr.dcm")) == 1


def test_frames_of_a_multi_frame_file_are_named_whatever_their_order(tmp_path):
    image = enhanced(random_volume(3), ["MAGNITUDE"])  # from the head down: the lowest slice is frame 3
    image.FrameOfReferenceUID = "1.2.3"
    write(tmp_path / "in", [image])
    (headers,) = find_series(tmp_path / "in")
    lesions = [lesion(1, {0: [2, 3, 4, 4], 1: [2, 3, 4, 4]})]
    write_report(tmp_path / "sr.dcm", headers, lesions, "ssd512", 0.5)
    (group,) = groups_of(tmp_path / "sr.dcm")
    sources = [region.ContentSequence[0] for region in group.roi]
    assert [source.referenced_frame_numbers for source in sources] == [[3], [2]]
    assert {source.referenced_sop_instance_uid for source in sources} == {image.SOPInstanceUID}
    write_segmentation(tmp_path / "seg.dcm", headers, lesions, "ssd512")
    frames = hd.seg.segread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
    heights = sorted(frame.PlanePositionSequence[0].ImagePositionPatient[2] for frame in frames)
    assert heights == [position[2] for position in headers.positions_mm[:2]]


def test_what_rules_of_anatomy_strike_out_is_named_and_counts_nowhere(tmp_path):
    dicom_head(tmp_path / "in", slices=4, FrameOfReferenceUID="1.2.3")  # a box of 3 mm on slices of 8 mm in all
    (kept,) = detect(tmp_path / "in", tmp_path / "kept").done
    assert kept.lesions == 1
    assert any("1 of 1 lesions" in note and "--by-anatomy" in note for note in kept.notes)
    result = detect(tmp_path / "in", tmp_path / "out", by_anatomy=True, sr=True, bids=True)
    assert pd.read_csv(tmp_path / "out" / "lesions.csv")["struck_out"].tolist() == ["along a vein"]
    row = read_json(tmp_path / "out" / "summary.json")["series"][0]
    assert (row["lesions"], row["struck_out"], row["pattern"]) == (0, {"along a vein": 1}, "none")
    assert groups_of(tmp_path / "out" / "sr" / f"{result.done[0].folder}.dcm") == []
    assert "struck out: along a vein" in (tmp_path / "out" / "pages" / "P1.html").read_text()
    assert pd.read_csv(tmp_path / "out" / "bids" / "participants.tsv", sep="\t")["microbleeds"].tolist() == [0]


@pytest.mark.parametrize(
    ("sequence", "noted"), [("SE", True), (["SE", "IR"], True), ("GR", False), (["SE", "GR"], False)]
)
def test_a_spin_echo_is_searched_with_a_note(sequence, noted, tmp_path):
    dicom_head(tmp_path / "in", slices=3, ScanningSequence=sequence)
    (done,) = detect(tmp_path / "in", tmp_path / "out").done
    assert any("spin echo" in note for note in done.notes) == noted


def test_headers_in_the_standards_other_ways_are_taken(tmp_path):
    name = "Yamada^Tarou=山田^太郎"
    images = dicom_head(tmp_path / "in", slices=3, FrameOfReferenceUID="1.2.3", NumberOfFrames=1)
    for image, path in zip(images, sorted((tmp_path / "in").iterdir()), strict=True):
        image.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        image.PatientName = name
        image.pop("SliceThickness", None)
        image.save_as(path)
    headers = find_series(tmp_path / "in")[0]
    write_report(tmp_path / "sr.dcm", headers, [lesion(1, ROUND)], "ssd512", 0.5)
    write_segmentation(tmp_path / "seg.dcm", headers, [lesion(1, ROUND)], "ssd512")
    assert dcmread(tmp_path / "sr.dcm").PatientName == dcmread(tmp_path / "seg.dcm").PatientName == name
    assert len(groups_of(tmp_path / "sr.dcm")[0].roi) == 2


def test_images_that_share_a_uid_have_no_report(tmp_path):
    images = dicom_head(tmp_path / "in", slices=2)
    images[1].SOPInstanceUID = images[0].SOPInstanceUID
    images[1].save_as(max((tmp_path / "in").iterdir()))
    with refused(tmp_path, "SOPInstanceUID"):
        write_report(tmp_path / "sr.dcm", find_series(tmp_path / "in")[0], [], "ssd512", 0.5)


def test_a_page_has_every_lesion_of_every_series_of_its_patient_and_needs_nothing_else(tmp_path):
    dicom_head(tmp_path / "in" / "a", "A&B", slices=3)
    dicom_head(tmp_path / "in" / "b", "A&B", slices=2, SeriesDescription="again")
    detect(tmp_path / "in", tmp_path / "out", threshold=0.2)
    page = (tmp_path / "out" / "pages" / "A_B.html").read_text()
    assert "<h1>Cerebral microbleeds: A&amp;B</h1>" in page
    assert page.count("<h2>") == 2
    assert page.count("<figcaption>") == 2 * len(BOXES)
    rows = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert [row.count("<tr>") for row in rows] == [4, 2] * 2  # regions, lesions
    assert "never for diagnosis" in page
    links = re.findall(r' (?:src|href)="([^"]+)"', page)
    inner = {link for link in links if link.startswith("#")}
    assert inner < {f"#{name}" for name in re.findall(r' id="([^"]+)"', page)}
    asked = [link for link in links if link not in inner]
    assert len(asked) == 3 + 2  # each slice once
    assert all(link.startswith("data:image/") for link in asked)


def test_feature_maps_are_drawn_of_the_best_slice_and_shown_in_the_page(tmp_path):
    model = build("ssd300-fe", width=0.125, default_boxes="cmb", detections_per_image=2).eval()
    detector = Detector(model, make_compute("cpu", "32-true"), "ssd300-fe")
    dicom_head(tmp_path / "in", slices=1)
    detect(tmp_path / "in", tmp_path / "out", detector, threshold=0.0, explain=True)
    (file,) = (tmp_path / "out" / "feature_maps").rglob("*.png")
    assert base64.b64encode(file.read_bytes()).decode() in (tmp_path / "out" / "pages" / "P1.html").read_text()
    assert np.asarray(Image.open(file)).std() > 10
