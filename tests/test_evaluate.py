"""`cmbfe evaluate`: two COCO files of any detector in; one folder of evidence out, or one line and nothing."""

import json
import os
import re
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from metric_examples import detection
from scipy.special import expit
from tiny_world import refused, tree

from cmbfe.data.labelled.detections import IMAGES_FILE
from cmbfe.errors import InputError
from cmbfe.evaluation import evaluate
from cmbfe.evaluation.evaluate import evaluate_files
from cmbfe.evaluation.page import METRICS, PAGE_FILE
from cmbfe.metrics.curves import average_precision, match, summary
from cmbfe.metrics.intervals import bootstrap, paired_difference

RESAMPLES = 60


def cohort(patients: int = 6, slices: int = 4) -> dict:
    """Labels of our own kind: each patient has a microbleed on two slices, another on one."""
    labels = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cmb"}]}
    for patient in range(patients):
        of_patient = {"patient_id": f"P{patient}", "series_uid": f"1.{patient}", "split": "test"}
        of_patient |= {"width": 100, "height": 100, "pixel_spacing_mm": [0.5, 0.5]}
        first = patient * slices + 1
        labels["images"] += [
            {"id": first + index, "file_name": f"P{patient}/{index}.png", "slice_index": index, **of_patient}
            for index in range(slices)
        ]
        for index, lesion, box in (
            (0, "lobar", [10, 10, 8, 8]),
            (1, "lobar", [10, 10, 8, 8]),
            (3, "deep", [60, 60, 4, 4]),
        ):
            keys = {"lesion_id": f"P{patient}/{lesion}", "location": lesion, "category_id": 1, "bbox": box}
            labels["annotations"].append({"id": len(labels["annotations"]) + 1, "image_id": first + index, **keys})
    return labels


def detections_of(labels: dict, seed: int, quality: float = 1.0) -> list[dict]:
    """Each box detected at a random score, and a random false positive on each image."""
    rng = np.random.default_rng(seed)
    hits = [detection(box["image_id"], expit(rng.normal(quality)), box["bbox"]) for box in labels["annotations"]]
    return hits + [detection(image["id"], expit(rng.normal()), [30, 80, 9, 9]) for image in labels["images"]]


def write(folder, **contents):
    """Write each content as NAME.json and return the paths."""
    paths = [folder / f"{name}.json" for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_text(json.dumps(content))
    return paths


@pytest.fixture
def labels():
    return cohort()


def run(paths, out, page=False, **options):
    """Without the page and its figures, which take most of the time, unless a test looks at them."""
    empty = mock.patch.object(evaluate, "write_page", lambda folder, *_: (folder / PAGE_FILE).touch())
    with nullcontext() if page else empty:
        return evaluate_files(*paths, out, resamples=RESAMPLES, progress=False, **options)


@pytest.fixture(scope="module")
def one_detector(tmp_path_factory):
    """An evaluation to look at: its folder, and what it returned."""
    folder = tmp_path_factory.mktemp("one_detector")
    result = run(write(folder, truth=cohort(), found=detections_of(cohort(), 0)), folder / "out", page=True)
    return folder / "out", result


def test_the_folder_holds_metrics_curves_tables_figures_and_one_page(one_detector):
    figures = ("pr", "froc", "froc_lesions", "reliability", "bland_altman")
    assert {path.name for path in one_detector[0].iterdir()} == {
        "metrics.json",
        *("pr.csv", "froc.csv", "reliability.csv", "froc_lesions.csv", "lesions.csv", "patients.csv"),
        *("microbleeds_by_size.csv", "microbleeds_by_location.csv", "patients_by_number_of_microbleeds.csv"),
        *(f"{name}.png" for name in figures),
        *(f"{name}.svg" for name in figures),
        "report.html",
    }


def test_metrics_json_is_the_summary_with_intervals_of_the_same_library_calls(one_detector):
    written = json.loads((one_detector[0] / "metrics.json").read_text())
    matches = match(cohort(), detections_of(cohort(), 0))
    assert {name: written[name] for name in summary(matches)} == pytest.approx(summary(matches))
    interval = bootstrap(average_precision, matches, RESAMPLES, seed=0)
    assert written["intervals"]["pictures"]["ap"]["low"] == pytest.approx(interval.low)
    assert written["cmbs"] == 18
    assert written["lesions"]["cmbs"] == 12
    assert set(written["intervals"]["lesions"]) == set(METRICS)


def test_curves_and_tables_agree_with_the_metrics(one_detector):
    folder, result = one_detector
    curve = pd.read_csv(folder / "pr.csv")
    at_point = curve[curve["threshold"] == result["threshold"]].iloc[0]
    assert at_point["precision"] == pytest.approx(result["precision_at_90_sensitivity"])
    assert at_point["precision"] == pytest.approx(result["at_threshold"]["precision"])
    lesions = pd.read_csv(folder / "lesions.csv")
    by_size = pd.read_csv(folder / "microbleeds_by_size.csv")
    assert len(lesions) == by_size["cmbs"].sum() == result["lesions"]["cmbs"]
    assert by_size["hits"].sum() == (lesions["score"] >= result["threshold"]).sum()
    assert pd.read_csv(folder / "patients.csv")["truth"].tolist() == [2] * 6


def test_the_page_holds_its_figures_and_refers_to_nothing_outside(one_detector):
    page = (one_detector[0] / "report.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,[A-Za-z0-9+/]{1000,}', page)) == 5
    assert "http" not in page
    assert "6 patients, 24 images, 18 microbleed boxes" in page


def test_a_second_detector_gives_paired_differences_and_the_same_input_the_same_bytes(tmp_path, labels):
    ours, other = detections_of(labels, 0, quality=2), detections_of(labels, 1)
    paths = write(tmp_path, truth=labels, ours=ours, theirs=other)
    result = run(paths[:2], tmp_path / "out", page=True, against=paths[2])
    expected = paired_difference(average_precision, match(labels, ours), match(labels, other), RESAMPLES, 0)
    assert result["difference"]["pictures"]["ap"] == pytest.approx(vars(expected))
    assert result["against"]["ap"] == pytest.approx(average_precision(match(labels, other)))
    assert pd.read_csv(tmp_path / "out" / "froc.csv")["detector"].unique().tolist() == ["ours", "theirs"]
    run(paths[:2], tmp_path / "again", page=True, against=paths[2])
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_files_of_other_tools_are_evaluated_per_image_and_the_gaps_are_named(tmp_path, labels):
    found = detections_of(labels, 0)
    for image in labels["images"]:
        for key in ("patient_id", "series_uid", "slice_index", "pixel_spacing_mm", "split"):
            del image[key]
    for box in labels["annotations"]:
        del box["lesion_id"], box["location"]
    result = run(write(tmp_path, truth=labels, found=found), tmp_path / "out")
    assert result["ap"] == pytest.approx(average_precision(match(labels, found)))
    assert result["patients"] == 24
    assert "lesions" not in result
    assert len(result["notes"]) == 2
    assert not (tmp_path / "out" / "lesions.csv").exists()


def test_a_detector_that_never_reaches_90_percent_has_null_and_a_note(tmp_path, labels):
    result = run(write(tmp_path, truth=labels, found=detections_of(labels, 0)[:9]), tmp_path / "out", page=True)
    assert np.isnan(result["threshold"])
    text = (tmp_path / "out" / "metrics.json").read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert written["precision_at_90_sensitivity"] is None
    assert "at_threshold" not in written
    assert len(written["notes"]) == 1


def test_a_threshold_chosen_elsewhere_is_the_operating_point(tmp_path, labels):
    paths = write(tmp_path, truth=labels, found=detections_of(labels, 0))
    result = run(paths, tmp_path / "out", threshold=0.5)
    assert result["threshold"] == 0.5
    assert result["settings"]["operating_point"] == "given"
    curve = pd.read_csv(tmp_path / "out" / "pr.csv")
    assert result["at_threshold"]["precision"] == curve[curve["threshold"] >= 0.5]["precision"].iloc[-1]


def test_no_microbleeds_are_no_error(tmp_path, labels, recwarn):
    paths = write(tmp_path, truth={**labels, "annotations": []}, found=detections_of(labels, 0))
    result = run(paths, tmp_path / "out", page=True)
    assert np.isnan(result["ap"])
    assert any("no microbleed" in note for note in result["notes"])
    assert not recwarn.list


def test_scores_that_are_no_probabilities_are_evaluated_without_calibration(tmp_path, labels):
    logits = [{**box, "score": box["score"] * 10 - 5} for box in detections_of(labels, 0)]
    result = run(write(tmp_path, truth=labels, found=logits), tmp_path / "out", page=True)
    assert np.isnan(result["expected_calibration_error"])
    assert len(result["notes"]) == 1
    assert not (tmp_path / "out" / "reliability.png").exists()


def test_mimics_are_counted_by_kind(tmp_path, labels):
    mimics = {
        "images": labels["images"],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 2, "bbox": [30, 80, 9, 9]}],
        "categories": [{"id": 1, "name": "vein"}, {"id": 2, "name": "iron"}],
    }
    paths = write(tmp_path, truth=labels, found=detections_of(labels, 0), mimics=mimics)
    run(paths[:2], tmp_path / "out", mimics=paths[2], threshold=0)
    table = pd.read_csv(tmp_path / "out" / "false_positives_by_mimic.csv").set_index("mimic")
    assert table["false_positives"].to_dict() == {"iron": 1, "none": 23}


def test_one_split_is_evaluated_and_must_be_named_where_there_are_several(tmp_path, labels):
    for image in labels["images"][:8]:
        image["split"] = "validation"
    tests = [box for box in detections_of(labels, 0) if box["image_id"] > 8]
    paths = write(tmp_path, truth=labels, found=tests)
    with pytest.raises(InputError, match=r"truth\.json: .*test, validation"):
        run(paths, tmp_path / "out")
    assert run(paths, tmp_path / "out", split="test")["patients"] == 4


def test_detections_that_cmbfe_made_of_some_of_the_images_only_are_refused(tmp_path, labels):
    (truth,) = write(tmp_path, truth=labels)
    images = {**labels, "images": labels["images"][1:], "annotations": []}
    (tmp_path / "found").mkdir()
    _, found = write(tmp_path / "found", images=images, detections=[])
    assert found.with_name(IMAGES_FILE).exists()
    with pytest.raises(InputError, match=r"images\.json"):
        run([truth, found], tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("truth", lambda labels, found: labels["annotations"][0].update(bbox=[1, 1, 0, 4])),
        ("truth", lambda labels, found: (labels.update(images=[], annotations=[]), found.clear())),
        ("found", lambda labels, found: found[0].update(image_id=99)),
        ("found", lambda labels, found: found[3].update(score=float("nan"))),
        ("found", lambda labels, found: found[0].update(bbox=[0, -2e9, 4, 4])),
        ("found", lambda labels, found: found[0].update(bbox=[0, 0, 1e200, 1e200])),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, labels, file, spoil):
    found = detections_of(labels, 0)
    spoil(labels, found)
    paths = write(tmp_path, truth=labels, found=found)
    with refused(tmp_path, rf"{file}\.json"):
        run(paths, tmp_path / "out")


@pytest.mark.parametrize("category", [{}, {"name": 3}, {"name": "none"}])
def test_kinds_of_mimics_need_names_of_their_own(tmp_path, labels, category):
    kinds = {**labels, "categories": [{"id": 1, **category}]}
    truth, found, mimics = write(tmp_path, truth=labels, found=[], mimics=kinds)
    with pytest.raises(InputError, match=r"mimics\.json: category 1"):
        run([truth, found], tmp_path / "out", mimics=mimics)


@pytest.mark.parametrize(
    "option", [{"threshold": float("nan")}, *({"iou": iou} for iou in (0, -1, 1.5, float("nan")))], ids=str
)
def test_an_impossible_threshold_or_iou_is_an_error(tmp_path, labels, option):
    with pytest.raises(InputError, match=next(iter(option))):
        run(write(tmp_path, truth=labels, found=[]), tmp_path / "out", **option)


def test_any_name_of_a_file_is_drawn_and_written_as_it_stands(tmp_path, labels, recwarn):
    (truth,) = write(tmp_path, truth=labels)
    paths = [tmp_path / name for name in (r"_$\frac$ <b>检测.json", os.fsdecode(b"b\xff.json"))]
    for path in paths:
        path.write_text(json.dumps(detections_of(labels, 0)))
    result = run([truth, paths[0]], tmp_path / "out", page=True, against=paths[1])
    assert [result["detector"], result["against"]["detector"]] == [r"_$\frac$ <b>检测", "b\ufffd"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert r"_$\frac$ &lt;b&gt;检测" in page
    assert "<b>" not in page
    assert not recwarn.list


@pytest.mark.parametrize("out", ["a folder of something else", "a link to itself"])
def test_nothing_but_an_earlier_evaluation_is_replaced(tmp_path, labels, out):
    if out == "a link to itself":
        (tmp_path / "out").symlink_to("out")
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="out"):
        run(write(tmp_path, truth=labels, found=[]), tmp_path / "out")
    assert (tmp_path / "out").is_symlink() or (tmp_path / "out" / "thesis.txt").read_text() == "dear"


def test_a_box_without_a_lesion_leaves_out_the_lesion_level_and_no_detections_are_no_error(tmp_path, labels, recwarn):
    labels["annotations"][0]["lesion_id"] = None
    result = run(write(tmp_path, truth=labels, found=[]), tmp_path / "out", page=True)
    assert result["ap"] == 0
    assert not recwarn.list
    assert "lesions" not in result
    assert any("no lesion_id" in note for note in result["notes"])


@pytest.mark.parametrize("uid", [None, "1.2"])
def test_scans_that_the_labels_do_not_tell_apart_leave_out_the_lesion_level(tmp_path, labels, uid):
    for image in labels["images"]:  # every patient becomes a visit of one
        image |= {"patient_id": "P", "series_uid": uid}
    result = run(write(tmp_path, truth=labels, found=detections_of(labels, 0)), tmp_path / "out")
    assert "lesions" not in result
    assert result["cmbs"] == 18
    assert any(note.startswith("No lesion level: images 1 and 5 have slice_index 0") for note in result["notes"])


def test_lesion_ids_that_begin_anew_with_each_visit_are_microbleeds_of_their_own(tmp_path, labels):
    for image in labels["images"]:
        image["patient_id"] = "P"
    for box in labels["annotations"]:
        box["lesion_id"] = box["location"]
    result = run(write(tmp_path, truth=labels, found=detections_of(labels, 0)), tmp_path / "out")
    assert (result["lesions"]["cmbs"], result["lesions"]["hits"], result["notes"]) == (12, 12, [])
    assert len(pd.read_csv(tmp_path / "out" / "lesions.csv")) == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 2}, "overlap another"),
        ({"image_id": 2, "bbox": [10, 10, 8, 7.5]}, "overlap another"),
        ({"image_id": 4, "bbox": [40, 40, 8, 8]}, "one lesion_id may stand for several"),
        ({"image_id": 1, "bbox": [40, 40, 8, 8]}, "one lesion_id may stand for several"),
    ],
)
def test_labels_that_may_not_be_what_they_seem_are_counted_in_the_notes(tmp_path, labels, change, said):
    labels["annotations"].append({**labels["annotations"][2], **labels["annotations"][0], "id": 99, **change})
    result = run(write(tmp_path, truth=labels, found=detections_of(labels, 0)), tmp_path / "out")
    assert [note for note in result["notes"] if note.startswith("1 ") and said in note]


def test_detections_that_may_be_two_corners_are_said_to_be(tmp_path, labels):
    found = detections_of(labels, 0)
    for box in found:
        x, y, width, height = box["bbox"]
        box["bbox"] = [x, y, x + width, y + height]
    (note,) = run(write(tmp_path, truth=labels, found=found), tmp_path / "out")["notes"][:1]
    assert note.startswith("All boxes of found are wider")


def test_boxes_in_shares_of_the_image_are_refused_in_labels_and_detections(tmp_path, labels):
    found = detections_of(labels, 0)
    for name, boxes in (("found", found), ("truth", labels["annotations"])):
        for box in boxes:
            box["bbox"] = [value / 100 for value in box["bbox"]]
        paths = write(tmp_path, truth=labels, found=found)
        with refused(tmp_path, rf"{name}\.json: all boxes lie within 0 to 1"):
            run(paths, tmp_path / "out")
