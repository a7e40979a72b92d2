"""Volumes turned to one orientation, microbleeds as boxes on slices, and frames: places stay what they were."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nifti_files import affine_of, head, save

from cmbfe.data.sources.series import Frame
from cmbfe.data.sources.volumes import RAS_TO_LPS, apply, lesions_of_mask, lesions_of_points, read_volume
from cmbfe.errors import InputError

AXES = st.permutations(["LR", "PA", "IS"]).flatmap(lambda axes: st.tuples(*map(st.sampled_from, axes))).map("".join)
TILTS = st.floats(-0.3, 0.3)
SPACINGS = st.tuples(*[st.floats(0.3, 4.0)] * 3)


@settings(deadline=None, max_examples=60)
@given(codes=AXES, spacing=SPACINGS, tilt=TILTS, shape=st.tuples(*[st.integers(1, 6)] * 3), seed=st.integers(0, 99))
def test_a_turned_volume_keeps_every_voxel_at_its_place(tmp_path_factory, codes, spacing, tilt, shape, seed):
    """Each voxel of the file is found in the turned volume where the affines say, whatever the orientation."""
    voxels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    affine = affine_of(codes, spacing, tilt)
    path = save(tmp_path_factory.mktemp("nifti") / "one.nii", voxels, affine)
    volume = read_volume(path)
    index = np.array([np.random.default_rng(seed + 1).integers(0, shape)], float)
    column, row, plane = np.rint(apply(volume.from_file, index)[0]).astype(int)
    assert volume.voxels[plane, row, column] == voxels[tuple(index[0].astype(int))]
    expected = apply(RAS_TO_LPS @ affine, index)
    np.testing.assert_allclose(apply(volume.affine, np.array([[column, row, plane]])), expected, atol=1e-3)
    assert nib.aff2axcodes(RAS_TO_LPS @ volume.affine) == ("L", "P", "S")
    nearest = np.abs(volume.affine[:3, :3]).argmax(axis=0)
    if abs(tilt) < 0.2:
        assert nearest.tolist() == [0, 1, 2]


@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    row_mm=st.floats(0.3, 3),
    column_mm=st.floats(0.3, 3),
    size=st.integers(32, 200),
)
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
    assert lesions_of_mask(voxels) == [{0: [1, 1, 1, 1], 1: [2, 2, 1, 1]}, {2: [0, 4, 1, 1]}]
    assert lesions_of_mask(np.zeros((2, 3, 3))) == []


def test_a_point_has_a_box_on_every_slice_within_half_its_size_and_on_its_own():
    places = np.array([[5, 4, 2.0], [0, 0, 3.4]])
    near, thin = lesions_of_points(places, [4, 1], (6, 10, 12), (2, 0.5, 1), "here")
    assert near == {1: [3.5, 0.5, 4, 8], 2: [3.5, 0.5, 4, 8], 3: [3.5, 0.5, 4, 8]}
    assert thin == {3: [0, 0, 1, 1.5]}


def test_a_volume_that_is_no_nifti_or_has_no_place_is_refused(tmp_path):
    nib.save(nib.MGHImage(head(), affine_of("LAS")), tmp_path / "one.mgz")
    with pytest.raises(InputError, match=r"one\.mgz: not a NIfTI file but MGHImage"):
        read_volume(tmp_path / "one.mgz")
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
    with pytest.raises(InputError, match=r"one\.nii\.gz: .* the file is damaged or cut off: CRC"):
        read_volume(path)


@pytest.mark.parametrize("name", ["one.nii", "one.nii.gz"])
def test_a_header_that_announces_more_than_there_is_takes_no_memory(tmp_path, name):
    path = save(tmp_path / "small.nii", np.zeros((2, 2, 2), np.float32), affine_of("LPS"))
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([30000] * 3, "<i2").tobytes()  # dim[1] to dim[3]: 100 TB
    (tmp_path / name).write_bytes(gzip.compress(bytes(content)) if name.endswith(".gz") else bytes(content))
    with pytest.raises(InputError, match="108000000000352 bytes are announced, 384 are there"):
        read_volume(tmp_path / name)
