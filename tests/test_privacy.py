"""Privacy of imports and detections: no name, id or text of a source in any output; pseudonyms and their key."""

import base64
import gzip
import json
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from findings_world import detect
from PIL import Image
from pydicom.dataset import Dataset
from source_world import affine_of, dou, head, imported, save, valdo, workbook, write_voc
from tiny_world import dicom_head, dicom_labels, tree

from cmbfe.data.labelled.labels import LABELS_FILE
from cmbfe.data.sources.identity import Pseudonyms, kept_salt, read_key
from cmbfe.errors import InputError
from cmbfe.files import read_json

PLANTED = ("MUSTERMANN", "19670314", "sub-101", "90210473", "secretclinic")
"""A name, a date, ids and free text, planted wherever a source has room for them."""
DOTS = [(14, 20, 4)]


def planted_valdo(folder: Path) -> Path:
    texts = {"descrip": "MUSTERMANN 19670314", "aux_file": "secretclinic", "intent_name": "MUSTERMANN"}
    return valdo(folder, {"sub-101": DOTS}, **texts, db_name="secretclinic")


def planted_momeni(folder: Path) -> Path:
    name = "90210473_T1_MUSTERMANN_HM"
    save(folder / "rCMB_DefiniteSubject" / f"{name}.nii.gz", head(), affine_of("LPS"), descrip="19670314")
    workbook(folder / "rCMBInformationInfo.xlsx", [[f"{name}.nii.gz", 15, 21, 5]])
    return folder


def planted_nifti(folder: Path) -> Path:
    save(
        folder / "MUSTERMANN" / "19670314.nii", head(), affine_of("LPS"), descrip="secretclinic", aux_file="90210473"
    )
    text = "# secretclinic\nimages: '{patient}/{series}.nii'\nsplits: {test: [MUSTERMANN]}"
    (folder / "import.yaml").write_text(text)
    return folder


def planted_coco(folder: Path, voc: bool = False) -> Path:
    file = folder / "MUSTERMANN" / "19670314.jpg"
    file.parent.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = "MUSTERMANN secretclinic"
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(file, exif=exif, comment=b"secretclinic")
    image = {"id": 90210473, "file_name": "MUSTERMANN/19670314.jpg", "width": 64, "height": 64}
    image |= {"series_uid": "90210473.1", "sop_instance_uid": "90210473.2"}
    image |= {"date_captured": "19670314", "patient_id": "sub-101"}
    box = {"id": 1, "image_id": 90210473, "category_id": 1, "bbox": [1, 2, 3, 4], "lesion_id": "MUSTERMANN/1"}
    category = {"id": 1, "name": "secretclinic cmb"}
    labels = {"info": "secretclinic", "images": [image], "annotations": [box], "categories": [category]}
    if not voc:
        (folder / "annotations.json").write_text(json.dumps(labels))
        return folder
    write_voc({**labels, "categories": [{"id": 1, "name": "cmb"}]}, folder)
    return folder


IDENTIFYING = {
    **dict.fromkeys(("OtherPatientNames", "ImageComments", "OperatorsName"), "MUSTERMANN"),
    **dict.fromkeys(("OtherPatientIDs", "AccessionNumber", "StudyID"), "90210473"),
    **dict.fromkeys(("PatientBirthDate", "StudyDate"), "19670314"),
    **dict.fromkeys(("PatientAddress", "ProtocolName", "InstitutionName", "InstitutionAddress"), "secretclinic 1"),
    **dict.fromkeys(("StudyDescription", "SeriesDescription", "StationName"), "at secretclinic"),
    **{"PatientName": "MUSTERMANN^ERIKA", "ReferringPhysicianName": "MUSTERMANN^HANS"},
    **{"PatientComments": "MUSTERMANN, born 19670314", "AcquisitionDateTime": "19670314120000"},
    **{"StudyInstanceUID": "1.2.90210473.19670314", "SeriesInstanceUID": "1.2.90210473.19670314.1"},
}
ID, SERIES = "sub-101", IDENTIFYING["SeriesInstanceUID"]


def planted_dicom(folder: Path, **more: object) -> Path:
    request = Dataset()
    request.RequestedProcedureDescription, request.ScheduledProcedureStepID = "MUSTERMANN", "90210473"
    series = folder / "MUSTERMANN_ERIKA" / "19670314"
    names = [f"90210473_{number}.dcm" for number in range(4)]
    fields = {**IDENTIFYING, "RequestAttributesSequence": [request], **more}
    images = dicom_head(series, "sub-101", names=names, **fields)
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        image.private_block(0x0009, "secretclinic", create=True).add_new(1, "LO", "MUSTERMANN")
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.90210473.19670314.1.{number}"
        image.save_as(series / name)
    own = {"patient_id": "sub-101", "series_uid": "90210473", "date_captured": "19670314", "split": "train"}
    labels = dicom_labels(images, **own)
    labels["annotations"][0] |= {"lesion_id": "MUSTERMANN", "location": "secretclinic", "reader": "MUSTERMANN"}
    labels |= {"info": "secretclinic", "categories": [{"id": 1, "name": "secretclinic cmb"}]}
    (folder / LABELS_FILE).write_text(json.dumps(labels))
    return folder


PLANTERS = {
    "dicom": planted_dicom,
    "valdo": planted_valdo,
    "momeni": planted_momeni,
    "dou": lambda folder: dou(folder, {"90210473_MUSTERMANN": DOTS}),
    "nifti": planted_nifti,
    "coco": planted_coco,
    "voc": lambda folder: planted_coco(folder, voc=True),
}


def found_in(folder: Path, texts: tuple[str, ...] = PLANTED) -> list[str]:
    """Where below a folder one of the texts is, in whatever case: in names or contents, also of gzip and PNG."""
    found = []
    for name, content in tree(folder).items():
        parts = [name.encode(), content or b""]
        if content and content[:2] == b"\x1f\x8b":
            parts.append(gzip.decompress(content))
        parts += [base64.b64decode(packed) for packed in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content or b"")]
        if name.endswith((".png", ".jpg")):
            with Image.open(folder / name) as image:
                image.load()  # PNG may hold text after its pixels
                parts.append(repr((image.info, dict(image.getexif()))).encode())
        found += [f"{text} in {name}" for text in texts for part in parts if text.lower().encode() in part.lower()]
    return found


@pytest.mark.parametrize("kind", PLANTERS)
def test_no_planted_identifier_is_in_any_output(run_cmbfe, tmp_path, kind):
    source = PLANTERS[kind](tmp_path / "in")
    assert found_in(source), "nothing was planted"
    out, key = tmp_path / "out", tmp_path / "key.json"
    options = ["--key-file", key, "--jobs", 1, "--backend", "threading"]
    status, said, err = run_cmbfe("import", kind, source, out, *options)
    assert status == 0, err
    assert found_in(out) == []
    lines = [line for line in (said + err).splitlines() if not line.startswith("cmbfe: passed over")]  # with the file
    assert not [text for text in PLANTED if text.lower() in " ".join(lines).lower()]
    assert found_in(key.parent, PLANTED)  # the key, which is no output, has them
    (patient,) = read_key(key)["patients"]
    assert {image["patient_id"] for image in read_json(out / LABELS_FILE)["images"]} == {patient}


def test_a_salt_is_random_unless_the_key_file_has_one_which_keeps_earlier_patients(tmp_path):
    source, later = dou(tmp_path / "in", {"01": DOTS, "02": []}), dou(tmp_path / "later", {"03": DOTS})
    key = tmp_path / "keys" / "key.json"
    names = []
    for number, file in enumerate([None, None, key, key]):
        labels = imported("dou", source, tmp_path / str(number), keep_ids=False, key_file=file)
        names.append(frozenset(image["patient_id"] for image in labels["images"]))
    assert names[2] == names[3] == frozenset(read_key(key)["patients"])
    assert len(set(names)) == 3
    imported("dou", later, tmp_path / "out", keep_ids=False, key_file=key)
    assert sorted(read_key(key)["patients"].values()) == ["01", "02", "03"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_split_is_the_same_whatever_the_pseudonyms(tmp_path):
    source = dou(tmp_path / "in", {f"{number:02d}": [] for number in range(6)})
    key = tmp_path / "key.json"
    hidden = imported("dou", source, tmp_path / "hidden", keep_ids=False, key_file=key)
    shown = imported("dou", source, tmp_path / "shown")
    who = read_key(key)["patients"]
    splits = [{image["patient_id"]: image["split"] for image in labels["images"]} for labels in (hidden, shown)]
    assert {who[patient]: split for patient, split in splits[0].items()} == splits[1]
    assert set(splits[1].values()) == {"train", "test", "validation"}


def test_pseudonyms_are_no_numbers_and_depend_on_salt_and_kind():
    one, other = Pseudonyms(b"1" * 32), Pseudonyms(b"2" * 32)
    assert len({one.patient("1"), one.patient("2"), other.patient("1"), one.series("1", "2")}) == 4
    assert one.series("a", "bc") != one.series("ab", "c")
    assert one.patient("1")[0].isalpha()


@pytest.mark.parametrize("content", ["{}", "[]", '{"salt": 3}', '{"salt": "x"}'])
def test_a_spoilt_salt_of_a_killed_import_is_named(tmp_path, content):
    (tmp_path / "salt.json").write_text(content)
    with pytest.raises(InputError, match=r"salt\.json: holds no salt; remove"):
        kept_salt(tmp_path / "salt.json")


def test_no_planted_identifier_is_in_any_output_of_a_detection(tmp_path):
    planted_dicom(tmp_path / "in", FrameOfReferenceUID="1.2.3")
    dicom_head(tmp_path / "in" / "burned", ID, slices=1, SeriesInstanceUID=SERIES + ".2", BurnedInAnnotation="YES")
    detect(tmp_path / "in", tmp_path / "out", keep_ids=False, bids=True)
    pages = list((tmp_path / "out" / "pages").iterdir())
    assert len(pages) == 1
    assert "Left out: burned-in annotation" in pages[0].read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("detections.json", "detections.csv", "images.json", "lesions.csv", "lesions.json", "series.json"),
        *("summary.json", "regions.csv", "images", "overlays", "pages", "bids"),
    }
    assert found_in(tmp_path / "out") == []
    infos = [Image.open(path).info for path in (tmp_path / "out" / "overlays").rglob("*.png")]
    assert infos == [{}] * 4
    detect(tmp_path / "in", tmp_path / "kept")  # ids are kept on request, and the search finds them
    assert {entry.split()[0] for entry in found_in(tmp_path / "kept")} >= {ID, "19670314"}


def test_names_and_texts_of_nifti_files_do_not_get_out_either(tmp_path):
    planted_nifti(tmp_path / "in")
    detect(tmp_path / "in", tmp_path / "out", keep_ids=False)
    assert found_in(tmp_path / "out") == []


def test_a_report_for_the_pacs_carries_the_patient_and_nothing_else_does(tmp_path):
    planted_dicom(tmp_path / "in", FrameOfReferenceUID="1.2.3")
    detect(tmp_path / "in", tmp_path / "out", keep_ids=False, sr=True, segmentation=True)
    names = [entry.split(" in ")[1] for entry in found_in(tmp_path / "out")]
    assert {name.split("/")[0] for name in names} == {"sr", "segmentation"}


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
    (image,) = imported("dicom", tmp_path / "in", tmp_path / "set", keep_ids=False, key_file=key)["images"]
    assert (image["patient_id"], image["series_uid"]) == (found.patient, found.series)
