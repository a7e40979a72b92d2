"""NIfTI files as other programs leave them: what their headers and names say is honoured, or refused in one line."""

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from findings_world import detect
from source_world import SHAPE, affine_of, head, imported, mask, save
from tiny_world import refused

from cmbfe.data.sources.nifti import find_nifti
from cmbfe.data.sources.opening import files_of, open_volume
from cmbfe.data.sources.volumes import NO_PLACE, OTHER_PLANE, TWO_PLACES, read_mask, read_turned, read_volume
from cmbfe.files import write_json
from cmbfe.findings.search import find

SPACING = (2.0, 0.7, 0.5)
"""Between slices, rows and columns, mm."""
LPS = affine_of("LPS")
LAS = affine_of("LAS")


def image(affine: np.ndarray | None = LPS, kind: type = nib.Nifti1Image, **header: object) -> nib.Nifti1Pair:
    made = kind(head(), affine)
    for key, value in header.items():
        made.header[key] = value
    return made


def scaled(factor: float) -> np.ndarray:
    return np.diag([factor, factor, factor, 1]) @ LPS


@pytest.mark.parametrize(("code", "factor"), [(1, 0.001), (2, 1), (3, 1000), (0, 1), (8 + 3, 1000), (7, 1)])
def test_sizes_are_in_mm_whatever_the_unit_of_the_header(tmp_path, code, factor):
    """With a unit of time beside it, and one that nobody knows."""
    nib.save(image(scaled(factor), xyzt_units=code), tmp_path / "one.nii")
    volume = read_volume(tmp_path / "one.nii")
    assert volume.spacing_mm == pytest.approx(SPACING, rel=1e-5)
    assert volume.affine[:3, 3] == pytest.approx(read_volume(save(tmp_path / "mm.nii", head(), LPS)).affine[:3, 3])
    assert len(volume.notes) == (factor != 1)


@pytest.mark.parametrize(
    ("code", "factor"), [(0, 0.001), (0, 1000), (2, 0.001), (2, 1000), (3, 1), (1, 1), (0, 0.1), (2, 50)]
)
def test_sizes_that_no_head_has_are_refused(tmp_path, code, factor):
    nib.save(image(scaled(factor), xyzt_units=code), tmp_path / "one.nii")
    with refused(tmp_path, r"one\.nii: voxels of .* mm.*xyzt_units"):
        read_volume(tmp_path / "one.nii")


def test_a_field_of_view_of_half_a_metre_and_more_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 8, 300), np.float32), np.diag([2, 2, 2, 1])), tmp_path / "one.nii")
    with refused(tmp_path, "600 mm in all"):
        read_volume(tmp_path / "one.nii")


@pytest.mark.parametrize("sizes", [(0, 0.7, 2), (0.5, 0.7, 0), (0, 0, 0), (0.5, np.nan, 2)])
@pytest.mark.parametrize("code", [0, 1])
def test_a_header_without_a_size_of_voxels_is_refused(tmp_path, sizes, code):
    """nibabel takes 0 as 1 mm."""
    image(None, qform_code=code).to_filename(tmp_path / "one.nii")
    content = bytearray((tmp_path / "one.nii").read_bytes())
    content[80:92] = struct.pack("<3f", *sizes)  # pixdim[1:4]
    (tmp_path / "one.nii").write_bytes(content)
    with refused(tmp_path, r"one\.nii: .*(no size of voxels|not readable)"):
        read_volume(tmp_path / "one.nii")


def test_a_header_without_a_place_is_read_and_said(tmp_path):
    made = image(None)
    made.header.set_zooms((0.5, 0.7, 2.0))
    nib.save(made, tmp_path / "one.nii")
    assert read_volume(tmp_path / "one.nii").notes == (NO_PLACE,)
    result = detect(tmp_path / "one.nii", tmp_path / "out")
    assert [series.images for series in result.done] == [10]


def test_another_plane_is_said(tmp_path):
    path = save(tmp_path / "one.nii", head(), affine_of("LSP"))
    assert read_volume(path).notes == (OTHER_PLANE,)


def sheared(degrees: float) -> np.ndarray:
    affine = LPS.copy()
    affine[1, 2] = 2 * np.sin(np.radians(degrees))
    affine[2, 2] = 2 * np.cos(np.radians(degrees))
    return affine


def test_a_sheared_volume_is_refused_and_one_that_is_nearly_not_is_read(tmp_path):
    for degrees in (8, -30):
        path = save(tmp_path / "sheared.nii", head(), sheared(degrees))
        with refused(tmp_path, rf"sheared\.nii: .*{abs(degrees)} degrees from perpendicular"):
            read_volume(path)
    assert read_volume(save(tmp_path / "nearly.nii", head(), sheared(1))).spacing_mm == pytest.approx(SPACING)


TWO = {
    "alike": (LPS, None),
    "moved": (affine_of("LPS", origin=(11, 20, 5)), TWO_PLACES),
    "turned a little": (affine_of("LPS", tilt=0.2), TWO_PLACES),
    "left and right swapped": (affine_of("RPS"), "directions"),
    "half a turn": (affine_of("RAS"), "directions"),
    "other voxels": (affine_of("LPS", (0.6, 0.7, 2)), "sizes of voxels"),
}


@pytest.mark.parametrize("name", TWO)
def test_two_places_in_one_header(tmp_path, name):
    qform, expected = TWO[name]
    made = image()
    made.set_sform(LPS, 1)
    made.set_qform(qform, 1, update_affine=False)
    nib.save(made, tmp_path / "one.nii")
    if expected in (None, TWO_PLACES):
        volume = read_volume(tmp_path / "one.nii")
        assert (volume.notes, volume.spacing_mm) == ((expected,) if expected else (), pytest.approx(SPACING))
    else:
        with refused(tmp_path, rf"one\.nii: its sform and qform give different {expected}"):
            read_volume(tmp_path / "one.nii")


def misnamed(folder: Path) -> Path:
    return save(folder / "a.nii.gz", head(), LPS).rename(folder / "one.nii")


def pair(name: str, kind: type = nib.Nifti1Pair):
    def make(folder: Path) -> Path:
        nib.save(image(kind=kind), folder / f"one.hdr{'.gz' * name.endswith('.gz')}")
        return folder / name

    return make


def long_quaternion(length: float):
    def make(folder: Path) -> Path:
        made = image()
        made.set_sform(None, 0)
        made.set_qform(LPS, 1)
        nib.save(made, folder / "one.nii")
        content = bytearray((folder / "one.nii").read_bytes())
        quaternion = np.frombuffer(bytes(content[256:268]), "<f4")
        assert np.linalg.norm(quaternion) == pytest.approx(1)
        content[256:268] = (quaternion * length).astype("<f4").tobytes()
        (folder / "one.nii").write_bytes(content)
        return folder / "one.nii"

    return make


ODD = {
    "gzipped, called .nii": misnamed,
    "not gzipped, called .nii.gz": lambda folder: save(folder / "a.nii", head(), LPS).rename(folder / "one.nii.gz"),
    "a pair, by its header": pair("one.hdr"),
    "a pair, by its voxels": pair("one.img"),
    "a gzipped pair": pair("one.img.gz"),
    "a quaternion above 1 by rounding to three digits": long_quaternion(1.001),
}


@pytest.mark.parametrize("name", ODD)
def test_files_that_other_programs_read_are_read(tmp_path, name):
    path = ODD[name](tmp_path)
    volume = read_volume(path)
    plain = read_volume(save(tmp_path / "plain.nii", head(), LPS))
    np.testing.assert_array_equal(volume.voxels, plain.voxels)
    np.testing.assert_allclose(volume.affine, plain.affine, atol=0.01)


def test_a_half_turn_about_a_tilted_axis_stays_as_nibabel_reads_it(tmp_path):
    made = image()
    made.set_sform(None, 0)
    made.set_qform(affine_of("LPS", tilt=0.3), 1)
    nib.save(made, tmp_path / "one.nii")
    np.testing.assert_array_equal(open_volume(tmp_path / "one.nii").affine, nib.load(tmp_path / "one.nii").affine)


def half_a_pair(name: str):
    def make(folder: Path) -> Path:
        pair("one.hdr")(folder)
        (folder / name).unlink()
        return folder / ("one.img" if name == "one.hdr" else "one.hdr")

    return make


def touched(name: str):
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(b"NRRD0004\n" * 100)
        return folder / name

    return make


REFUSED = {
    "no voxels": (half_a_pair("one.img"), r"one\.img is not beside it"),
    "no header": (half_a_pair("one.hdr"), r"one\.hdr is not beside it"),
    "Analyze": (pair("one.hdr", nib.AnalyzeImage), "left and what is right"),
    "NRRD": (touched("one.nrrd"), "NRRD, not NIfTI; convert"),
    "another packer": (touched("one.nii.bz2"), "unpack"),
    "NRRD, called NIfTI": (touched("one.nii"), "not readable as NIfTI"),
    "NRRD, called gzipped NIfTI": (touched("one.nii.gz"), "not readable as NIfTI"),
    "a quaternion that is none": (long_quaternion(1.5), "quaternion .* repair"),
    "nothing": (lambda folder: folder / "one.nii", "no such file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_read_are_refused_with_what_to_do(tmp_path, name):
    make, named = REFUSED[name]
    path = make(tmp_path)
    with refused(tmp_path, rf"^{path}: .*{named}"):
        read_volume(path)


def test_four_dimensions_with_one_volume_are_one(tmp_path):
    path = save(tmp_path / "one.nii", head()[..., None, None], LPS)
    assert read_volume(path).voxels.shape == SHAPE[::-1]


def test_a_mask_is_read_whatever_it_is_called_and_holds(tmp_path):
    volume_file = save(tmp_path / "swi.nii", head(), LPS)
    label = save(tmp_path / "phase_mask.nii", -mask(SHAPE, [(14, 20, 4)]), LPS)
    made = read_mask(label, read_volume(volume_file), volume_file)
    np.testing.assert_array_equal(made.voxels, read_turned(label).voxels)


def test_volumes_that_are_no_magnitude_by_name_are_passed_over_and_alone_refused(tmp_path):
    for name in ("swi", "swi_phase", "swi_mask"):
        save(tmp_path / "in" / "anna" / f"{name}.nii.gz", head(), LPS)
    result = detect(tmp_path / "in", tmp_path / "out")
    assert [series.series for series in result.done] == ["anna/swi.nii.gz"]
    assert {(aside.series_uid, aside.refused) for aside in result.left_out} == {
        ("anna/swi_phase.nii.gz", False),
        ("anna/swi_mask.nii.gz", False),
    }
    assert len(detect(tmp_path / "in", tmp_path / "all", as_magnitude=True).done) == 3
    alone = tmp_path / "in" / "anna" / "swi_phase.nii.gz"
    with refused(tmp_path, f"^{alone}: phase, by its name; .*--as-magnitude$"):
        detect(alone, tmp_path / "alone")


def test_two_volumes_that_differ_in_their_suffix_only_are_refused(tmp_path):
    nib.save(image(kind=nib.Nifti1Pair), tmp_path / "pair.hdr")
    for name in ("swi.nii", "swi.nii.gz"):
        save(tmp_path / name, head(), LPS)
    search = find(tmp_path, tmp_path / "out")
    assert [series.name for series in search.series] == ["pair.hdr"]
    assert [(aside.series_uid, aside.refused) for aside in search.asides] == [("swi.nii", True), ("swi.nii.gz", True)]


def test_files_of_a_series_are_both_of_a_pair_and_what_else_was_read_is_known(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    nib.save(image(kind=nib.Nifti1Pair), source / "a.hdr")
    nib.save(nib.Nifti1Pair(mask(SHAPE, [(14, 20, 4)]), LPS), source / "labels_a.hdr")
    write_json(source / "import.yaml", {"images": "{patient}.hdr", "mask": "labels_{patient}.img"})
    found = find_nifti(source, 6)
    assert found.read == (source / "import.yaml",)
    files = {file.name for series in found.series for file in series.files}
    assert files == {"a.hdr", "a.img", "labels_a.hdr", "labels_a.img"}
    assert len(imported("nifti", source, tmp_path / "out")["annotations"]) == 3
    assert files_of(tmp_path / "b.nii.gz") == [tmp_path / "b.nii.gz"]
