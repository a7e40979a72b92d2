"""Tables 1 to 4: values worked out by hand, twins read at one recall, the paper's numbers where it prints them."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest
from metric_examples import detection, one_image_each

from cmbfe.errors import InputError
from cmbfe.files import write_table
from cmbfe.metrics.curves import Matches, match
from cmbfe.paper.comparison import common_recall, froc_table, summary_of_ap, table1, table2, table3, table4
from cmbfe.params import Evaluation

SETTINGS = Evaluation(iou=0.5, sensitivity=0.9, froc_x_max=8.0, bootstrap_samples=50)
BOX, FAR = [10, 10, 10, 10], [60, 60, 10, 10]
COST = pd.DataFrame(
    {"seconds": [2.0, 4.0], "seconds_fe": [2.2, 4.1], "ratio": [1.1, 1.025]}, index=["forward", "step"]
)


def matches(hit: Iterable[int], false: int, score_of_false: float = 0.1) -> Matches:
    """Ten images with a microbleed each, of ten patients; hits on those of `hit`, and false positives on the first."""
    hits = [detection(image, 0.9 - image / 100, BOX) for image in hit]
    return match(one_image_each(10, BOX), [*hits, *(detection(1, score_of_false, FAR) for _ in range(false))])


ALL, HALF = range(1, 11), range(1, 6)


def test_table_2_has_values_gains_and_the_papers_beside_them():
    table = table2({"ssd512": matches(HALF, 5), "ssd512-fe": matches(ALL, 0)}, SETTINGS, seed=0)
    assert table["our_ap"].tolist() == pytest.approx([0.5, 1.0])
    assert table["paper_ap"].tolist() == [0.733, 0.756]
    assert table.loc["ssd512-fe", "paper_gain"] == pytest.approx(0.023)
    assert table.loc["ssd512", ["our_gain", "paper_gain"]].isna().all()
    assert table["our_largest_sensitivity"].tolist() == [0.5, 1.0]
    for name, gain in (("", 0.5), ("largest_sensitivity_", 0.5), ("ap_11_point_", 1 - 6 / 11)):
        low, value, high = (table.loc["ssd512-fe", f"our_{name}gain{end}"] for end in ("_low", "", "_high"))
        assert value == pytest.approx(gain)
        assert low < value < high
    assert table.loc["ssd512", "our_ap_11_point_low"] < table.loc["ssd512", "our_ap_11_point"]


def test_table_4_has_the_printed_rows_their_arithmetic_and_ours_for_our_detectors_only():
    # Nine of ten microbleeds, 90 %, come before the first false positive, without FE and with.
    table = table4({"ssd512": matches(range(1, 10), 12), "ssd512-fe": matches(ALL, 2)}, {}, SETTINGS, seed=0)
    assert table.index.tolist() == ["SSD-512", "SSD-512-FE", "Liu et al.", "Chen et al."]
    by_arithmetic = table["paper_false_positives_per_cmb_by_arithmetic"].tolist()
    assert by_arithmetic == pytest.approx([0.278, 0.229, 0.393, 0.370], abs=5e-4)
    assert table["paper_false_positives_per_cmb"].tolist() == [0.31, 0.23, 0.39, 11.7]
    ours = [column for column in table if column.startswith("our_")]
    assert table.loc[["Liu et al.", "Chen et al."], ours].isna().all(axis=None)
    assert table["our_precision"].tolist()[:2] == [1.0, 1.0]
    assert table.loc["SSD-512-FE", ["our_precision_gain", "our_false_positives_per_cmb_gain"]].tolist() == [0.0, 0.0]
    assert "our_precision_gain_low" in ours


def test_table_4_ends_with_the_baselines_their_published_values_beside_ours():
    pair = {"ssd512": matches(HALF, 5), "ssd512-fe": matches(ALL, 2)}
    table = table4(pair, {"cascade": matches(range(1, 9), 10)}, SETTINGS, seed=0)
    row = table.loc["cascade"]
    assert table.index[-1] == "cascade"
    assert row["after"] == "Dou et al. 2016"
    assert row[["published_sensitivity", "published_precision"]].tolist() == [0.932, 0.443]
    # Eight of ten, all above the false positives, of which there is one for each of the ten images.
    assert row["our_ap"] == pytest.approx(0.8)
    assert row["our_sensitivity_at_1_per_picture"] == row["our_sensitivity_at_4_per_picture"] == pytest.approx(0.8)
    assert row["our_sensitivity_at_1_per_picture_low"] < 0.8 < row["our_sensitivity_at_1_per_picture_high"]
    assert row[["our_sensitivity", "our_precision"]].isna().all()  # 90 % is never reached
    assert row["our_ap_over_ssd512"] == pytest.approx(0.3)
    assert row["our_ap_over_ssd512_low"] < 0.3 < row["our_ap_over_ssd512_high"]
    assert row.filter(like="paper_").isna().all()
    assert table[["published_sensitivity", "our_ap_over_ssd512"]].iloc[:-1].isna().all(axis=None)
    assert table.loc["SSD-512", "our_ap"] == 0.5
    assert table["our_sensitivity"].iloc[:2].tolist() == pytest.approx([np.nan, 0.9], nan_ok=True)


def test_the_area_of_the_froc_has_an_interval_and_a_paired_gain_and_the_summary_the_ap():
    pair = {"ssd512": matches(HALF, 5), "ssd512-fe": matches(ALL, 0)}
    assert summary_of_ap(pair) == {"ap": {"ssd512": 0.5, "ssd512-fe": 1.0}, "gain_by_fe": {"ssd512": 0.5}}
    table = froc_table(pair, SETTINGS, seed=0)
    assert table["our_area"].tolist() == pytest.approx([0.5, 1.0])  # all hits come before the first false positive
    assert table["x_max"].tolist() == [8.0, 8.0]
    assert table.loc["ssd512-fe", "our_gain"] == pytest.approx(0.5)
    assert table.loc["ssd512", "our_area_low"] < 0.5 < table.loc["ssd512", "our_area_high"]


def test_precision_that_is_never_reached_is_missing_and_not_0():
    beside = {"mobilenet320": matches(ALL, 0), "mobilenet320-fe": matches(ALL, 0)}  # not in the paper's table
    table = table2({"ssd300": matches(HALF, 5), "ssd300-fe": matches(ALL, 5)} | beside, SETTINGS, seed=0)
    assert list(table.index) == ["ssd300", "ssd300-fe"]
    assert np.isnan(table.loc["ssd300", "our_precision_at_90_sensitivity"])
    assert table.loc["ssd300-fe", "our_precision_at_90_sensitivity"] == 1.0
    assert table.loc["ssd300-fe", "our_false_positives_per_cmb"] == 0.0


@pytest.mark.parametrize("alone", ["ssd512", "ssd512-fe"])
def test_a_detector_without_its_twin_is_refused(alone):
    with pytest.raises(InputError, match=f"{alone} without ssd512"):
        table2({alone: matches(ALL, 0)}, SETTINGS, seed=0)


def test_the_common_recall_of_a_resample_is_its_own():
    some, all_found = matches(HALF, 0), matches(ALL, 0)
    weights = np.zeros((3, 10))
    weights[0, 0] = weights[1, 9] = 1  # a patient that both find, and one that only the second does
    weights[2] = 1
    assert common_recall([some, all_found], 0.9, weights).tolist() == [0.9, 0.0, 0.5]
    assert common_recall([some, all_found], 0.9) == 0.5


def test_table_3_reads_twins_at_the_largest_recall_that_both_reach():
    worse = matches(HALF, 5, score_of_false=0.95)
    table = table3({"ssd512": worse, "ssd512-fe": matches(ALL, 3)}, {"ssd512": COST}, SETTINGS, seed=0)
    assert table["our_recall"].tolist() == [0.5, 0.5]
    assert table["our_precision"].tolist() == [0.5, 1.0]
    assert table.loc["ssd512-fe", "our_gain"] == 0.5
    assert table["paper_recall"].tolist() == [0.9, 0.9]
    assert table["paper_precision"].tolist() == [0.764, 0.797]
    assert table["backbone"].tolist() == ["VGG-16", "VGG-16-FE"]
    assert table[["our_precision_low", "our_precision_high"]].notna().all(axis=None)
    assert table.loc["ssd512-fe", ["our_gain_low", "our_gain_high"]].notna().all()


def test_table_3_reads_at_the_papers_recall_where_both_reach_it_and_gives_times():
    pair = {"resnet34-300": matches(ALL, 0), "resnet34-300-fe": matches(ALL, 0)}
    table = table3(pair, {"resnet34-300": COST}, SETTINGS, seed=0)
    assert table["our_recall"].tolist() == [0.9, 0.9]
    assert table["our_seconds_per_batch"].tolist() == [2.0, 2.2]
    assert table["paper_seconds_per_batch"].tolist() == [0.129, 0.159]
    fe = table.loc["resnet34-300-fe"]
    assert (fe["our_fe_time_ratio"], fe["our_fe_step_time_ratio"]) == (1.1, 1.025)
    assert fe["paper_fe_time_ratio"] == pytest.approx(0.159 / 0.129)
    assert table.loc["resnet34-300", ["our_fe_time_ratio", "paper_fe_time_ratio"]].isna().all()


def cohort(boxes_on: list[int]) -> dict:
    """Images 1-3 of patient A and 4 of B in train, 5 of C in test, 6 of D outside the study's splits."""
    of_patient = [(1, "A", "train"), (2, "A", "train"), (3, "A", "train"), (4, "B", "train"), (5, "C", "test")]
    images = [{"id": i, "patient_id": p, "split": s} for i, p, s in [*of_patient, (6, "D", "unlabelled")]]
    return {"images": images, "annotations": [{"id": n, "image_id": i} for n, i in enumerate(boxes_on)]}


def test_table_1_counts_patients_images_with_microbleeds_and_boxes():
    table = table1(cohort([1, 1, 2, 4, 5]))
    ours = table[["our_patients", "our_pictures", "our_cmbs", "our_pictures_in_all"]]
    assert ours.loc["train"].tolist() == [2, 3, 4, 4]
    assert ours.loc["test"].tolist() == [1, 1, 1, 1]
    assert ours.loc["validation"].tolist() == [0, 0, 0, 0]
    assert ours.loc["total"].tolist() == [3, 4, 5, 5]
    assert table.loc["train", ["paper_patients", "paper_pictures", "paper_cmbs"]].tolist() == [33, 467, 845]
    assert table1(cohort([])).loc["total", ["our_patients", "our_pictures", "our_cmbs"]].tolist() == [3, 0, 0]


def test_tables_are_written_with_four_decimals_and_gaps_for_what_is_missing(tmp_path):
    table = pd.DataFrame({"ap": [1 / 3, None]}, index=pd.Index(["ssd300", "ssd512"], name="variant"))
    write_table(table, tmp_path / "t" / "table2.csv")
    assert (tmp_path / "t" / "table2.csv").read_text() == "variant,ap\nssd300,0.3333\nssd512,\n"
