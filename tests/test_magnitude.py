"""What is taken as a magnitude: by the file's name and by its values, and what is refused instead of cut off at 0."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from source_world import SHAPE, affine_of, head, mask, save
from tiny_world import refused

from cmbfe.data.magnitude import CUT_OFF, MOVED_UP, MOVED_UP_IN_MASK, PADDING, TAKEN, magnitude_by_name, to_magnitude
from cmbfe.data.sources.volumes import BACKGROUND, read_volume
from cmbfe.errors import InputError

FILE = Path("somewhere.nii")
SIZE = (12, 64, 64)
DOTS = [(5, 30, 24), (8, 20, 40)]
RANDOM = np.random.default_rng(1)


@cache
def volume() -> np.ndarray:
    """Head in dark air with noise, [slices, rows, columns]; values from 0 to about 900."""
    return head(SIZE, DOTS)


@cache
def inside() -> np.ndarray:
    return ndimage.binary_fill_holes(volume() > 400)


def z_scores(where: np.ndarray | None = None) -> np.ndarray:
    """Of what is `where`, 0 elsewhere; of everything if that is None."""
    own = volume() if where is None else volume()[where]
    scores = (volume() - own.mean()) / own.std()
    return scores if where is None else np.where(where, scores, 0)


def wrapped(factor: float) -> np.ndarray:
    return (volume() * factor).astype(np.uint16).astype(np.int16).astype(np.float32)


def phase(half_turn: float) -> np.ndarray:
    """Noise in air, a smooth phase that wraps in the head."""
    smooth = 0.4 * np.indices(SIZE).sum(axis=0) * np.ones(SIZE)
    turns = np.where(inside(), smooth / np.pi, RANDOM.uniform(-1, 1, SIZE))
    return (((turns + 1) % 2 - 1) * half_turn).astype(np.float32)


def moved_by_splines(given: np.ndarray) -> np.ndarray:
    """By half a voxel: a third of all values are then below 0, most of them hardly."""
    return ndimage.shift(given, (0, 0.5, 0.5), order=3)


MAGNITUDES = {
    "as it is": (volume(), ()),
    "z-scores of all": (z_scores(), (MOVED_UP,)),
    "z-scores in the brain": (z_scores(inside()), (MOVED_UP_IN_MASK,)),
    "z-scores in the brain, NaN outside": (np.where(inside(), z_scores(inside()), np.nan), (MOVED_UP,)),
    "z-scores in the brain, -10 outside": (np.where(inside(), z_scores(inside()), -10), (MOVED_UP_IN_MASK,)),
    "from -1 to 1 in the brain, -1 outside": (np.where(inside(), volume() / 500 - 1, -1), (MOVED_UP_IN_MASK,)),
    "padded in the brain": (np.where(inside(), volume(), -32768), (PADDING,)),
    "whole numbers, padded in the brain": (np.where(inside(), np.rint(volume()), -1), (PADDING,)),
    "after interpolation": (ndimage.zoom(ndimage.zoom(volume(), 0.5, order=3), 2, order=3), (CUT_OFF,)),
    "a skull-stripped one, moved": (moved_by_splines(np.where(inside(), volume(), 0)), (CUT_OFF,)),
    "a few below 0": (np.where(RANDOM.random(SIZE) < 0.005, -40, volume()), (CUT_OFF,)),
}


@pytest.mark.parametrize("name", MAGNITUDES)
def test_a_magnitude_keeps_its_order_and_ends_at_0(name):
    given, notes = MAGNITUDES[name]
    given = given.astype(np.float32)
    made, said = to_magnitude(given, FILE)
    assert said == notes
    assert made.min() >= 0
    own = np.isfinite(given) & (inside() if "brain" in name else True)
    assert (np.diff(made[own][given[own].argsort()]) >= 0).all()
    if "in the brain" in name:
        assert not made[~inside()].any()
    assert np.array_equal(made, given) == (not notes)


NO_MAGNITUDES = {
    "negated": (-volume(), "scl_slope"),
    "negated, with an intercept": (1000 - volume(), "swapped"),
    "uint16 kept as int16": (wrapped(45), "int16"),
    "uint16 kept as int16, its brightest only": (wrapped(38), "int16"),
    "uint16 kept as int16, its brightest only, scaled": (wrapped(37.5) * 0.37, "both sides of 0"),
    "phase in 4096 steps": (RANDOM.integers(-4096, 4096, SIZE), "phase"),
    "phase in rad": (phase(np.pi), "phase"),
    "phase in mrad": (np.rint(phase(1000 * np.pi)), "phase"),
    "phase from 0": (np.rint(phase(2047) + 2048), "phase"),
    "filtered phase, whole numbers": (np.rint(RANDOM.normal(0, 400, SIZE)), "whole numbers below 0"),
    "a field map in Hz": (ndimage.gaussian_filter(RANDOM.normal(0, 1, SIZE), 2) * 900, "both sides of 0"),
    "QSM in ppm, 0 outside": (np.where(inside(), RANDOM.normal(0, 0.05, SIZE), 0), "both sides of 0"),
    "a field map in Hz, -999 outside": (np.where(inside(), RANDOM.normal(9, 30, SIZE), -999), "both sides of 0"),
    "a mask": (inside(), "label"),
    "two tissues": (inside() * 1.0 + (volume() > 850), "label"),
    "a parcellation": (np.where(inside(), np.indices(SIZE)[2] // 6 + 10 * (np.indices(SIZE)[1] // 6), 0), "label"),
}


@pytest.mark.parametrize("name", NO_MAGNITUDES)
def test_what_is_no_magnitude_is_refused_and_taken_when_the_user_says_so(name):
    given, named = NO_MAGNITUDES[name]
    given = given.astype(np.float32)
    with pytest.raises(InputError, match=rf"^{FILE}: .*{named}.*--as-magnitude$"):
        to_magnitude(given, FILE)
    made, said = to_magnitude(given, FILE, as_magnitude=True)
    assert said[0] == TAKEN
    outside = ~inside() if name.endswith("outside") else np.zeros(SIZE, bool)
    moved = given - min(given[~outside].min(), 0)
    np.testing.assert_array_equal(made, np.where(outside, 0, moved))


@pytest.mark.parametrize("values", [np.full(SIZE, 7), 1e8 + 8 * (volume() > 400), np.zeros(SIZE)])
def test_a_volume_of_hardly_any_range_is_no_reason_to_fail(values):
    given = values.astype(np.float32)
    np.testing.assert_array_equal(to_magnitude(given, FILE, as_magnitude=True)[0], given)


@pytest.mark.parametrize("name", [
    *("sub-01_part-phase_GRE.nii.gz", "sub-01_T2starmap.nii", "sub-01_minIP.nii.gz", "swi_ph.nii.gz"),
    *("QSM.nii", "sub-01_R2starmap.nii.gz", "sub-01_dseg.nii.gz", "SWI_mIP_Images.nii", "brain_mask.nii.gz"),
    *("sub-01_fieldmap.nii", "sub-01_desc-brain_mask.nii.gz", "phase1.nii", "sub-01_label-CMB_mask.img"),
    *("sub-01_part-imag_SWI.nii", "T2star_map.nii.gz", "sub-01_rec-minIP_swi.nii", "sub-01_acq-mIP_swi.nii"),
    *("mIP_SWI.nii", "minIP_mag.nii", "SWI_minIP8mm.nii", "min-ip.nii", "swi_min ip 8.nii", "QSM_swi.nii"),
    *("R2star_swi.nii", "sub-01_rec-minIP_part-mag_GRE.nii"),
])  # fmt: skip
def test_names_that_say_that_a_file_is_no_magnitude(name):
    assert magnitude_by_name(Path("a") / name)


@pytest.mark.parametrize("name", [
    *("sub-101_space-T2S_desc-masked_T2S.nii.gz", "122_T1_MRI_SWI_BFC_50mm_HM.nii.gz", "01.nii", "swi.nii.gz"),
    *("sub-phase_SWI.nii.gz", "sub-01_part-mag_GRE.nii.gz", "sub-mask/ses-map_T2starw.nii", "cmb_007.nii.gz"),
    *("PH_001.nii", "graph.nii", "122_T1_MRI_SWI_BFC_50mm_HM_rsCMB_3.nii.gz", "phase2_swi.nii", "QSM_mag.nii"),
    *("sub-mip_swi.nii", "mask_applied.nii", "sub-01_acq-qsm_T2starw.nii", "R2_swi.nii"),
])  # fmt: skip
def test_names_that_do_not(name):
    assert not magnitude_by_name(Path("phase") / name)


def test_a_volume_is_judged_by_name_header_and_values_when_it_is_read(tmp_path):
    affine = affine_of("LPS")
    save(tmp_path / "phase.nii", head(), affine)
    image = save(tmp_path / "swi.nii", head(), affine)
    content = bytearray(image.read_bytes())
    content[68:70] = np.int16(1002).tobytes()  # intent_code
    (tmp_path / "intent.nii").write_bytes(content)
    save(tmp_path / "third.nii", mask(SHAPE, [(14, 20, 4)]), affine)
    assert read_volume(image).notes == ()
    for name, named in (("phase", "phase"), ("intent", "intent_code"), ("third", "label")):
        with refused(tmp_path, rf"{name}\.nii: .*{named}.*--as-magnitude"):
            read_volume(tmp_path / f"{name}.nii")
        taken = read_volume(tmp_path / f"{name}.nii", as_magnitude=True)
        assert (taken.notes, taken.voxels.max() > 0) == ((TAKEN,), True)


def test_voxels_that_are_no_number_are_background_and_said(tmp_path):
    voxels = head()
    voxels[3:5] = np.nan
    volume = read_volume(save(tmp_path / "one.nii", voxels, affine_of("LPS")))
    assert (volume.notes, np.count_nonzero(volume.voxels[:, :, 3:5])) == ((BACKGROUND,), 0)
