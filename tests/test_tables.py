"""The paper's tables: counts worked out by hand, the paper's value beside ours."""

import numpy as np
import pandas as pd

from cmbfe.tables import table1, table2, write_table

METRICS = {"ap": 0.5, "ap_11_point": 0.52, "precision_at_90_sensitivity": None, "false_positives_per_cmb": 0.25}


def labels(boxes_on: list[int]) -> dict:
    """Pictures 1-3 of patient A and 4 of B in train, 5 of C in test, 6 of D outside the study's splits."""
    of_patient = [(1, "A", "train"), (2, "A", "train"), (3, "A", "train"), (4, "B", "train"), (5, "C", "test")]
    images = [{"id": i, "patient_id": p, "split": s} for i, p, s in [*of_patient, (6, "D", "unlabelled")]]
    return {"images": images, "annotations": [{"id": n, "image_id": i} for n, i in enumerate(boxes_on)]}


def test_table_1_counts_patients_pictures_with_microbleeds_and_boxes():
    table = table1(labels([1, 1, 2, 4, 5]))
    ours = table[["our_patients", "our_pictures", "our_cmbs", "our_pictures_in_all"]]
    assert ours.loc["train"].tolist() == [2, 3, 4, 4]
    assert ours.loc["test"].tolist() == [1, 1, 1, 1]
    assert ours.loc["validation"].tolist() == [0, 0, 0, 0]
    assert ours.loc["total"].tolist() == [3, 4, 5, 5]
    assert table.loc["train", ["paper_patients", "paper_pictures", "paper_cmbs"]].tolist() == [33, 467, 845]


def test_table_1_of_pictures_without_any_microbleed_counts_none():
    assert table1(labels([])).loc["total", ["our_patients", "our_pictures", "our_cmbs"]].tolist() == [3, 0, 0]


def test_table_2_has_the_papers_value_beside_ours_for_the_papers_variants_only():
    table = table2({"ssd300": METRICS, "ssd300-fe": METRICS | {"ap": 0.6}, "mobilenet320": METRICS})
    assert table.index.tolist() == ["ssd300", "ssd300-fe"]
    assert table["paper_ap"].tolist() == [0.482, 0.502]
    assert table["our_ap"].tolist() == [0.5, 0.6]
    assert table["our_false_positives_per_cmb"].tolist() == [0.25, 0.25]
    assert table["our_precision_at_90_sensitivity"].isna().all()


def test_table_2_without_a_variant_of_the_paper_is_empty_with_its_columns():
    table = table2({"mobilenet320": METRICS})
    assert table.empty
    assert list(table)[:2] == ["paper_ap", "our_ap"]


def test_tables_are_written_with_four_decimals_and_gaps_for_what_is_missing(tmp_path):
    write_table(table2({"ssd300": METRICS}), tmp_path / "t" / "table2.csv")
    assert (tmp_path / "t" / "table2.csv").read_text().splitlines()[1] == "ssd300,0.4820,0.5000,0.5200,,0.2500"
    read = pd.read_csv(tmp_path / "t" / "table2.csv", index_col="variant")
    assert np.isnan(read.loc["ssd300", "our_precision_at_90_sensitivity"])
