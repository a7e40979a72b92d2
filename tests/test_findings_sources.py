"""What a source holds, and what becomes of the series that cannot be looked at."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from dicom_series import write
from findings_world import BOXES, detect
from nifti_files import SHAPE, affine_of, head, save
from tiny_world import dicom_head, labelled_images, tree

from cmbfe.errors import InputError


def summary(out) -> dict:
    return json.loads((out / "summary.json").read_text())


def test_nifti_volumes_are_detected_in_and_lesions_have_their_place_in_the_patient(tmp_path):
    affine = affine_of("LPS")  # as DICOM lies: no turning; pixels of 0.5 mm along x, 0.7 along y, slices of 2 mm
    save(tmp_path / "in" / "sub-01" / "anat" / "swi.nii.gz", head(), affine, descrip="Doe Jane")
    save(tmp_path / "in" / "sub-01" / "again.nii", head(), affine)
    save(tmp_path / "in" / "002.nii.gz", head(), affine_of("RAS", tilt=0.1))
    result = detect(tmp_path / "in", tmp_path / "out", threshold=0.7)
    assert [(one.patient, one.images, one.lesions) for one in result.done] == [
        ("002", SHAPE[2], 1),
        ("sub-01", SHAPE[2], 1),
        ("sub-01", SHAPE[2], 1),
    ]
    lesions = pd.read_csv(tmp_path / "out" / "lesions.csv", dtype={"patient_id": str})
    x_min, y_min, x_max, y_max = BOXES[0]
    voxel = [(x_min + x_max) / 2 - 0.5, (y_min + y_max) / 2 - 0.5, (SHAPE[2] - 1) / 2]
    ras = affine @ [*voxel, 1]
    place = lesions[lesions["patient_id"] == "sub-01"][["x_mm", "y_mm", "z_mm"]].to_numpy()
    np.testing.assert_allclose(place, [[-ras[0], -ras[1], ras[2]]] * 2, atol=0.01)
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [image["id"] for image in images] == list(range(1, 3 * SHAPE[2] + 1))
    assert sorted(path.name for path in (tmp_path / "out" / "pages").iterdir()) == ["002.html", "sub-01.html"]


def test_a_damaged_volume_is_left_out_and_the_others_are_not(tmp_path):
    save(tmp_path / "in" / "a.nii", head(), affine_of("LPS"))
    (tmp_path / "in" / "b.nii").write_bytes((tmp_path / "in" / "a.nii").read_bytes()[:1000])
    result = detect(tmp_path / "in", tmp_path / "out")
    assert [one.patient for one in result.done] == ["a"]
    assert re.search(r"b\.nii: its voxels cannot be read", result.left_out[0].line)
    assert summary(tmp_path / "out")["left_out"] == [{"patient": "b", "series": "b.nii", "why": "cannot be read"}]
    with pytest.raises(InputError, match=r"b\.nii: its voxels cannot be read"):
        detect(tmp_path / "in" / "b.nii", tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


def test_a_series_with_a_broken_file_is_left_out_whole_and_the_others_are_not(tmp_path):
    dicom_head(tmp_path / "in" / "a", "A", slices=3)
    dicom_head(tmp_path / "in" / "b", "B", slices=2)
    path = tmp_path / "in" / "a" / "002.dcm"  # the last slice: without it the series would look complete
    path.write_bytes(path.read_bytes()[:-100])
    result = detect(tmp_path / "in", tmp_path / "out")
    assert [one.patient for one in result.done] == ["B"]
    assert [one.patient for one in result.left_out] == ["A"]
    assert re.search(r"002\.dcm: truncated", result.left_out[0].line)


def test_a_missing_slice_costs_its_own_series(tmp_path):
    dicom_head(tmp_path / "in" / "a", "A", slices=4)
    dicom_head(tmp_path / "in" / "b", "B", slices=2)
    (tmp_path / "in" / "a" / "001.dcm").unlink()
    result = detect(tmp_path / "in", tmp_path / "out")
    assert [one.patient for one in result.done] == ["B"]
    assert "slice missing" in result.left_out[0].line


def test_a_file_that_does_not_say_whose_it_is_costs_the_series_of_its_folder(tmp_path):
    dicom_head(tmp_path / "in" / "a", "A", slices=2)
    dicom_head(tmp_path / "in" / "b", "B", slices=2)
    (tmp_path / "in" / "a" / "002.dcm").write_bytes(b"")
    result = detect(tmp_path / "in", tmp_path / "out")
    assert [one.patient for one in result.done] == ["B"]
    assert any(
        re.search(r"002\.dcm: empty file; it may be a slice of this series", one.line) for one in result.left_out
    )


def test_colour_images_of_the_same_study_do_not_matter(tmp_path):
    images = dicom_head(tmp_path / "in", slices=2)
    colour = images[0].copy()
    colour.SeriesInstanceUID, colour.SOPInstanceUID = "1.2.9", "1.2.9.1"
    colour.PhotometricInterpretation, colour.SamplesPerPixel = "RGB", 3
    write(tmp_path / "in", [colour], ["capture.dcm"])
    result = detect(tmp_path / "in", tmp_path / "out")
    assert len(result.done) == 1
    assert [one.series for one in result.left_out] == ["1.2.9"]


def test_ids_of_images_do_not_move_where_a_series_is_left_out(tmp_path):
    """They stay those of annotations.json of an import of the same folder."""
    dicom_head(tmp_path / "in" / "a", "A", slices=3, BurnedInAnnotation="YES")
    dicom_head(tmp_path / "in" / "b", "B", slices=2)
    detect(tmp_path / "in", tmp_path / "out")
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [image["id"] for image in images] == [4, 5]


def test_flagged_burned_in_annotation_is_refused_per_series(tmp_path):
    flagged = dicom_head(tmp_path / "in" / "a", "A", slices=2)
    flagged[1].BurnedInAnnotation = "YES"
    write(tmp_path / "in" / "a", flagged)
    dicom_head(tmp_path / "in" / "b", "B", slices=2, BurnedInAnnotation="NO")
    result = detect(tmp_path / "in", tmp_path / "out")
    assert [one.patient for one in result.done] == ["B"]
    why = "burned-in annotation is flagged in the header"
    assert [one["why"] for one in summary(tmp_path / "out")["left_out"]] == [why]
    assert not (tmp_path / "out" / "overlays" / "A").exists()
    with pytest.raises(InputError, match=r"a.001\.dcm: BurnedInAnnotation"):
        detect(tmp_path / "in" / "a", tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize("two", [("dicom", "nifti"), ("pictures", "nifti")])
def test_two_kinds_in_one_folder_are_refused(tmp_path, two):
    makers = {
        "dicom": lambda: dicom_head(tmp_path / "in"),
        "nifti": lambda: save(tmp_path / "in" / "a.nii", head(), affine_of("LPS")),
        "pictures": lambda: labelled_images(tmp_path / "in", 1),
    }
    for kind in two:
        makers[kind]()
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"in: holds .*; give a folder of one of the two"):
        detect(tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("options", [{"sr": True}, {"segmentation": True}, {"key_file": "key.json"}])
def test_what_images_do_not_have_is_refused_before_anything_is_made(tmp_path, options):
    labelled_images(tmp_path / "in", 1)
    if "key_file" in options:
        options = {"key_file": tmp_path / "key.json"}
    with pytest.raises(InputError, match="--"):
        detect(tmp_path / "in", tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_several_series_at_a_time_give_the_same_bytes(tmp_path):
    from findings_world import same_boxes
    from tiny_world import tiny_params

    from cmbfe.findings.run import Options, detect_files

    for letter in "abc":
        dicom_head(tmp_path / "in" / letter, letter.upper(), slices=2)
    detect(tmp_path / "in", tmp_path / "one")
    options = (tiny_params().images, Options(keep_ids=True), 3, "threading")
    detect_files(tmp_path / "in", same_boxes, tmp_path / "three", *options)
    assert tree(tmp_path / "one") == tree(tmp_path / "three")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_volume_without_a_place_costs_itself_only(tmp_path, value):
    save(tmp_path / "in" / "a.nii", head(), affine_of("LPS"))
    save(tmp_path / "in" / "b.nii", head(), affine_of("LPS"))
    content = bytearray((tmp_path / "in" / "b.nii").read_bytes())
    content[280:296] = np.full(4, value, "<f4").tobytes()  # srow_x
    (tmp_path / "in" / "b.nii").write_bytes(content)
    result = detect(tmp_path / "in", tmp_path / "out")
    assert [one.patient for one in result.done] == ["a"]
    assert "gives no place in the patient" in result.left_out[0].line


def test_linked_folders_are_looked_into(tmp_path):
    labelled_images(tmp_path / "elsewhere", 2)
    labelled_images(tmp_path / "in", 1)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "nowhere.png").symlink_to("nothing")
    assert sum(one.images for one in detect(tmp_path / "in", tmp_path / "out").done) == 3


@pytest.mark.parametrize("kind", ["source", "file"])
def test_a_link_to_itself_is_named(tmp_path, kind):
    dicom_head(tmp_path / "in")
    (tmp_path / "in" / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="loop: its links lead to themselves"):
        detect(tmp_path / "in" / "loop" if kind == "source" else tmp_path / "in", tmp_path / "out")


def test_a_program_under_the_name_of_a_image_is_not_run(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(InputError, match=r"a\.png: not a readable image"):
        detect(tmp_path / "in", tmp_path / "out")


def test_the_key_and_the_page_know_what_was_left_out(tmp_path):
    dicom_head(tmp_path / "in" / "a", "", SeriesInstanceUID="1.2.1")
    dicom_head(tmp_path / "in" / "b", "", slices=4, SeriesInstanceUID="1.2.2")
    dicom_head(tmp_path / "in" / "c", "P9", slices=4, SeriesInstanceUID="1.2.3")
    for folder in ("b", "c"):
        sorted((tmp_path / "in" / folder).iterdir())[1].unlink()
    detect(tmp_path / "in", tmp_path / "out", key_file=tmp_path / "key.json")
    assert sorted(json.loads((tmp_path / "key.json").read_text())["patients"].values()) == ["", "P9"]
    (page,) = (tmp_path / "out" / "pages").iterdir()
    assert "A series was left out" in page.read_text()
