"""`cmbfe evaluate`: two COCO files of any detector in; one folder of evidence out, or one line and nothing."""

import json
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from metric_examples import detection
from scipy.special import expit
from tiny_world import refused, tree

from cmbfe.errors import InputError
from cmbfe.evaluation import evaluate
from cmbfe.evaluation.evaluate import evaluate_files
from cmbfe.evaluation.page import METRICS, PAGE_FILE
from cmbfe.metrics.curves import average_precision, match, summary
from cmbfe.metrics.intervals import bootstrap, paired_difference

RESAMPLES = 60


def cohort(patients: int = 6, slices: int = 4) -> dict:
    """Labels of our own kind: each patient has a microbleed on two slices, another on one."""
    images, boxes = [], []
    for patient in range(patients):
        own = {"patient_id": f"P{patient}", "series_uid": f"1.{patient}", "split": "test"}
        for index in range(slices):
            place = {"file_name": f"P{patient}/{index}.png", "slice_index": index}
            size = {"width": 100, "height": 100, "pixel_spacing_mm": [0.5, 0.5]}
            images.append({"id": len(images) + 1, **place, **size, **own})
            if index != 2:
                lesion, box = ("deep", [60, 60, 4, 4]) if index == 3 else ("lobar", [10, 10, 8, 8])
                keys = {"lesion_id": f"P{patient}/{lesion}", "location": lesion, "category_id": 1, "bbox": box}
                boxes.append({"id": len(boxes) + 1, "image_id": len(images), **keys})
    return {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cmb"}]}


def detections_of(labels: dict, seed: int, quality: float = 1.0) -> list[dict]:
    """Each box detected at a random score, and a random false positive on each image."""
    rng = np.random.default_rng(seed)
    hits = [detection(box["image_id"], expit(rng.normal(quality)), box["bbox"]) for box in labels["annotations"]]
    return hits + [detection(image["id"], expit(rng.normal()), [30, 80, 9, 9]) for image in labels["images"]]


def write(folder, **contents):
    """Write each content as NAME.json and return the paths."""
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return [folder / f"{name}.json" for name in contents]


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


def test_the_folder_holds_metrics_curves_tables_figures_and_one_page_with_nothing_outside(one_detector):
    figures = ("pr", "froc", "froc_lesions", "reliability", "bland_altman")
    assert {path.name for path in one_detector[0].iterdir()} == {
        *("metrics.json", "report.html"),
        *("pr.csv", "froc.csv", "reliability.csv", "froc_lesions.csv", "lesions.csv", "patients.csv"),
        *("microbleeds_by_size.csv", "microbleeds_by_location.csv", "patients_by_number_of_microbleeds.csv"),
        *(f"{name}.{suffix}" for name in figures for suffix in ("png", "svg")),
    }
    page = (one_detector[0] / "report.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,[A-Za-z0-9+/]{1000,}', page)) == 5
    assert "http" not in page
    assert "6 patients, 24 images, 18 microbleed boxes" in page


def test_metrics_json_is_the_summary_with_intervals_of_the_same_library_calls_and_tables_agree(one_detector):
    folder, result = one_detector
    written = json.loads((folder / "metrics.json").read_text())
    matches = match(cohort(), detections_of(cohort(), 0))
    assert {name: written[name] for name in summary(matches)} == pytest.approx(summary(matches))
    interval = bootstrap(average_precision, matches, RESAMPLES, seed=0)
    assert written["intervals"]["pictures"]["ap"]["low"] == pytest.approx(interval.low)
    assert (written["cmbs"], written["lesions"]["cmbs"]) == (18, 12)
    assert set(written["intervals"]["lesions"]) == set(METRICS)
    curve = pd.read_csv(folder / "pr.csv")
    at_point = curve[curve["threshold"] == result["threshold"]].iloc[0]
    assert at_point["precision"] == pytest.approx(result["precision_at_90_sensitivity"])
    assert at_point["precision"] == pytest.approx(result["at_threshold"]["precision"])
    lesions = pd.read_csv(folder / "lesions.csv")
    by_size = pd.read_csv(folder / "microbleeds_by_size.csv")
    assert len(lesions) == by_size["cmbs"].sum() == result["lesions"]["cmbs"]
    assert by_size["hits"].sum() == (lesions["score"] >= result["threshold"]).sum()
    assert pd.read_csv(folder / "patients.csv")["truth"].tolist() == [2] * 6


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
    assert (result["patients"], "lesions" in result, len(result["notes"])) == (24, False, 2)
    assert not (tmp_path / "out" / "lesions.csv").exists()


def test_a_detector_that_never_reaches_90_percent_has_null_and_a_note(tmp_path, labels):
    result = run(write(tmp_path, truth=labels, found=detections_of(labels, 0)[:9]), tmp_path / "out", page=True)
    assert np.isnan(result["threshold"])
    text = (tmp_path / "out" / "metrics.json").read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert written["precision_at_90_sensitivity"] is None
    assert "at_threshold" not in written
    assert len(written["notes"]) == 1


def no_box(labels: dict, found: list) -> None:
    labels["annotations"].clear()


def logits(labels: dict, found: list) -> None:
    for box in found:
        box["score"] = box["score"] * 10 - 5


def corners(labels: dict, found: list) -> None:
    for box in found:
        x, y, width, height = box["bbox"]
        box["bbox"] = [x, y, x + width, y + height]


def nothing_found(labels: dict, found: list) -> None:
    labels["annotations"][0]["lesion_id"] = None
    found.clear()


def visits(uid: str | None) -> Callable[[dict, list], None]:
    """Every patient becomes a visit of one."""
    return lambda labels, _: [image.update(patient_id="P", series_uid=uid) for image in labels["images"]]


@pytest.mark.parametrize(("change", "missing", "note"), [
    (no_box, "ap", "no microbleed"),
    (logits, "expected_calibration_error", ""),
    (corners, "threshold", "All boxes of found are wider"),
    (visits(None), "lesions", "No lesion level: images 1 and 5 have slice_index 0"),
    (visits("1.2"), "lesions", "No lesion level: images 1 and 5 have slice_index 0"),
    (nothing_found, "lesions", "no lesion_id"),
])  # fmt: skip
def test_what_cannot_be_measured_is_left_out_and_noted(tmp_path, labels, change, missing, note, recwarn):
    found = detections_of(labels, 0)
    change(labels, found)
    is_drawn = change in (no_box, logits, nothing_found)
    result = run(write(tmp_path, truth=labels, found=found), tmp_path / "out", page=is_drawn)
    assert missing not in result or np.isnan(result[missing])
    assert any(note in said for said in result["notes"])
    assert not is_drawn or not recwarn.list
    assert change is not logits or not (tmp_path / "out" / "reliability.png").exists()


def test_mimics_are_counted_by_kind_at_a_threshold_chosen_elsewhere_and_kinds_need_names(tmp_path, labels):
    mimics = {
        "images": labels["images"],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 2, "bbox": [30, 80, 9, 9]}],
        "categories": [{"id": 1, "name": "vein"}, {"id": 2, "name": "iron"}],
    }
    paths = write(tmp_path, truth=labels, found=detections_of(labels, 0), mimics=mimics)
    run(paths[:2], tmp_path / "out", mimics=paths[2], threshold=0)
    table = pd.read_csv(tmp_path / "out" / "false_positives_by_mimic.csv").set_index("mimic")
    assert table["false_positives"].to_dict() == {"iron": 1, "none": 23}
    result = run(paths[:2], tmp_path / "out", threshold=0.5)
    assert (result["threshold"], result["settings"]["operating_point"]) == (0.5, "given")
    curve = pd.read_csv(tmp_path / "out" / "pr.csv")
    assert result["at_threshold"]["precision"] == curve[curve["threshold"] >= 0.5]["precision"].iloc[-1]
    for name in ({}, {"name": 3}, {"name": "none"}):
        write(tmp_path, mimics={**mimics, "categories": [{"id": 1, **name}, mimics["categories"][1]]})
        with pytest.raises(InputError, match=r"mimics\.json: category 1"):
            run(paths[:2], tmp_path / "out", mimics=paths[2])


@pytest.mark.parametrize(("change", "refusal"), [
    (lambda image: {"id": image["id"] + 100}, "no image has the id"),
    (lambda image: {"id": str(image["id"])}, "no image has the id"),
    (lambda image: {"id": image["id"] % 24 + 1}, "image 2 is 'P0/0.png', but 'P0/1.png' in the labels"),
])  # fmt: skip
def test_mimics_on_other_images_are_refused(tmp_path, labels, change, refusal):
    mimics = {**labels, "annotations": [], "images": [image | change(image) for image in labels["images"]]}
    paths = write(tmp_path, truth=labels, found=[], mimics=mimics)
    with refused(tmp_path, rf"mimics\.json: {refusal}"):
        run(paths[:2], tmp_path / "out", mimics=paths[2])


def test_images_that_are_matched_by_name_are_said_to_be(tmp_path, labels):
    beside = {"images": labels["images"], "annotations": [], "categories": [{"id": 1, "name": "cmb"}]}
    paths = write(tmp_path, truth=labels, found=detections_of(labels, 0), images=beside)
    (note,) = run(paths[:2], tmp_path / "named")["notes"]
    assert note.startswith(str(paths[1]))
    paths[2].unlink()
    assert run(paths[:2], tmp_path / "numbered")["notes"] == []


def test_one_split_is_evaluated_and_must_be_named_where_there_are_several(tmp_path, labels):
    for image in labels["images"][:8]:
        image["split"] = "validation"
    paths = write(tmp_path, truth=labels, found=[box for box in detections_of(labels, 0) if box["image_id"] > 8])
    with pytest.raises(InputError, match=r"truth\.json: .*test, validation"):
        run(paths, tmp_path / "out")
    assert run(paths, tmp_path / "out", split="test")["patients"] == 4
    some = {**labels, "images": labels["images"][9:], "annotations": []}  # cmbfe looked at some images only
    write(tmp_path, images=some, found=[])
    with pytest.raises(InputError, match=r"images\.json"):
        run(paths, tmp_path / "out", split="test")


def shares(boxes: list) -> None:
    """Corners become shares of the image."""
    for box in boxes:
        box["bbox"] = [value / 100 for value in box["bbox"]]


@pytest.mark.parametrize(("refusal", "spoil"), [
    (r"truth\.json", lambda labels, found: labels["annotations"][0].update(bbox=[1, 1, 0, 4])),
    (r"truth\.json", lambda labels, found: (labels.update(images=[], annotations=[]), found.clear())),
    (r"truth\.json: all boxes lie within 0 to 1", lambda labels, found: shares(labels["annotations"])),
    (r"found\.json: all boxes lie within 0 to 1", lambda labels, found: shares(found)),
    (r"found\.json", lambda labels, found: found[0].update(image_id=99)),
    (r"found\.json", lambda labels, found: found[3].update(score=float("nan"))),
    (r"found\.json", lambda labels, found: found[0].update(bbox=[0, -2e9, 4, 4])),
    (r"found\.json", lambda labels, found: found[0].update(bbox=[0, 0, 1e200, 1e200])),
])  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, labels, refusal, spoil):
    found = detections_of(labels, 0)
    spoil(labels, found)
    paths = write(tmp_path, truth=labels, found=found)
    with refused(tmp_path, refusal):
        run(paths, tmp_path / "out")


def test_an_impossible_threshold_or_iou_and_an_output_of_something_else_are_refused(tmp_path, labels):
    paths = write(tmp_path, truth=labels, found=[])
    for name, value in (("threshold", float("nan")), *(("iou", iou) for iou in (0, -1, 1.5, float("nan")))):
        with refused(tmp_path, name):
            run(paths, tmp_path / "out", **{name: value})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with refused(tmp_path, "mine"):
        run(paths, tmp_path / "mine")
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(InputError, match="out"):
        run(paths, tmp_path / "out")
    assert (tmp_path / "out").is_symlink()


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


@pytest.mark.parametrize(("change", "said"), [
    ({"image_id": 2}, "overlap another"),
    ({"image_id": 2, "bbox": [10, 10, 8, 7.5]}, "overlap another"),
    ({"image_id": 4, "bbox": [40, 40, 8, 8]}, "one lesion_id may stand for several"),
    ({"image_id": 1, "bbox": [40, 40, 8, 8]}, "one lesion_id may stand for several"),
])  # fmt: skip
def test_labels_that_may_not_be_what_they_seem_are_counted_in_the_notes(tmp_path, labels, change, said):
    labels["annotations"].append({**labels["annotations"][2], **labels["annotations"][0], "id": 99, **change})
    result = run(write(tmp_path, truth=labels, found=detections_of(labels, 0)), tmp_path / "out")
    assert [note for note in result["notes"] if note.startswith("1 ") and said in note]


def test_lesion_ids_that_begin_anew_with_each_visit_are_microbleeds_of_their_own(tmp_path, labels):
    for image in labels["images"]:
        image["patient_id"] = "P"
    for box in labels["annotations"]:
        box["lesion_id"] = box["location"]
    result = run(write(tmp_path, truth=labels, found=detections_of(labels, 0)), tmp_path / "out")
    assert (result["lesions"]["cmbs"], result["lesions"]["hits"], result["notes"]) == (12, 12, [])
    assert len(pd.read_csv(tmp_path / "out" / "lesions.csv")) == 12
