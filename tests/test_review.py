"""Reviews of detections: the file of a reader, what several readers say together, and the labels that come of it."""

import json
import re
from pathlib import Path

import highdicom as hd
import numpy as np
import pandas as pd
import pytest
from findings_world import IMAGES
from review_world import content_of, found_lesions, reviewed, save_review
from sklearn.metrics import cohen_kappa_score
from source_world import imported
from tiny_world import dicom_head, dicom_labels, tiny_params, tree

from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.data.sources.importer import take_import
from cmbfe.errors import InputError
from cmbfe.files import read_json, write_json
from cmbfe.findings.review import Added, cohen_kappa, fleiss_kappa_of, read_found, read_review, readings
from cmbfe.findings.reviewed import review_files
from cmbfe.findings.viewer import review
from cmbfe.params import save_params


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """Ten lesions on four slices of 2 mm, pixels of 0.5 mm (rows) by 0.75 mm (columns)."""
    folder = tmp_path_factory.mktemp("found")
    dicom_head(folder / "in")
    return found_lesions(folder / "in", folder / "out", 10)


def labels_of(out: Path) -> list[tuple[int, list[float], bool]]:
    """Slice, box and whether it is a region to leave out, of each annotation."""
    labels = read_labels(out / LABELS_FILE)
    slices = {image["id"]: image["slice_index"] for image in labels["images"]}
    return [(slices[box["image_id"]], box["bbox"], box.get("ignore") == 1) for box in labels["annotations"]]


def test_accepted_unsure_and_added_lesions_become_labels(found, tmp_path, run_cmbfe):
    added = {"slice": 2, "x": 40, "y": 50.5, "diameter_mm": 3}
    file = reviewed(tmp_path / "r.json", found, "AB", "yn?nnnnnnn", added)
    status, said, _ = run_cmbfe("review", found, file, "--out", tmp_path / "out")
    assert status == 0
    assert "patients: 1, microbleeds: 2, rejected: 8, unsure: 1, added: 1" in said
    boxes = labels_of(tmp_path / "out")
    assert [box for box in boxes if box[1] == [4, 6, 4, 4]] == [(index, [4, 6, 4, 4], False) for index in range(4)]
    assert [box for box in boxes if box[1] == [28, 6, 4, 4]] == [(index, [28, 6, 4, 4], True) for index in range(4)]
    assert (2, [38, 47.5, 4, 6], False) in boxes  # 3 mm: on this slice only, as the others are 2 mm away
    assert len(boxes) == 9


def test_the_labels_are_those_that_an_import_writes(tmp_path):
    slices = dicom_head(tmp_path / "in")
    found = found_lesions(tmp_path / "in", tmp_path / "found", 1)
    review_files(found, [reviewed(tmp_path / "r.json", found, "AB", "y")], tmp_path / "reviewed", 0)
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [4, 6, 4, 4], "lesion_id": "a"} for i in range(10, 14)
    ]
    write_json(tmp_path / "labels.json", {**dicom_labels(slices), "annotations": boxes})
    options = {"labels": tmp_path / "labels.json", "images": IMAGES}
    labels = imported("dicom", tmp_path / "in", tmp_path / "imported", **options)
    for image in labels["images"]:
        del image["sop_instance_uid"]  # says what a slice was made of, not how it is labelled
    assert read_labels(tmp_path / "reviewed" / LABELS_FILE) == labels
    ours, theirs = (tree(tmp_path / name) for name in ("reviewed", "imported"))
    same = ["series.json", *(f"P1/00{number}.png" for number in range(4))]
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert set(ours) - set(theirs) == {"review.csv", "review.html", "review.json"}


def test_kappa_of_two_readers_is_that_worked_out_by_hand(found, tmp_path, run_cmbfe):
    """7 of 10 answers agree; by chance 0.5² + 0.3² + 0.2² = 0.38 would: (0.7 - 0.38) / (1 - 0.38)."""
    first = reviewed(tmp_path / "a.json", found, "AB", "yyyyynnn??")
    second = reviewed(tmp_path / "b.json", found, "CD", "yyyynnn??y")
    assert run_cmbfe("review", found, first, second, "--out", tmp_path / "out")[0] == 0
    (both,) = read_json(tmp_path / "out" / "review.json")["agreement"]
    assert (both["readers"], both["lesions"], both["same_answer"], both["kind"]) == ("AB, CD", 10, 0.7, "Cohen")
    assert both["kappa"] == pytest.approx(0.32 / 0.62)
    table = pd.read_csv(tmp_path / "out" / "review.csv")
    assert table["agreement"].tolist() == [1, 1, 1, 1, 0, 1, 1, 0, 1, 0]
    assert table["result"].tolist() == ["yes"] * 4 + ["unsure", "no", "no", "unsure", "unsure", "unsure"]


def test_kappa_of_three_readers_is_fleiss():
    """Answers agree in 2/3 of the pairs; by chance (25 + 9 + 16) / 144 would: 23/47."""
    answers = np.array([list(own) for own in ("yyy", "yyn", "nn?", "???")])
    assert fleiss_kappa_of(answers) == pytest.approx(23 / 47)
    assert np.isnan(fleiss_kappa_of(np.full((3, 3), "y")))


def test_kappa_is_that_of_scikit_learn():
    first, second = np.random.default_rng(0).choice(["yes", "no", "unsure"], (2, 50))
    assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))
    assert np.isnan(cohen_kappa(["yes"], ["yes"]))
    assert np.isnan(cohen_kappa([], []))


ADDED = {"slice": 0, "x": 31.9, "y": 45.3, "diameter_mm": 6, "answer": "yes"}
SAVED = {"format": "cmbfe review", "version": 1, "patient": "P1", "reader": 'Åsa "B"'} | {
    "series": [
        {
            "uid": "1.2.826.0.1.3680043.8.498.13625670212984081215996353255213151394",
            "findings": "5407d888c9d42ac8",
            "lesions": [{"lesion": n, "answer": answer} for n, answer in enumerate(("yes", "no", "unsure"), 1)],
            "added": [ADDED],
        }
    ],
    "checksum": 1834964986,
}
"""As Chromium saved it, of three lesions in this head."""


def test_a_file_that_the_page_has_saved_is_read_without_a_browser(tmp_path):
    dicom_head(tmp_path / "in")
    found = read_found(found_lesions(tmp_path / "in", tmp_path / "found", 3))
    (tmp_path / "review.json").write_text(json.dumps(SAVED, indent=1, ensure_ascii=False), encoding="utf-8")
    review = read_review(tmp_path / "review.json", found)
    assert review.reader == 'Åsa "B"'
    (series,) = review.series
    assert series.answers == {1: "yes", 2: "no", 3: "unsure"}
    assert series.added == [Added(**ADDED)]


def test_the_review_of_a_notebook_is_saved_as_a_file(found, tmp_path):
    widget = review(found, out=tmp_path / "reviews")
    widget.saved = ["r.json", json.dumps(content_of(found, "CD", "yn" * 5))]
    assert json.loads((tmp_path / "reviews" / "r.json").read_text())["reader"] == "CD"
    with pytest.raises(InputError, match="Give one of: P1"):
        review(found, "P2")


def of_series(change):
    return lambda review: change(review["series"][0])


@pytest.mark.parametrize(("change", "named"), [
    (lambda review: review.update(patient="P2"), "patient 'P2'"),
    (lambda review: review["series"].append(review["series"][0]), "not of the series of P1"),
    (lambda review: review["series"].clear(), "not of the series of P1"),
    (of_series(lambda series: series.update(uid="1.2.3")), r"not of the series of P1.*1\.2\.3"),
    (of_series(lambda series: series.update(findings="0" * 16)), "other findings"),
    (of_series(lambda series: series["lesions"].pop()), "those that were found: 10"),
    (of_series(lambda series: series["lesions"].append({"lesion": 99, "answer": "yes"})), "found: 99"),
    (of_series(lambda series: series["lesions"].append({"lesion": 3, "answer": "no"})), "found: 3"),
    (of_series(lambda series: series["lesions"][2].update(answer="maybe")), r"lesions\.2\.answer.*'maybe'"),
    (of_series(lambda series: series["lesions"][2].pop("answer")), r"lesions\.2\.answer: missing key"),
    (of_series(lambda series: series["added"][0].update(slice=4)), "outside its images: slice 4"),
    (of_series(lambda series: series["added"][0].update(x=-1)), "outside its images: slice 1, -1"),
    (of_series(lambda series: series["added"][0].update(y=float("nan"))), r"added\.0\.y.*finite"),
    (lambda review: review.update(version=2), "version.*found 2"),
    (lambda review: review.update(format="coco"), "format.*found 'coco'"),
])  # fmt: skip
def test_a_review_that_is_malformed_or_of_something_else_is_refused(found, tmp_path, refused_line, change, named):
    content = content_of(found, "AB", "y" * 10, [{"slice": 1, "x": 30, "y": 58}])
    change(content)
    file = save_review(tmp_path / "review.json", content)
    line = refused_line("review", found, file, "--out", tmp_path / "out")
    assert re.search(f"{file}: .*{named}", line), line


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "{}", "\0", '{"\\ud800": 1}', "[" * 9999])
def test_a_file_that_is_no_review_is_refused(found, tmp_path, refused_line, text):
    (tmp_path / "review.json").write_text(text)
    assert "review.json" in refused_line("review", found, tmp_path / "review.json", "--out", tmp_path / "out")


def test_an_answer_that_was_changed_after_saving_is_noticed(found, tmp_path, refused_line):
    file = reviewed(tmp_path / "review.json", found, "AB", "y" * 10)
    file.write_text(file.read_text().replace('"yes"', '"no"', 1))
    assert "checksum" in refused_line("review", found, file, "--out", tmp_path / "out")


def test_what_cannot_be_reviewed_is_refused(found, tmp_path, refused_line):
    file = reviewed(tmp_path / "review.json", found, "AB", "y" * 10)
    out = ["--out", tmp_path / "out"]
    assert "by AB" in refused_line("review", found, file, file, *out)
    assert "lesions.json" in refused_line("review", tmp_path, file, *out)
    assert "--source" in refused_line("review", found, file, "--sr", *out)
    dicom_head(tmp_path / "other", "P9")
    assert "is not there" in refused_line("review", found, file, "--source", tmp_path / "other", *out)


def test_what_two_readers_have_added_within_3_mm_is_one_lesion(found, tmp_path):
    added = [{"slice": 1, "x": 20, "y": 58}, {"slice": 1, "x": 50, "y": 58}]
    others = [{"slice": 2, "x": 22, "y": 58, "answer": "unsure"}, {"slice": 0, "x": 20, "y": 30}]  # 2.5 mm away, far
    files = [reviewed(tmp_path / "a.json", found, "AB", "y" * 10, *added)]
    files.append(reviewed(tmp_path / "c.json", found, "CD", "y" * 10, *others))
    series = read_found(found)
    every = readings(series, [read_review(file, series) for file in files])[10:]
    answers = [reading.answers for reading in every]
    assert answers == [{"AB": "yes", "CD": "unsure"}, {"AB": "yes", "CD": "no"}, {"AB": "no", "CD": "yes"}]
    assert [reading.result for reading in every] == ["unsure"] * 3
    assert [reading.lesion.number for reading in every] == [11, 12, 13]
    x, y, width, height = every[0].lesion.boxes[1][0]
    assert (x + width / 2, y + height / 2) == pytest.approx((21, 58))


def test_sr_and_segmentation_hold_what_the_readers_say(tmp_path, run_cmbfe):
    dicom_head(tmp_path / "in", FrameOfReferenceUID="1.2.3")
    found = found_lesions(tmp_path / "in", tmp_path / "found", 3, key_file=tmp_path / "key.json")
    file = reviewed(tmp_path / "r.json", found, "AB", "yn?", {"slice": 2, "x": 30, "y": 58})
    objects = ["--sr", "--segmentation", "--source", tmp_path / "in", "--key-file", tmp_path / "key.json"]
    assert run_cmbfe("review", found, file, "--out", tmp_path / "out", *objects)[0] == 0
    (report,) = (tmp_path / "out" / "sr").iterdir()
    groups = hd.sr.srread(report).content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["Microbleed 1", "Microbleed 4"]
    assert [len(group.get_measurements()) for group in groups] == [2, 1]  # no score of what a reader has added
    (segmentation,) = (tmp_path / "out" / "segmentation").iterdir()
    segments = hd.seg.segread(segmentation).SegmentSequence
    assert [str(one.SegmentAlgorithmType) for one in segments] == ["SEMIAUTOMATIC"] * 2


def test_reviewed_patients_train_a_detector_that_detects(tmp_path, run_cmbfe):
    """The loop: detect, review, train, detect; at the size of the smoke profile."""
    for patient in ("P1", "P2", "P3"):
        dicom_head(tmp_path / "in" / patient, patient)
    found = found_lesions(tmp_path / "in", tmp_path / "found", 2)
    files = [reviewed(tmp_path / f"{p}.json", found, "AB", "yn", patient=p) for p in ("P1", "P2", "P3")]
    save_params(tiny_params(iterations=2, milestones=()), tmp_path / "params.yaml")
    data, model = tmp_path / "reviewed", tmp_path / "model"
    assert run_cmbfe("review", found, *files, "--out", data)[0] == 0
    taken = take_import(data, tmp_path / "pictures")  # what data.source names
    assert {image["split"] for image in taken["images"]} == {"train", "validation", "test"}
    assert not (tmp_path / "pictures" / "review.html").exists()
    params = ["--params", tmp_path / "params.yaml"]
    assert run_cmbfe("train", "ssd300", "--data", data, "--out", model, *params)[0] == 0
    assert run_cmbfe("detect", tmp_path / "in", "--model", model, "--out", tmp_path / "again")[0] == 0
    assert read_found(tmp_path / "again")
