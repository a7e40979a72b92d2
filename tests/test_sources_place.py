"""Where voxels and microbleeds of an imported data set lie: in patient mm, from the written files and affines."""

import gzip
import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from source_world import (
    SHAPE,
    affine_of,
    assert_at,
    dou,
    head,
    imported,
    mask,
    places_mm,
    reported,
    save,
    valdo,
    workbook,
    write_voc,
)

from cmbfe.data.labelled.images import read_image, save_image
from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.data.sources.lesions import OTHER_VALUES, lesions_of_mask, lesions_of_points
from cmbfe.data.sources.public import read_workbook
from cmbfe.data.sources.series import Frame
from cmbfe.data.sources.volumes import RAS_TO_LPS, apply, read_turned, read_volume
from cmbfe.errors import InputError

DOTS = [(14, 20, 4), (25, 12, 6)]


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "ASL", "SPR", "LIP"])
@pytest.mark.parametrize("size", [None, 64])
def test_a_valdo_microbleed_lies_at_its_place_and_is_dark_there(tmp_path, codes, size):
    affine = affine_of(codes, tilt=0.1)
    imported("valdo", valdo(tmp_path, {"sub-101": DOTS}, affine), tmp_path / "out", size=size)
    assert_at(tmp_path / "out", affine, DOTS)
    labels = read_labels(tmp_path / "out" / LABELS_FILE)
    files = {image["id"]: image["file_name"] for image in labels["images"]}
    for box in labels["annotations"]:
        pixels = read_image(tmp_path / "out" / files[box["image_id"]])
        x, y, width, height = box["bbox"]
        assert pixels[int(y + height / 2), int(x + width / 2)] < 0.4 * np.median(pixels[pixels > 100])
        assert size is None or pixels.shape == (size, size)


def test_a_valdo_label_above_0_is_a_microbleed_whatever_its_value_and_one_per_component(tmp_path):
    source = valdo(tmp_path, {"sub-101": [*DOTS, (30, 30, 5)]})  # values 1, 2 and 3
    assert len(places_mm(imported("valdo", source, tmp_path / "out") and tmp_path / "out")) == 3
    assert reported(tmp_path / "out")[OTHER_VALUES] == 1


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS"])
def test_a_dou_microbleed_lies_at_its_place(tmp_path, codes):
    affine = affine_of(codes, (0.45, 0.45, 1.2), tilt=-0.05)
    imported("dou", dou(tmp_path / "in", {"01": DOTS, "02": []}, {"01": affine}), tmp_path / "out")
    assert_at(tmp_path / "out", affine, DOTS)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LIP"])
def test_a_momeni_microbleed_lies_at_its_place_with_the_real_ones_below_synthetic_ones(tmp_path, codes):
    affine, root = affine_of(codes, (0.94, 0.94, 1.75)), tmp_path / "in" / "PublicDataShare_2020"
    real, synthetic = "122_T1_MRI_SWI_BFC_50mm_HM", "122_T1_MRI_SWI_BFC_50mm_HM_rsCMB_3"
    save(root / "rCMB_DefiniteSubject" / f"{real}.nii.gz", head(dots=DOTS[:1]), affine)
    save(root / "sCMB_DefiniteSubject" / f"{synthetic}.nii.gz", head(dots=DOTS), affine)
    save(root / "NoCMBSubject" / "200_T0_MRI_SWI_BFC_50mm_HM.nii.gz", head(), affine)
    first, second = ([str(value + 1) for value in dot] for dot in DOTS)
    row = [f"{real}.nii.gz", *first, " ", "  ", " "]
    workbook(root / "rCMBInformationInfo.xlsx", [row, row, [None] * 4])
    workbook(root / "sCMBInformationInfo.xlsx", [[f"{synthetic}.nii.gz", *map(int, second)]])
    labels = imported("momeni", tmp_path / "in", tmp_path / "out", box_mm=4)
    assert {image["patient_id"] for image in labels["images"]} == {"122", "200"}
    assert_at(tmp_path / "out", affine, DOTS[:1], prefix="122-1/")
    assert_at(tmp_path / "out", affine, DOTS, prefix="122-2/")
    spacing = labels["images"][0]["pixel_spacing_mm"]
    assert np.allclose([box["bbox"][2] * spacing[1] for box in labels["annotations"]], 4)
    assert any(text.startswith("repeated rows") for text in reported(tmp_path / "out", "left_out"))


@pytest.mark.parametrize("coordinates", ["voxel-0", "voxel-1", "ras-mm", "lps-mm"])
def test_a_point_of_a_description_lies_at_its_place(tmp_path, coordinates):
    affine = affine_of("ASL", (1.0, 0.6, 0.8), tilt=0.2)
    save(tmp_path / "in" / "anna" / "swi.nii.gz", head(dots=DOTS), affine)
    ras = apply(affine, np.array(DOTS, float))
    place = {"voxel-0": DOTS, "voxel-1": np.array(DOTS) + 1, "ras-mm": ras, "lps-mm": ras * [-1, -1, 1]}[coordinates]
    table = "x,y,z,patient,diameter_mm\n" + "".join(f"{','.join(map(str, row))},anna,3\n" for row in place)
    (tmp_path / "in" / "points.csv").write_text(table)
    description = {"images": "{patient}/swi.nii.gz", "points": "points.csv", "coordinates": coordinates}
    (tmp_path / "in" / "import.yaml").write_text(yaml.safe_dump(description))
    imported("nifti", tmp_path / "in", tmp_path / "out")
    assert_at(tmp_path / "out", affine, DOTS)


def test_a_mask_of_a_description_may_lie_in_another_orientation_than_its_volume(tmp_path):
    affine = affine_of("RAS", tilt=0.1)
    save(tmp_path / "in" / "a_1.nii.gz", head(dots=DOTS), affine)
    label = nib.Nifti1Image(mask(SHAPE, DOTS), affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple("PIR")))
    nib.save(label.as_reoriented(turn), tmp_path / "in" / "label.nii.gz")
    file = tmp_path / "in" / "a.yaml"
    file.write_text('images: "{patient}_{series}.nii.gz"\nmask: label.nii.gz')
    imported("nifti", file, tmp_path / "out")
    assert_at(tmp_path / "out", affine, DOTS)


@pytest.mark.parametrize("kind", ["coco", "voc"])
@pytest.mark.parametrize("size", [None, 96])
def test_labelled_images_keep_their_boxes_on_what_they_mark(tmp_path, kind, size):
    pixels = np.full((40, 60), 200, np.uint8)
    pixels[10:15, 30:36] = 0
    for number in range(2):
        save_image(tmp_path / "in" / "anna" / f"{number}.png", pixels)
    image = {"width": 60, "height": 40, "pixel_spacing_mm": [0.5, 0.5]}
    labels = {
        "images": [{"id": n, "file_name": f"anna/{n}.png", "slice_index": 5 - n, **image} for n in range(2)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [30, 10, 6, 5], "lesion_id": "x"}],
        "categories": [{"id": 7, "name": "cmb"}],
    }
    if kind == "coco":
        (tmp_path / "in" / "labels.json").write_text(json.dumps(labels))
    else:
        write_voc(labels, tmp_path / "in")
    result = imported(kind, tmp_path / "in", tmp_path / "out", size=size)
    assert [(image["file_name"], image["slice_index"]) for image in result["images"]] == [
        ("anna/000.png", 4),
        ("anna/001.png", 5),
    ]
    (box,) = result["annotations"]
    assert box["image_id"] == result["images"][0]["id"]
    out = read_image(tmp_path / "out" / "anna" / "000.png")
    x, y, width, height = box["bbox"]
    frame = Frame(40, 60, 0.5, 0.5, size)
    left, top = frame.offset
    inner = out[top : top + frame.inner[0], left : left + frame.inner[1]]
    found = np.argwhere(inner < 100).mean(axis=0) + 0.5 + [top, left]
    assert np.abs(found - [y + height / 2, x + width / 2]).max() <= 0.5 * frame.scale[0]


@pytest.mark.parametrize(("named", "stem"), [("{patient}", "anna"), ("{patient}_{series}", "anna_1")])
def test_labels_beside_their_volumes_are_not_taken_for_volumes_nor_are_hidden_files(tmp_path, named, stem):
    affine = affine_of("LPS")
    save(tmp_path / "in" / f"{stem}.nii.gz", head(dots=DOTS), affine)
    save(tmp_path / "in" / f"{stem}_cmb.nii.gz", mask(SHAPE, DOTS), affine)
    (tmp_path / "in" / f"._{stem}.nii.gz").write_text("of another system")
    (tmp_path / "in" / "import.yaml").write_text(f"images: '{named}.nii.gz'\nmask: '{named}_cmb.nii.gz'")
    labels = imported("nifti", tmp_path / "in", tmp_path / "out")
    assert {image["patient_id"] for image in labels["images"]} == {"anna"}
    assert_at(tmp_path / "out", affine, DOTS)


def described(root, **keys):
    """A description of volumes with points, and how many microbleeds each patient has once it is imported."""
    (root / "import.yaml").write_text(yaml.safe_dump({"points": "points.csv", "coordinates": "voxel-0", **keys}))
    labels = imported("nifti", root, root.parent / "out")
    patient_of = {image["id"]: image["patient_id"] for image in labels["images"]}
    return Counter(patient_of[box["image_id"]] for box in labels["annotations"] if box["lesion_id"].endswith("1"))


@pytest.mark.parametrize("patient", ["NA", "None", "007", "1e5"])
def test_a_patient_may_have_any_name(tmp_path, patient):
    save(tmp_path / "in" / f"{patient}.nii", head(dots=DOTS[:1]), affine_of("LPS"))
    row = ",".join(map(str, DOTS[0]))
    (tmp_path / "in" / "points.csv").write_text(f"x,y,z,patient,\n{row}, {patient} ,\n , ,,\n")
    assert set(described(tmp_path / "in", images="{patient}.nii")) == {patient}


@pytest.mark.parametrize("table", [
    "\ufeffX, Y ,Z,Patient,Diameter_mm,reader\n14,20,4,anna,,a\n",
    *("x;y;z;patient\n14;20;4;anna\n", "x\ty\tZ\tPATIENT\n14\t20\t4\tanna\n"),
])  # fmt: skip
def test_a_header_in_capitals_another_separator_and_an_empty_diameter_are_read(tmp_path, table):
    for patient in ("anna", "bert"):
        save(tmp_path / "in" / f"{patient}.nii", head(dots=DOTS[:1]), affine_of("LPS"))
    (tmp_path / "in" / "points.csv").write_text(table, encoding="utf-8")
    assert set(described(tmp_path / "in", images="{patient}.nii", without_label="no microbleeds")) == {"anna"}


@pytest.mark.parametrize(
    "pattern", ["./swi[1]/{patient}_*.nii", "swi[1]/{patient}_{series}.nii", "swi[1]/{patient}_**"]
)
def test_a_pattern_means_what_it_says(tmp_path, pattern):
    save(tmp_path / "in" / "swi[1]" / "anna_a.nii", head(dots=DOTS[:1]), affine_of("LPS"))
    (tmp_path / "in" / "points.csv").write_text(f"x,y,z\n{','.join(map(str, DOTS[0]))}\n")
    assert sum(described(tmp_path / "in", images=pattern).values()) > 0


@pytest.mark.parametrize("pattern", ["{patient}_{series}.nii", "{patient}{series}.nii", "{patient}*.nii"])
def test_a_pattern_that_fits_a_name_in_several_ways_is_refused(tmp_path, pattern):
    save(tmp_path / "sub_01_swi.nii", head(dots=DOTS[:1]), affine_of("LPS"))
    (tmp_path / "points.csv").write_text("x,y,z\n")
    with pytest.raises(InputError, match=r"sub_01_swi\.nii: images: .* in several ways"):
        described(tmp_path, images=pattern)


def test_empty_rows_of_a_streamed_workbook_are_passed_over(tmp_path):
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("Sheet")
    for row in (["NIFTI File Name ", "x"], [], ["122_T1.nii.gz", 1, 2, 3], []):
        sheet.append(row)
    book.save(tmp_path / "info.xlsx")
    (row,) = read_workbook(tmp_path / "info.xlsx")
    assert (row.name, row.places, row.where[-5:]) == ("122_T1", ((1, 2, 3),), "row 3")


AXES = st.permutations(["LR", "PA", "IS"]).flatmap(lambda axes: st.tuples(*map(st.sampled_from, axes))).map("".join)
TILTS = st.floats(-0.3, 0.3)
SPACINGS = st.tuples(*[st.floats(0.3, 4.0)] * 3)


@settings(deadline=None, max_examples=30)
@given(codes=AXES, spacing=SPACINGS, tilt=TILTS, shape=st.tuples(*[st.integers(1, 6)] * 3), seed=st.integers(0, 99))
def test_a_turned_volume_keeps_every_voxel_at_its_place(tmp_path_factory, codes, spacing, tilt, shape, seed):
    """Each voxel of the file is found in the turned volume where the affines say, whatever the orientation."""
    voxels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    affine = affine_of(codes, spacing, tilt)
    path = save(tmp_path_factory.mktemp("nifti") / "one.nii", voxels, affine)
    volume = read_turned(path)
    index = np.array([np.random.default_rng(seed + 1).integers(0, shape)], float)
    column, row, plane = np.rint(apply(volume.from_file, index)[0]).astype(int)
    assert volume.voxels[plane, row, column] == voxels[tuple(index[0].astype(int))]
    expected = apply(RAS_TO_LPS @ affine, index)
    np.testing.assert_allclose(apply(volume.affine, np.array([[column, row, plane]])), expected, atol=1e-3)
    assert nib.aff2axcodes(RAS_TO_LPS @ volume.affine) == ("L", "P", "S")
    nearest = np.abs(volume.affine[:3, :3]).argmax(axis=0)
    if abs(tilt) < 0.2:
        assert nearest.tolist() == [0, 1, 2]


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.3, 3), st.floats(0.3, 3), st.integers(32, 200))
def test_a_frame_moves_boxes_and_affine_alike(rows, columns, row_mm, column_mm, size):
    frame = Frame(rows, columns, row_mm, column_mm, size)
    affine = affine_of("LPS", (column_mm, row_mm, 2.0), tilt=0.1)
    box = [columns / 4, rows / 3, columns / 2, rows / 2]
    places = [
        apply(of, np.array([[x + width / 2 - 0.5, y + height / 2 - 0.5, 3]]))
        for of, (x, y, width, height) in ((affine, box), (frame.affine(affine), frame.box(box)))
    ]
    np.testing.assert_allclose(*places, atol=1e-6)
    x, y, width, height = frame.box([0, 0, columns, rows])
    assert min(x, y) >= 0
    assert max(x + width, y + height) <= size + 1e-9


def test_voxels_that_touch_with_a_corner_are_one_microbleed():
    voxels = np.zeros((3, 5, 5))
    voxels[0, 1, 1] = voxels[1, 2, 2] = voxels[2, 4, 0] = 1
    lesions, _ = lesions_of_mask(voxels, (1, 1, 1), Path("here"))
    assert lesions == [{0: [1, 1, 1, 1], 1: [2, 2, 1, 1]}, {2: [0, 4, 1, 1]}]
    assert lesions_of_mask(np.zeros((2, 3, 3)), (1, 1, 1), Path("here"))[0] == []


def test_a_point_has_a_box_on_every_slice_within_half_its_size_and_on_its_own():
    places = np.array([[5, 4, 2.0], [0, 0, 3.4]])
    near, thin = lesions_of_points(places, [4, 1], (6, 10, 12), (2, 0.5, 1), "here")
    assert near == {1: [3.5, 0.5, 4, 8], 2: [3.5, 0.5, 4, 8], 3: [3.5, 0.5, 4, 8]}
    assert thin == {3: [0, 0, 1, 1.5]}
    for rounded in (2 + 1e-6, 2 - 1e-6):  # as headers have it
        assert lesions_of_points(places[:1], [4], (6, 10, 12), (rounded, 0.5, 1), "here")[0].keys() == near.keys()


def test_an_affine_that_gives_no_place_is_refused(tmp_path):
    for width in (0.0, 1e-6, np.nan, np.inf, 1e9):
        image = nib.Nifti1Image(head(), None)
        image.header.set_sform(np.diag([1.0, width, 1.0, 1.0]), code=1)
        nib.save(image, tmp_path / "two.nii")
        with pytest.raises(InputError, match=r"two\.nii: its affine gives no place"):
            read_volume(tmp_path / "two.nii")


def test_a_changed_bit_in_a_packed_volume_is_noticed(tmp_path):
    path = save(tmp_path / "one.nii.gz", head(), affine_of("LPS"))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"one\.nii\.gz: .* damaged or cut off: CRC"):
        read_volume(path)


@pytest.mark.parametrize("name", ["one.nii", "one.nii.gz"])
def test_a_header_that_announces_more_than_there_is_takes_no_memory(tmp_path, name):
    path = save(tmp_path / "small.nii", np.zeros((2, 2, 2), np.float32), affine_of("LPS"))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([30000] * 3, "<i2").tobytes()  # dim[1] to dim[3]: 100 TB
    (tmp_path / name).write_bytes(gzip.compress(bytes(content)) if name.endswith(".gz") else bytes(content))
    with pytest.raises(InputError, match="108000000000352 bytes are announced, 384 are there"):
        read_volume(tmp_path / name)
