"""Reviews of detections: the file of a reader, what several readers say together, and the labels that come of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from review_world import found_lesions, reviewed
from sklearn.metrics import cohen_kappa_score
from tiny_world import dicom_head

from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.data.sources.importer import take_import
from cmbfe.files import read_json
from cmbfe.findings.review import cohen_kappa, fleiss_kappa_of


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


def test_accepted_unsure_and_added_lesions_become_labels_that_the_pipeline_takes(found, tmp_path, run_cmbfe):
    file = reviewed(
        tmp_path / "r.json", found, "AB", "yn?nnnnnnn", {"slice": 2, "x": 40, "y": 50.5, "diameter_mm": 3}
    )
    status, said, _ = run_cmbfe("review", found, file, "--out", tmp_path / "out")
    assert status == 0
    assert "1 patients, 2 microbleeds (1 lesions were added), 8 rejected, 1 unsure" in said
    boxes = labels_of(tmp_path / "out")
    assert [box for box in boxes if box[1] == [4, 6, 4, 4]] == [(index, [4, 6, 4, 4], False) for index in range(4)]
    assert [box for box in boxes if box[1] == [28, 6, 4, 4]] == [(index, [28, 6, 4, 4], True) for index in range(4)]
    assert boxes[8:] == [] or len(boxes) == 9
    assert (2, [38, 47.5, 4, 6], False) in boxes  # 3 mm: the slice itself only, as others are 2 mm away
    taken = (
        take_import(tmp_path / "out", tmp_path / "pictures") if False else read_labels(tmp_path / "out" / LABELS_FILE)
    )
    assert len({box["lesion_id"] for box in taken["annotations"]}) == 3


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
