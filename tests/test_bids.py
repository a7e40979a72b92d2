"""BIDS data sets are read by their names and sidecars, and what is found goes out as one that the validator passes."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from findings_world import BOXES, detect
from phase_world import head_with_phase
from source_world import affine_of, head, imported, reported, save
from tiny_world import tiny_params

from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import SeriesHeaders, read_volume
from cmbfe.data.sources.dicom import affine_of as affine_of_series
from cmbfe.data.sources.sidecars import SPIN_ECHO, UNUSABLE, bids_name, contrast_by_name, scan_of
from cmbfe.data.sources.volumes import RAS_TO_LPS
from cmbfe.data.sources.volumes import read_volume as read_nifti
from cmbfe.errors import InputError
from cmbfe.files import read_json, write_json
from cmbfe.findings.search import find

IMAGES = tiny_params().images
SCAN = {"EchoTime": 0.02, "MagneticFieldStrength": 3}


def as_bids(series: SeriesHeaders, path: Path, unit: float = 1.0) -> None:
    """A DICOM series as NIfTI."""
    voxels = (read_volume(series) * unit).transpose(2, 1, 0)
    save(path, voxels.astype(np.float32), RAS_TO_LPS @ affine_of_series(series))


def data_set(folder: Path) -> Path:
    """Two subjects, one of two sessions and two echoes, with much beside."""
    for name in (
        *(f"sub-01/ses-1/swi/sub-01_ses-1_{end}" for end in ("echo-1_part-mag_GRE", "echo-2_part-mag_GRE")),
        *(f"sub-01/ses-1/swi/sub-01_ses-1_{end}" for end in ("echo-1_part-phase_GRE", "minIP")),
        *("sub-01/ses-2/swi/sub-01_ses-2_SWI", "sub-02/anat/sub-02_T2starw", "sub-02/anat/sub-02_T1w"),
        *("derivatives/prep/sub-02/anat/sub-02_desc-prep_T2starw", "sourcedata/sub-02/anat/sub-02_T2starw"),
    ):
        save(folder / f"{name}.nii.gz", head(), affine_of("LPS"))
    write_json(folder / "dataset_description.json", {"Name": "made", "BIDSVersion": "1.10.0"})
    (folder / "participants.tsv").write_text("participant_id\tsplit\nsub-01\ttrain\nsub-02\ttest\nsub-03\tn/a\n")
    return folder


def test_the_magnitudes_of_t2star_scans_are_read_and_all_else_is_named(tmp_path):
    search = find(data_set(tmp_path / "in"), tmp_path / "out")
    assert [(series.patient, Path(series.name).name) for series in search.series] == [
        ("sub-01", "sub-01_ses-1_echo-1_part-mag_GRE.nii.gz"),
        ("sub-01", "sub-01_ses-1_echo-2_part-mag_GRE.nii.gz"),
        ("sub-01", "sub-01_ses-2_SWI.nii.gz"),
        ("sub-02", "sub-02_T2starw.nii.gz"),
    ]
    passed_over = {aside.files[0].name for aside in search.asides if aside.series_uid and not aside.refused}
    assert passed_over == {
        "sub-01_ses-1_echo-1_part-phase_GRE.nii.gz",
        "sub-01_ses-1_minIP.nii.gz",
        "sub-02_T1w.nii.gz",
        *("sub-02_desc-prep_T2starw.nii.gz", "sub-02_T2starw.nii.gz"),
    }
    below = find(tmp_path / "in" / "sub-01" / "ses-1", tmp_path / "out")
    assert {series.patient for series in below.series} == {"sub-01"}
    assert bids_name(tmp_path / "sub-01" / "swi.nii.gz") is None


def test_sidecars_above_hold_for_what_has_their_entities_and_the_nearest_wins_with_values_in_seconds(tmp_path):
    volume = tmp_path / "sub-01" / "ses-1" / "swi" / "sub-01_ses-1_echo-2_part-mag_GRE.nii.gz"
    volume.parent.mkdir(parents=True)
    for name, values in (("GRE", SCAN), ("echo-2_GRE", {"EchoTime": 0.03}), ("echo-1_GRE", {"EchoTime": 0.01})):
        write_json(tmp_path / f"{name}.json", values)
    assert scan_of(volume) == ({"echo_time_ms": 30.0, "field_strength_t": 3.0}, {})
    nearest = volume.with_name("sub-01_ses-1_echo-2_part-mag_GRE.json")
    write_json(nearest, {"EchoTime": "0.035"})  # text, as of MRtrix
    assert scan_of(volume)[0]["echo_time_ms"] == 35.0
    for value in (35, -1, "soon", [0.01, 0.02]):
        write_json(nearest, {"EchoTime": value})
        scan, notes = scan_of(volume)
        assert (scan, len(notes)) == ({"field_strength_t": 3.0}, 1)


@pytest.mark.parametrize(("content", "said"), [
    *((content, ({}, [UNUSABLE])) for content in ('[{"EchoTime": 1}]', "{", "")),
    ('{"EchoTime": 0.02, "InstitutionName": "Hôpital"}', ({"echo_time_ms": 20.0}, [])),
    *((f'{{"ScanningSequence": {value}}}', ({}, [SPIN_ECHO])) for value in ('"SE"', '"EP_SE"', '["EP", "SE"]')),
    ('{"ScanningSequence": "GR"}', ({}, [])),
])  # fmt: skip
def test_a_sidecar_in_latin_1_is_read_one_that_is_no_object_and_a_spin_echo_are_said(tmp_path, content, said):
    file = save(tmp_path / "swi.nii.gz", head(), affine_of("LPS"))
    (tmp_path / "swi.json").write_text(content, encoding="latin-1")
    scan, notes = scan_of(file)
    assert (scan, list(notes)) == said


@pytest.mark.parametrize(("name", "contrast"), [
    ("sub-101_space-T2S_desc-masked_T1", "T1"), ("flair", "FLAIR"), ("a_T2w", "T2W"), ("122_T1_MRI_SWI_BFC", ""),
    ("sub-101_space-T2S_desc-masked_T2S", ""), ("sub-T1_ses-T2_t2starw", ""), ("case1", ""),
    ("t2_swi3d_tra_5", ""), ("t2_fl2d_tra_hemo", ""), ("t1_gre", ""),
])  # fmt: skip
def test_a_contrast_by_name(name, contrast):
    assert contrast_by_name(Path(f"{name}.nii.gz")) == contrast


@pytest.mark.parametrize(("said", "kind"), [
    ({"ImageType": ["DERIVED", "PRIMARY", "MNIP", "ND", "NORM"]}, "projection"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI"], "SeriesDescription": "mIP_Images(SW)"}, "projection"),
    ({"ImageType": "DERIVED\\SECONDARY\\QSM"}, "map"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI", "NORM"], "SeriesDescription": "SWI_Images"}, ""),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "PHASE"], "SeriesDescription": "QSM"}, ""),
    ({"ImageType": 7, "SeriesDescription": None}, ""),
])  # fmt: skip
def test_projections_and_maps_by_sidecar_are_passed_over_and_alone_refused(tmp_path, said, kind):
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.nii.gz", head(), affine_of("LPS"))
    write_json(tmp_path / "in" / "a.json", said)
    search = find(tmp_path / "in", tmp_path / "out")
    passed_over = [aside.line for aside in search.asides if aside.series_uid]
    assert len(search.series) == 2 - len(passed_over)
    assert [f"a {kind}, by its sidecar" in line for line in passed_over] == [True] * bool(kind)
    if kind:
        with pytest.raises(InputError, match="by its sidecar"):
            read_nifti(tmp_path / "in" / "a.nii.gz")


def test_bids_finds_what_the_same_data_as_dicom_find_also_with_phase(tmp_path):
    head_with_phase(tmp_path / "dicom")
    stem = str(tmp_path / "bids" / "sub-P1" / "swi" / "sub-P1_part-{}_GRE")
    for series in find_series(tmp_path / "dicom"):
        part, unit = ("mag", 1.0) if series.kind == "magnitude" else ("phase", 0.001)
        as_bids(series, Path(stem.format(part) + ".nii.gz"), unit)
    write_json(stem.format("phase") + ".json", {"Units": "rad"})
    write_json(stem.format("mag") + ".json", SCAN)
    columns = ["score", "x_mm", "y_mm", "z_mm", "size_mm", "first_slice", "last_slice", "region", "side"]
    with_phase, found, drawn = IMAGES.model_copy(update={"phase": True}), [], []
    for source in (tmp_path / "dicom", tmp_path / "bids"):
        result = detect(source, tmp_path / source.name[0], threshold=0.2)
        found.append(pd.read_csv(tmp_path / source.name[0] / "lesions.csv")[columns])
        (series,) = find(source, tmp_path / "out", phase=True).series
        drawn.append(np.stack(list(series.load(None).draw(with_phase))))
    assert len(found[0]) == len(BOXES)
    pd.testing.assert_frame_equal(*found, atol=0.02)
    assert result.done[0].scan == {"echo_time_ms": 20.0, "field_strength_t": 3.0}
    assert drawn[0].shape[-1] == 2
    np.testing.assert_allclose(drawn[0].astype(int), drawn[1], atol=1)


def test_phase_in_unknown_units_or_none_at_all_is_refused(tmp_path):
    search = find(data_set(tmp_path / "in") / "sub-01" / "ses-1", tmp_path / "out", phase=True)
    (series,) = search.series
    assert Path(series.name).name == "sub-01_ses-1_echo-1_part-mag_GRE.nii.gz"
    refused = [aside.files[0].name for aside in search.asides if aside.refused]
    assert refused == ["sub-01_ses-1_echo-2_part-mag_GRE.nii.gz"]
    with pytest.raises(InputError, match="Units"):
        series.load(None)


def test_an_import_takes_the_splits_of_participants_from_a_sound_table(tmp_path):
    source = data_set(tmp_path / "in")
    labels = imported("bids", source, tmp_path / "out", keep_ids=True)
    splits = {(image["patient_id"], image["split"]) for image in labels["images"]}
    assert splits == {("sub-01", "train"), ("sub-02", "test")}
    assert reported(tmp_path / "out")["participants without a volume that is read"] == 1
    for rows, what in (
        ("split\ntrain\n", "row 2"),
        ("participant_id\tsplit\nsub-01\tfirst\n", "'first' of 'sub-01'"),
    ):
        (source / "participants.tsv").write_text(rows)
        with pytest.raises(InputError, match=what):
            imported("bids", source, tmp_path / "again")


@pytest.mark.parametrize(("ids", "label"), [(("12-3", "1-23"), "sub-123"), (("患者", "病人"), "sub-unknown")])
def test_patients_whose_ids_would_make_one_subject_are_refused_and_an_id_alone_makes_a_valid_one(
    tmp_path, ids, label
):
    save(tmp_path / "in" / ids[0] / "swi.nii.gz", head(), affine_of("LPS"))
    detect(tmp_path / "in", tmp_path / "out", bids=True)
    assert (tmp_path / "out" / "bids" / label).is_dir()
    save(tmp_path / "in" / ids[1] / "swi.nii.gz", head(), affine_of("LPS"))
    with pytest.raises(InputError, match=f"^--bids: patients .* would both be {label}; "):
        detect(tmp_path / "in", tmp_path / "out", bids=True)
    detect(tmp_path / "in", tmp_path / "hashed", bids=True, keep_ids=False)


def test_the_derivative_passes_the_validator_and_its_label_map_lies_on_the_lesions_that_its_table_names(tmp_path):
    detect(data_set(tmp_path / "in"), tmp_path / "out", threshold=0.7, bids=True)
    derivative = tmp_path / "out" / "bids"
    stem = derivative / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_run-1_desc-microbleeds_dseg"
    labels, table = nib.load(f"{stem}.nii.gz"), pd.read_csv(f"{stem}.tsv", sep="\t")
    values = np.asarray(labels.dataobj)
    assert sorted(set(np.unique(values)) - {0}) == table["index"].tolist() == [1]
    middle = labels.affine @ [*np.argwhere(values == 1).mean(axis=0), 1]
    np.testing.assert_allclose(middle[:3] * [-1, -1, 1], table[["x_mm", "y_mm", "z_mm"]].iloc[0], atol=0.6)
    subjects = pd.read_csv(derivative / "participants.tsv", sep="\t")
    assert subjects.to_numpy().tolist() == [["sub-01", 3, 3], ["sub-02", 1, 1]]
    assert read_json(derivative / "dataset_description.json")["DatasetType"] == "derivative"
    validator = Path(sys.executable).with_name("bids-validator-deno")
    command = [validator, derivative, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError):
        detect(tmp_path / "a.png", tmp_path / "none", bids=True)
