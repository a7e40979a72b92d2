"""Simulated patients as DICOM: valid files with the paper's acquisition, read back as they were written."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import read_volume
from cmbfe.phantom.dicom import slice_position_mm, uid, write_series
from cmbfe.phantom.simulate import SimulatedPatient

TILT = np.deg2rad(10)


def patient() -> SimulatedPatient:
    return SimulatedPatient(
        magnitude=np.random.default_rng(0).integers(0, 65536, (5, 32, 32), dtype=np.uint16),
        phase=np.random.default_rng(1).integers(-3141, 3142, (5, 32, 32), dtype=np.int16),
        findings=(),
        pixel_spacing_mm=0.46875,
        slice_thickness_mm=2.0,
        slice_spacing_mm=1.0,
        orientation=(1.0, 0.0, 0.0, 0.0, float(np.cos(TILT)), float(np.sin(TILT))),
    )


def test_the_reader_finds_magnitude_and_phase_that_were_written_on_the_same_slices_from_feet_to_head(tmp_path):
    series_uid, sop_uids = write_series(tmp_path, patient(), "P0001", 7)[:2]
    magnitude, phase = sorted(find_series(tmp_path), key=lambda series: series.kind)
    assert (magnitude.kind, phase.kind) == ("magnitude", "phase")
    np.testing.assert_array_equal(read_volume(magnitude), patient().magnitude)
    np.testing.assert_array_equal(read_volume(phase), patient().phase)  # mrad, negative values too
    assert (magnitude.patient_id, magnitude.pixel_spacing_mm) == ("P0001", (0.46875, 0.46875))
    assert magnitude.slice_spacing_mm == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(magnitude.orientation, patient().orientation, atol=1e-6)
    assert (magnitude.series_uid, list(magnitude.sop_instance_uids)) == (series_uid, list(sop_uids))
    assert magnitude.series_uid != phase.series_uid
    assert not set(magnitude.sop_instance_uids) & set(phase.sop_instance_uids)
    heights = [position[2] for position in magnitude.positions_mm]
    assert heights == sorted(heights)
    assert magnitude.positions_mm == phase.positions_mm
    headers = [pydicom.dcmread(series.files[0]) for series in (magnitude, phase)]
    assert len({(header.StudyInstanceUID, header.FrameOfReferenceUID) for header in headers}) == 1
    assert len({header.SeriesNumber for header in headers}) == 2


def test_headers_hold_the_papers_acquisition_no_private_data_and_synthetic_names_and_the_checker_is_silent(tmp_path):
    write_series(tmp_path, patient(), "P0001", 7)
    files = sorted(tmp_path.rglob("*.dcm"))
    assert len(files) == 10
    for file in files:
        header = pydicom.dcmread(file)
        assert not [element for element in header.iterall() if element.tag.is_private]
        assert str(header.PatientName) == "Phantom^P0001"
        assert (header.EchoTime, header.RepetitionTime, header.FlipAngle) == (45.0, 77.3, 15)
        assert (header.EchoTrainLength, header.NumberOfAverages, header.MagneticFieldStrength) == (32, 1, 3)
        assert (header.SliceThickness, header.SpacingBetweenSlices) == (2, 1)
        assert float(header.PixelBandwidth) == pytest.approx(2 * 62_500 / 32)
        assert (header.BitsStored, header.Modality) == (16, "MR")
        assert header.SeriesDescription.startswith("SWAN")
        if shutil.which("dciodvfy"):  # checks DICOM files against the standard (Debian: dicom3tools)
            said = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=True)
            assert (said.stdout + said.stderr).strip() == "MRImage"  # the kind of object, no complaint


def test_slices_are_centred_on_the_scanners_axis_and_uids_depend_on_seed_and_patient_alone(tmp_path):
    positions = np.array([slice_position_mm(patient(), index) for index in range(3)])
    along_row, along_column = np.reshape(patient().orientation, (2, 3))
    np.testing.assert_allclose(positions[0] + 15.5 * 0.46875 * (along_row + along_column), 0, atol=1e-3)
    np.testing.assert_allclose(np.diff(positions, axis=0), [[0, -np.sin(TILT), np.cos(TILT)]] * 2, atol=2e-4)
    written = {write_series(tmp_path / f"{seed}{name}", patient(), name, seed)[0] for seed in (7, 8) for name in "AB"}
    assert len(written) == 4
    assert all(UID(one).is_valid for one in (*written, uid(7, "P0001", "study")))
