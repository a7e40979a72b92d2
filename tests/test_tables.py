"""Table 1: counts worked out by hand, the paper's value beside ours."""

import pandas as pd

from cmbfe.paper.tables import table1, write_table


def labels(boxes_on: list[int]) -> dict:
    """Images 1-3 of patient A and 4 of B in train, 5 of C in test, 6 of D outside the study's splits."""
    of_patient = [(1, "A", "train"), (2, "A", "train"), (3, "A", "train"), (4, "B", "train"), (5, "C", "test")]
    images = [{"id": i, "patient_id": p, "split": s} for i, p, s in [*of_patient, (6, "D", "unlabelled")]]
    return {"images": images, "annotations": [{"id": n, "image_id": i} for n, i in enumerate(boxes_on)]}


def test_table_1_counts_patients_images_with_microbleeds_and_boxes():
    table = table1(labels([1, 1, 2, 4, 5]))
    ours = table[["our_patients", "our_pictures", "our_cmbs", "our_pictures_in_all"]]
    assert ours.loc["train"].tolist() == [2, 3, 4, 4]
    assert ours.loc["test"].tolist() == [1, 1, 1, 1]
    assert ours.loc["validation"].tolist() == [0, 0, 0, 0]
    assert ours.loc["total"].tolist() == [3, 4, 5, 5]
    assert table.loc["train", ["paper_patients", "paper_pictures", "paper_cmbs"]].tolist() == [33, 467, 845]


def test_table_1_of_images_without_any_microbleed_counts_none():
    assert table1(labels([])).loc["total", ["our_patients", "our_pictures", "our_cmbs"]].tolist() == [3, 0, 0]


def test_tables_are_written_with_four_decimals_and_gaps_for_what_is_missing(tmp_path):
    table = pd.DataFrame({"ap": [1 / 3, None]}, index=pd.Index(["ssd300", "ssd512"], name="variant"))
    write_table(table, tmp_path / "t" / "table2.csv")
    assert (tmp_path / "t" / "table2.csv").read_text() == "variant,ap\nssd300,0.3333\nssd512,\n"
