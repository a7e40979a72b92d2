"""Nobody's name, id, date or text of a header is in an output, unless it was asked for."""

import base64
import json
import re

import pytest
from findings_world import detect
from nifti_files import affine_of, head, save
from PIL import Image
from tiny_world import dicom_head, tiny_params, tree

from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.data.sources.importer import Options as ImportOptions
from cmbfe.data.sources.importer import import_source

PLANTED = {
    "PatientName": "Quibble^Zacharias",
    "PatientBirthDate": "19470813",
    "PatientAddress": "Xylophone Lane 77",
    "StudyDate": "20191224",
    "AcquisitionDate": "20191224",
    "StudyDescription": "Wobblecheck",
    "SeriesDescription": "SWAN Fizzwhistle",
    "InstitutionName": "Hospital Grumblethorpe",
    "ReferringPhysicianName": "Snickerdoodle^Ottokarius",
    "AccessionNumber": "ACC778899",
    "StudyID": "STU445566",
    "PatientComments": "Flibbertigibbet",
}
ID, SERIES = "MRN00990099", "1.2.826.99.4711.20191224"


def identifiers() -> list[bytes]:
    texts = [ID, SERIES, *PLANTED.values()]
    return [part.encode() for text in texts for part in {text, *re.split(r"[\^ ]", text)} if len(part) > 6]


def leaks(out) -> list[tuple[str, bytes]]:
    """Names and contents of every output, images of pages unpacked, in which an identifier is found."""
    contents = {name: content or b"" for name, content in tree(out).items()}
    for name, content in list(contents.items()):
        for number, packed in enumerate(re.findall(rb"base64,([A-Za-z0-9+/=]+)", content)):
            contents[f"{name} image {number}"] = base64.b64decode(packed)
    return [
        (name, planted)
        for name, content in contents.items()
        for planted in identifiers()
        if planted.lower() in content.lower() or planted.lower() in name.lower().encode()
    ]


def plant(folder, **more: object) -> None:
    dicom_head(folder / f"{ID}_Quibble", ID, slices=2, SeriesInstanceUID=SERIES, **PLANTED, **more)


def test_no_planted_identifier_is_in_any_output(tmp_path):
    plant(tmp_path / "in", FrameOfReferenceUID="1.2.3")
    dicom_head(tmp_path / "in" / "burned", ID, slices=1, SeriesInstanceUID=SERIES + ".2", BurnedInAnnotation="YES")
    detect(tmp_path / "in", tmp_path / "out", keep_ids=False)
    pages = list((tmp_path / "out" / "pages").iterdir())
    assert len(pages) == 1
    assert "A series was left out: burned-in annotation" in pages[0].read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("detections.json", "detections.csv", "images.json", "lesions.csv", "summary.json"),
        *("overlays", "pages"),
    }
    assert leaks(tmp_path / "out") == []
    infos = [Image.open(path).info for path in (tmp_path / "out" / "overlays").rglob("*.png")]
    assert infos == [{}, {}]
    detect(tmp_path / "in", tmp_path / "kept")  # ids are kept on request, and the search finds them
    assert {planted for _, planted in leaks(tmp_path / "kept")} >= {ID.encode(), SERIES.encode()}


def test_names_and_texts_of_nifti_files_do_not_get_out_either(tmp_path):
    folder = tmp_path / "in" / f"{ID}_Quibble"
    save(folder / "20191224" / "swi.nii", head(), affine_of("LPS"), descrip="Zacharias", aux_file="Wobblecheck")
    detect(tmp_path / "in", tmp_path / "out", keep_ids=False)
    assert leaks(tmp_path / "out") == []


def test_a_report_for_the_pacs_carries_the_patient_and_nothing_else_does(tmp_path):
    plant(tmp_path / "in", FrameOfReferenceUID="1.2.3")
    detect(tmp_path / "in", tmp_path / "out", keep_ids=False, sr=True, segmentation=True)
    assert {name.split("/")[0] for name, _ in leaks(tmp_path / "out")} == {"sr", "segmentation"}


def test_pseudonyms_are_new_each_time_unless_a_key_file_leads_back(tmp_path):
    plant(tmp_path / "in")
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
