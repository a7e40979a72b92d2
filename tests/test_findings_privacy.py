"""Nobody's name, id, date or text of a header is in an output, unless it was asked for."""

import json
from pathlib import Path

import pytest
from findings_world import detect
from PIL import Image
from test_sources_identity import IDENTIFYING, PLANTED, found_in, planted_dicom, planted_nifti
from tiny_world import dicom_head, tiny_params

from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.data.sources.importer import Options as ImportOptions
from cmbfe.data.sources.importer import import_source

ID, SERIES = "sub-101", IDENTIFYING["SeriesInstanceUID"]
TEXTS = tuple(text for text in PLANTED if len(text) > 5)
"""Shorter ones may be in a UID or in pixels by chance."""


def leaks(out: Path) -> dict[str, str]:
    """Outputs in which something planted is found, and what."""
    return {name: text for text, name in (entry.split(" in ", 1) for entry in found_in(out, TEXTS))}


def test_no_planted_identifier_is_in_any_output(tmp_path):
    planted_dicom(tmp_path / "in", FrameOfReferenceUID="1.2.3")
    dicom_head(tmp_path / "in" / "burned", ID, slices=1, SeriesInstanceUID=SERIES + ".2", BurnedInAnnotation="YES")
    detect(tmp_path / "in", tmp_path / "out", keep_ids=False)
    pages = list((tmp_path / "out" / "pages").iterdir())
    assert len(pages) == 1
    assert "A series was left out: burned-in annotation" in pages[0].read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("detections.json", "detections.csv", "images.json", "lesions.csv", "summary.json"),
        *("overlays", "pages"),
    }
    assert leaks(tmp_path / "out") == {}
    infos = [Image.open(path).info for path in (tmp_path / "out" / "overlays").rglob("*.png")]
    assert infos == [{}] * 4
    detect(tmp_path / "in", tmp_path / "kept")  # ids are kept on request, and the search finds them
    assert {entry.split()[0] for entry in found_in(tmp_path / "kept")} >= {ID, "19670314"}


def test_names_and_texts_of_nifti_files_do_not_get_out_either(tmp_path):
    planted_nifti(tmp_path / "in")
    detect(tmp_path / "in", tmp_path / "out", keep_ids=False)
    assert leaks(tmp_path / "out") == {}


def test_a_report_for_the_pacs_carries_the_patient_and_nothing_else_does(tmp_path):
    planted_dicom(tmp_path / "in", FrameOfReferenceUID="1.2.3")
    detect(tmp_path / "in", tmp_path / "out", keep_ids=False, sr=True, segmentation=True)
    assert {name.split("/")[0] for name in leaks(tmp_path / "out")} == {"sr", "segmentation"}


def test_pseudonyms_are_new_each_time_unless_a_key_file_leads_back(tmp_path):
    planted_dicom(tmp_path / "in")
    key = tmp_path / "key.json"
    runs = [{"keep_ids": False}, {"keep_ids": False}, {"key_file": key}, {"key_file": key}]
    done = [detect(tmp_path / "in", tmp_path / str(number), **run).done[0] for number, run in enumerate(runs)]
    assert len({series.patient for series in done}) == 3
    assert done[2] == done[3]
    known = json.loads(key.read_text())
    assert (known["patients"], known["series"]) == ({done[2].patient: ID}, {done[2].series: SERIES})
    assert key.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("keep_ids", [True, False])
def test_series_without_an_id_count_as_one_patient_as_in_an_import_and_their_page_says_so(tmp_path, keep_ids):
    dicom_head(tmp_path / "in" / "a", "", slices=1, SeriesInstanceUID="1.2.1")
    dicom_head(tmp_path / "in" / "b", "", slices=1, SeriesInstanceUID="1.2.2")
    dicom_head(tmp_path / "in" / "c", "P1", slices=1)
    result = detect(tmp_path / "in", tmp_path / "out", keep_ids=keep_ids)
    patients = [one.patient for one in result.done]
    assert (len(patients), len(set(patients)), len({one.series for one in result.done})) == (3, 2, 3)
    pages = [path.read_text() for path in (tmp_path / "out" / "pages").glob("*.html")]
    (without_id,) = [page for page in pages if "These series have no PatientID" in page]
    assert (len(pages), without_id.count("<h2>")) == (2, 2)


def test_a_key_calls_series_without_an_id_the_same_in_detection_and_import(tmp_path):
    dicom_head(tmp_path / "in", "", slices=1)
    key = tmp_path / "key.json"
    (found,) = detect(tmp_path / "in", tmp_path / "out", key_file=key).done
    images = tiny_params().images
    import_source("dicom", tmp_path / "in", tmp_path / "set", images, 0, ImportOptions(key_file=key), 1, "threading")
    (image,) = read_labels(tmp_path / "set" / LABELS_FILE)["images"]
    assert (image["patient_id"], image["series_uid"]) == (found.patient, found.series)
