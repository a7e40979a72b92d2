"""What a source holds, and what becomes of the series that cannot be looked at."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from findings_world import BOXES, SameBoxes, detect, same_boxes
from phase_world import head_with_phase, image_with_phase
from PIL import Image
from source_world import SHAPE, affine_of, head, save
from tiny_world import dicom_head, labelled_images, refused, tiny_params, tree

from cmbfe.data.labelled.images import save_image
from cmbfe.errors import InputError
from cmbfe.findings.model import Detector
from cmbfe.findings.run import Options, Result, detect_files
from cmbfe.training.devices import make_compute


def summary(out) -> dict:
    return json.loads((out / "summary.json").read_text())


def patients(result: Result) -> list[str]:
    return [series.patient for series in result.done]


def two_patients(folder, slices: int = 3) -> None:
    """A, of whom something is spoilt afterwards, and B."""
    dicom_head(folder / "a", "A", slices=slices)
    dicom_head(folder / "b", "B", slices=2)


def test_nifti_volumes_are_detected_in_and_lesions_have_their_place_in_the_patient(tmp_path):
    affine = affine_of("LPS")  # as DICOM lies: no turning; pixels of 0.5 mm along x, 0.7 along y, slices of 2 mm
    save(tmp_path / "in" / "sub-01" / "anat" / "swi.nii.gz", head(), affine, descrip="Doe Jane")
    save(tmp_path / "in" / "sub-01" / "again.nii", head(), affine)
    save(tmp_path / "in" / "002.nii.gz", head(), affine_of("RAS", tilt=0.1))
    result = detect(tmp_path / "in", tmp_path / "out", threshold=0.7)
    expected = [(patient, SHAPE[2], 1) for patient in ("002", "sub-01", "sub-01")]
    assert [(series.patient, series.images, series.lesions) for series in result.done] == expected
    lesions = pd.read_csv(tmp_path / "out" / "lesions.csv", dtype={"patient_id": str})
    x_min, y_min, x_max, y_max = BOXES[0]
    voxel = [(x_min + x_max) / 2 - 0.5, (y_min + y_max) / 2 - 0.5, (SHAPE[2] - 1) / 2]
    ras = affine @ [*voxel, 1]
    place = lesions[lesions["patient_id"] == "sub-01"][["x_mm", "y_mm", "z_mm"]].to_numpy()
    np.testing.assert_allclose(place, [[-ras[0], -ras[1], ras[2]]] * 2, atol=0.01)
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [image["id"] for image in images] == list(range(1, 3 * SHAPE[2] + 1))
    assert sorted(path.name for path in (tmp_path / "out" / "pages").iterdir()) == ["002.html", "sub-01.html"]


@pytest.mark.parametrize("srow_x", [None, np.nan, np.inf])
def test_a_volume_that_is_cut_off_or_without_a_place_is_left_out_and_the_others_are_not(tmp_path, srow_x):
    save(tmp_path / "in" / "a.nii", head(), affine_of("LPS"))
    content = bytearray((tmp_path / "in" / "a.nii").read_bytes())
    if srow_x is not None:
        content[280:296] = np.full(4, srow_x, "<f4").tobytes()
    (tmp_path / "in" / "b.nii").write_bytes(content if srow_x is not None else content[:1000])
    result = detect(tmp_path / "in", tmp_path / "out")
    assert patients(result) == ["a"]
    assert ["b.nii" in series.line for series in result.left_out] == [True]
    assert summary(tmp_path / "out")["left_out"] == [
        {"patient": "b", "series": "b.nii", "why": "cannot be read", "files": 1, "refused": True}
    ]
    with refused(tmp_path, r"b\.nii"):
        detect(tmp_path / "in" / "b.nii", tmp_path / "alone")


def test_a_series_uid_that_two_patients_share_is_left_out_of_both(tmp_path):
    for patient in "ABC":
        uid = "1.2.3" if patient < "C" else "1.2.4"
        dicom_head(tmp_path / "in" / patient, patient, SeriesInstanceUID=uid)
    last = tmp_path / "in" / "A" / "003.dcm"
    last.write_bytes(last.read_bytes()[:-100])
    result = detect(tmp_path / "in", tmp_path / "out")
    assert patients(result) == ["C"]
    assert [(aside.patient_id, len(aside.files)) for aside in result.left_out] == [("A", 4), ("B", 4)]


@pytest.mark.parametrize(("spoil", "named"), [
    # The last slice: without it the series would look complete.
    (lambda folder: (folder / "003.dcm").write_bytes((folder / "003.dcm").read_bytes()[:-100]), "003.dcm"),
    (lambda folder: (folder / "001.dcm").unlink(), "slice missing"),
    (lambda folder: (folder / "004.dcm").write_bytes(b""), "004.dcm"),  # does not say whose it is
])  # fmt: skip
def test_a_spoilt_series_is_left_out_entirely_and_the_others_are_not(tmp_path, spoil, named):
    two_patients(tmp_path / "in", slices=4)
    spoil(tmp_path / "in" / "a")
    result = detect(tmp_path / "in", tmp_path / "out")
    assert (patients(result), result.left_out[0].patient_id) == (["B"], "A")
    assert all(named in series.line for series in result.left_out)


def test_flagged_burned_in_annotation_costs_its_series_and_moves_no_id(tmp_path):
    """Ids of images stay those of annotations.json of an import of the same folder."""
    two_patients(tmp_path / "in")
    (last := sorted((tmp_path / "in" / "a").iterdir())[-1]).rename(tmp_path / "last.dcm")
    flagged = pydicom.dcmread(tmp_path / "last.dcm")
    flagged.BurnedInAnnotation = "YES"
    flagged.save_as(last)
    result = detect(tmp_path / "in", tmp_path / "out")
    assert patients(result) == ["B"]
    why = "burned-in annotation is flagged in the header"
    assert [series["why"] for series in summary(tmp_path / "out")["left_out"]] == [why]
    assert not (tmp_path / "out" / "overlays" / "A").exists()
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [image["id"] for image in images] == [4, 5]
    with refused(tmp_path, r"a.002\.dcm: BurnedInAnnotation"):
        detect(tmp_path / "in" / "a", tmp_path / "alone")


@pytest.mark.parametrize(
    ("make", "other"), [(dicom_head, "a.nii"), (labelled_images, "a.nii"), (labelled_images, "IM0001")]
)
def test_two_kinds_in_one_folder_are_refused(tmp_path, make, other):
    make(tmp_path / "in")
    (tmp_path / "in" / other).write_bytes(b"\x08\0\x05\0" + b"\0" * 200)  # DICOM without preamble, if so named
    with refused(tmp_path, "in: holds"):
        detect(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("option", ["sr", "segmentation", "key_file"])
def test_what_images_do_not_have_is_refused_before_anything_is_made(tmp_path, option):
    labelled_images(tmp_path / "in", 1)
    with refused(tmp_path, f"--{option}".replace("_", "-")):
        detect(tmp_path / "in", tmp_path / "out", **{option: tmp_path / "key.json"})


def test_several_series_at_a_time_give_the_same_bytes(tmp_path):
    for letter in "abc":
        dicom_head(tmp_path / "in" / letter, letter.upper(), slices=2)
    detect(tmp_path / "in", tmp_path / "one")
    options = (tiny_params().images, Options(keep_ids=True), 3, "threading")
    detect_files(tmp_path / "in", same_boxes, tmp_path / "three", *options)
    assert tree(tmp_path / "one") == tree(tmp_path / "three")


def detect_phase(source: Path, out: Path, phase: bool = True) -> tuple[Result, list[torch.Tensor]]:
    """Detection by a detector that sees phase; also the images that it saw, float [3, rows, columns]."""
    settings = tiny_params().images.model_copy(update={"phase": phase})
    seen: list[torch.Tensor] = []
    model = SameBoxes()
    model.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    detector = Detector(model, make_compute("cpu", "32-true"), "seen")
    return detect_files(source, lambda: detector, out, settings, Options(keep_ids=True)), seen


def phase_seen(image: torch.Tensor) -> np.ndarray:
    """Phase in half turns times magnitude: half of what the first channel has over the last."""
    return ((image[0] - image[2]) / 2).numpy()


def test_the_detector_sees_the_phase_of_each_slice_and_the_overlays_show_the_magnitude(tmp_path):
    head_with_phase(tmp_path / "in")
    result, seen = detect_phase(tmp_path / "in", tmp_path / "out")
    assert (len(result.done), result.left_out, len(seen)) == (1, [], 4)
    phase = phase_seen(seen[2]) / np.where(seen[2][1] > 0, seen[2][1], np.nan)
    for place, turns in {(15, 35): 1 / np.pi, (45, 10): -2 / np.pi, (32, 45): 0}.items():
        assert phase[place] == pytest.approx(turns, abs=0.5 / 127)
    _, plain = detect_phase(tmp_path / "in", tmp_path / "plain", phase=False)
    torch.testing.assert_close(seen[2].mean(dim=0), plain[2].mean(dim=0))
    overlays = [np.array(Image.open(tmp_path / name / "overlays" / "P1" / "002.png")) for name in ("out", "plain")]
    np.testing.assert_array_equal(*overlays)


def test_a_series_without_phase_is_left_out_and_named_and_alone_it_is_an_error(tmp_path):
    head_with_phase(tmp_path / "in")
    dicom_head(tmp_path / "in" / "P2", "P2")
    result, _ = detect_phase(tmp_path / "in", tmp_path / "out")
    assert patients(result) == ["P1"]
    assert ["phase" in series.line for series in result.left_out] == [True]
    with refused(tmp_path, "no phase series"):
        detect_phase(tmp_path / "in" / "P2", tmp_path / "alone")


def test_images_have_their_phase_beside_them_and_it_is_no_image_of_its_own(tmp_path):
    for name in ("a.png", "b.jpg"):
        save_image(tmp_path / "in" / name, image_with_phase())
    for phase in (True, False):
        result, seen = detect_phase(tmp_path / "in", tmp_path / str(phase), phase)
        assert [series.images for series in result.done] == [2]
        assert (np.abs(phase_seen(seen[0])).max() > 0.2) == phase
    (tmp_path / "in" / "b.phase.png").unlink()
    with pytest.raises(InputError, match=r"b\.phase\.png"):
        detect_phase(tmp_path / "in", tmp_path / "out")
