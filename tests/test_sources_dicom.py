"""DICOM of a scanner with labels of others: where microbleeds lie, which slice a label names, what is refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from dicom_series import AXIAL, OBLIQUE, SAGITTAL, mr_series, mr_slice, write
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, SecondaryCaptureImageStorage
from source_world import imported, reported, write_voc
from tiny_world import BOX, SIDE, dicom_head, dicom_labels, refused, tiny_head

from cmbfe.data.dicom.finding import NO_IMAGE
from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE, Labels, read_labels
from cmbfe.data.sources.voc import FROM_0
from cmbfe.files import read_json

HEAD_FIRST_PRONE = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
UPSIDE_DOWN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
"""Its slices run from head to feet."""


def labels_by_name(names: Sequence[str], boxed: int = 1) -> Labels:
    """COCO labels of slices by the names of their files, with one box on one of them."""
    images = [{"id": n, "file_name": name, "width": SIDE, "height": SIDE} for n, name in enumerate(names, 1)]
    box = {"id": 1, "image_id": boxed + 1, "category_id": 1, "bbox": BOX}
    return {"images": images, "annotations": [box], "categories": CATEGORIES}


def give(folder: Path, labels: Labels, form: str) -> Path:
    """Write labels as COCO or VOC; returns what --labels takes."""
    if form == "voc":
        images = [{**image, "file_name": f"{image['file_name']}.tif"} for image in labels["images"]]
        write_voc({**labels, "images": images}, folder)
        for file in folder.rglob("*.xml"):
            file.write_text(file.read_text().replace(".tif<", "<"))
        return folder
    folder.mkdir(parents=True)
    (folder / "any_name.json").write_text(json.dumps(labels))
    return folder / "any_name.json"


@pytest.mark.parametrize("size", [None, 96])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, SAGITTAL, HEAD_FIRST_PRONE, UPSIDE_DOWN])
def test_a_dicom_microbleed_lies_at_its_place_and_is_dark_there(tmp_path, orientation, size):
    images = mr_series(tiny_head(4), orientation)
    write(tmp_path / "in", images)
    (tmp_path / "in" / LABELS_FILE).write_text(json.dumps(dicom_labels(images)))
    labels = imported("dicom", tmp_path / "in", tmp_path / "out", size=size)
    (box,) = labels["annotations"]
    (image,) = (image for image in labels["images"] if image["id"] == box["image_id"])
    x, y, width, height = box["bbox"]
    affine = np.array(read_json(tmp_path / "out" / "series.json")[image["series_uid"]]["affine"])
    found = affine @ [x + width / 2 - 0.5, y + height / 2 - 0.5, image["slice_index"], 1]
    # DICOM PS3.3 C.7.6.2.1.1, by hand: pixels are 0.5 mm high and 0.75 mm wide.
    right, down = np.array(orientation[:3]) * 0.75, np.array(orientation[3:]) * 0.5
    column, row = BOX[0] + BOX[2] / 2 - 0.5, BOX[1] + BOX[3] / 2 - 0.5
    np.testing.assert_allclose(found[:3], images[1].ImagePositionPatient + column * right + row * down, atol=0.01)
    pixels = read_image(tmp_path / "out" / image["file_name"])
    assert pixels[int(y + height / 2), int(x + width / 2)] < 0.5 * np.median(pixels[pixels > 100])


def test_labels_and_mimics_move_to_the_images_with_what_is_known_of_them(tmp_path):
    images = dicom_head(tmp_path / "in" / "a", "P1") + dicom_head(tmp_path / "in" / "b", "P2")
    labels = dicom_labels(images, split="train")
    labels["images"][0]["width"] = float(SIDE)
    labels["annotations"][0] |= {"location": "lobar", "visible_diameter_mm": 3.5, "iscrowd": 0}
    kinds = [{"id": 1, "name": "iron"}, {"id": 2, "name": "vein"}]
    (tmp_path / "in" / LABELS_FILE).write_text(json.dumps(labels))
    (tmp_path / "in" / MIMICS_FILE).write_text(json.dumps({**labels, "categories": kinds}))
    new = imported("dicom", tmp_path / "in", tmp_path / "out")
    moved = {"area": BOX[2] * BOX[3], "bbox": pytest.approx(BOX), "lesion_id": "P1/1", "image_id": 2}
    assert new["annotations"] == [{**labels["annotations"][0], **moved}]
    mimics = read_labels(tmp_path / "out" / MIMICS_FILE)
    assert (mimics["images"], mimics["categories"]) == (new["images"], kinds)
    assert mimics["annotations"] == new["annotations"]
    assert {image["split"] for image in new["images"]} == {"train"}


@pytest.mark.parametrize("form", ["coco", "voc"])
@pytest.mark.parametrize(
    "name",
    [
        lambda path, image: f"a/{path.name}",
        lambda path, image: f"in/a/{path.stem}.png",
        lambda path, image: str(image.SOPInstanceUID),
        lambda path, image: f"exported/{image.SOPInstanceUID}.dcm",
    ],
    ids=["path", "image of that name", "UID", "UID.dcm"],
)
def test_a_label_names_its_slice_by_file_name_or_uid(tmp_path, form, name):
    images = dicom_head(tmp_path / "in" / "a", "P1")
    dicom_head(tmp_path / "in" / "b", "P2")
    paths = sorted((tmp_path / "in" / "a").iterdir())
    labels = labels_by_name([name(*pair) for pair in zip(paths, images, strict=True)], boxed=2)
    given = give(tmp_path / "given", labels, form)
    result = imported("dicom", tmp_path / "in", tmp_path / "out", labels=given)
    (box,) = result["annotations"]
    (image,) = (image for image in result["images"] if image["id"] == box["image_id"])
    assert (image["patient_id"], image["slice_index"]) == ("P1", 2)
    assert image["sop_instance_uid"] == images[2].SOPInstanceUID
    assert box["bbox"] == pytest.approx(BOX, abs=0.01)


def test_voc_beside_the_slices_is_found_and_other_xml_is_not(tmp_path):
    dicom_head(tmp_path / "in")
    (tmp_path / "in" / "export.xml").write_text("<study><patient>1</patient></study>")
    assert imported("dicom", tmp_path / "in", tmp_path / "none")["annotations"] == []
    assert any(note.startswith("no labels") for note in reported(tmp_path / "none"))
    write_voc(labels_by_name(["000.dcm", "001.dcm"]), tmp_path / "in")
    labels = imported("dicom", tmp_path / "in", tmp_path / "out")
    assert [box["image_id"] for box in labels["annotations"]] == [2]
    notes = reported(tmp_path / "out")
    assert notes["slices that no label names, in series that labels name: taken to have no microbleeds"] == 2
    assert notes[FROM_0] == 1


def test_a_patient_or_an_echo_that_nobody_labelled_does_not_count_as_free_of_microbleeds(tmp_path):
    images = dicom_head(tmp_path / "in" / "a", "P1")
    dicom_head(tmp_path / "in" / "echo", "P1", EchoTime=20.0, EchoNumbers=2)
    dicom_head(tmp_path / "in" / "phase", "P1", ImageType=["ORIGINAL", "PRIMARY", "P"])
    dicom_head(tmp_path / "in" / "b", "P2", slices=2)
    for patient in ("P3", "P4"):
        images += dicom_head(tmp_path / "in" / patient, patient, slices=1)
    (tmp_path / "in" / LABELS_FILE).write_text(json.dumps(dicom_labels(images)))
    labels = imported("dicom", tmp_path / "in", tmp_path / "out")
    splits = {image["patient_id"]: image["split"] for image in labels["images"]}
    assert splits.pop("P2") == "unlabelled"
    assert set(splits.values()) == {"train", "test", "validation"}
    assert len(labels["images"]) == 8
    left_out = reported(tmp_path / "out", "left_out")
    assert left_out == {
        "images of kind phase": 4,
        "images of magnitude series that no label names, of patients that labels name": 4,
    }


def test_an_id_as_long_as_it_may_be_and_none_at_all_have_folders(tmp_path):
    dicom_head(tmp_path / "in" / "a", "../../etc/" + "x" * 54, slices=1)
    dicom_head(tmp_path / "in" / "b", "", slices=1)
    labels = imported("dicom", tmp_path / "in", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    assert len({image["file_name"].split("/")[0] for image in labels["images"]}) == 2
    assert any(note.startswith("series without a PatientID") for note in reported(tmp_path / "out"))


def spoiled(change: Callable[[list[Dataset], Labels], object]) -> Callable[[Path, list[Dataset]], None]:
    def spoil(root: Path, images: list[Dataset]) -> None:
        labels = dicom_labels(images)
        change(images, labels)
        (root / LABELS_FILE).write_text(json.dumps(labels))

    return spoil


def named(*names: str) -> Callable[[Path, list[Dataset]], None]:
    return lambda root, images: (root / LABELS_FILE).write_text(json.dumps(labels_by_name(names)))


def third(**attributes: str) -> Callable[[Path, list[Dataset]], None]:
    def spoil(root: Path, images: list[Dataset]) -> None:
        images[2].update(attributes)
        write(root / "a", images)

    return spoil


def coco_and_voc(root: Path, images: list[Dataset]) -> None:
    write_voc(labels_by_name(["a/000.dcm", "a/001.dcm"]), root / "voc")
    (root / LABELS_FILE).write_text(json.dumps(dicom_labels(images)))


SPOILED = {
    "burned-in text": (third(BurnedInAnnotation="YES"), r"a/002\.dcm: BurnedInAnnotation \(0028,0301\) is YES"),
    "unknown name": (named("a/000.dcm", "a/0001.dcm"), r"image 2 \(a/0001.dcm\): no slice .* has this name"),
    "another folder": (named("c/000.dcm", "a/001.dcm"), r"image 1 \(c/000.dcm\): no slice .* has this name"),
    "ambiguous name": (named("000.dcm", "a/001.dcm"), r"image 1 \(000.dcm\): 2 slices have this name; give the path"),
    "named twice": (named("a/000.dcm", "a/000.png"), r"image 2 \(a/000.png\): is the slice of image 1 \(a/000.dcm\)"),
    "unknown UID": (
        spoiled(lambda _, labels: labels["images"][0].update(sop_instance_uid="1.2")),
        r"image 10 \(10.dcm\): no slice of a magnitude series has its UID 1.2",
    ),
    "other size": (
        spoiled(lambda _, labels: labels["images"][0].update(width=80)),
        r"image 10 \(10.dcm\): 80 x 64 px, but the DICOM slice has 64 x 64",
    ),
    "two splits": (
        spoiled(lambda _, labels: [image.update(split=f"{image['id'] % 2}") for image in labels["images"]]),
        "patient 'P1' is in two splits",
    ),
    "COCO and VOC": (coco_and_voc, r"holds annotations\.json and VOC XML; say which"),
    "a missing slice": (lambda root, _: (root / "a" / "001.dcm").unlink(), r"000\.dcm: slice missing"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_bad_dicom_or_labels_are_named_in_one_line_and_leave_nothing_behind(tmp_path, case):
    images = dicom_head(tmp_path / "in" / "a", "P1")
    dicom_head(tmp_path / "in" / "b", "P2")
    spoil, reason = SPOILED[case]
    spoil(tmp_path / "in", images)
    with refused(tmp_path, reason):
        imported("dicom", tmp_path / "in", tmp_path / "deep" / "out")


NO_PLACE = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
RGB = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB", "PixelData": b"\0" * 12}
CAPTURE = {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT", **NO_PLACE}


@pytest.mark.parametrize("attributes", [
    CAPTURE,
    {**CAPTURE, **RGB},
    {"SOPClassUID": ComputedRadiographyImageStorage, "Modality": "CR", "SeriesInstanceUID": "1.2.3", **NO_PLACE},
    {**RGB, "SeriesInstanceUID": "1.2.3", "ImageType": ["DERIVED", "SECONDARY", "RELCBF"]},
])  # fmt: skip
def test_what_is_no_grey_image_of_mr_is_passed_over(tmp_path, attributes):
    (first, *_) = dicom_head(tmp_path / "in" / "a")
    own = {"SeriesInstanceUID": first.SeriesInstanceUID, **attributes}
    write(tmp_path / "in" / "b", [mr_slice(np.zeros((2, 2), np.uint8), **own)])
    assert len(imported("dicom", tmp_path / "in", tmp_path / "out")["images"]) == 4
    assert reported(tmp_path / "out", "left_out") == {NO_IMAGE: 1}
    with refused(tmp_path, f"no DICOM image there, but .*{NO_IMAGE}"):
        imported("dicom", tmp_path / "in" / "b", tmp_path / "none")


def test_text_in_a_image_that_is_left_out_does_not_matter(tmp_path):
    dicom_head(tmp_path / "in" / "a")
    dicom_head(tmp_path / "in" / "b", ImageType=["ORIGINAL", "PRIMARY", "P"], BurnedInAnnotation="YES")
    dicom_head(tmp_path / "in" / "c", "P2", BurnedInAnnotation="NO")
    assert len(imported("dicom", tmp_path / "in", tmp_path / "out")["images"]) == 8
