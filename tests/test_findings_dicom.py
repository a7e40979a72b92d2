"""DICOM objects of what was found: highdicom reads them back, with the same boxes and the right UIDs."""

import highdicom as hd
import numpy as np
import pytest
from dicom_series import SAGITTAL, enhanced, mr_series, random_volume, write
from findings_world import BOXES, detect
from pydicom import dcmread
from pydicom.sr.codedict import codes
from tiny_world import SIDE, dicom_head, refused

from cmbfe.data.dicom.series import find_series
from cmbfe.errors import InputError
from cmbfe.findings.dicom_objects import write_report, write_segmentation
from cmbfe.findings.lesions import Lesion


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


def test_both_are_written_by_detect_on_request_only(tmp_path):
    images = dicom_head(tmp_path / "in", slices=2, FrameOfReferenceUID="1.2.3")
    detect(tmp_path / "in", tmp_path / "plain")
    assert not list((tmp_path / "plain").rglob("*.dcm"))
    detect(tmp_path / "in", tmp_path / "out", sr=True, segmentation=True, threshold=0.2)
    regions = [region for group in groups_of(tmp_path / "out" / "sr" / "P1.dcm") for region in group.roi]
    assert {tuple(region.value[[0, 2]].ravel().tolist()) for region in regions} == set(BOXES)
    named = {region.ContentSequence[0].referenced_sop_instance_uid for region in regions}
    assert named == {image.SOPInstanceUID for image in images}
    assert hd.seg.segread(tmp_path / "out" / "segmentation" / "P1.dcm").number_of_segments == 2


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
    with pytest.raises(InputError, match="SOPInstanceUID"):
        write_report(tmp_path / "sr.dcm", find_series(tmp_path / "in")[0], [], "ssd512", 0.5)
