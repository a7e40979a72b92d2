"""Tables 1 to 4 by hand; what the paper prints, held against its own sums, and the map that holds ours against it."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_examples import FAR, T, detection, one_image_each

from cmbfe.errors import InputError
from cmbfe.metrics.curves import Matches, match
from cmbfe.paper import facts, paper_map
from cmbfe.paper.claims import EXHIBITS, OPEN_POINTS, SETTINGS, Cell
from cmbfe.paper.comparison import common_recall, froc_table, summary_of_ap, table1, table2, table3, table4
from cmbfe.paper.paper_map import known_values, read_cell
from cmbfe.paper.tables import as_text, markdown_of, readable, with_block
from cmbfe.paper.words import verdict
from cmbfe.params import Evaluation, Params, load_params, profile_file
from tools.words import answer, intervals_without_zero

EVALUATION = Evaluation(iou=0.5, sensitivity=0.9, froc_x_max=8.0, bootstrap_samples=50)
COST = pd.DataFrame(
    {"seconds": [2.0, 4.0], "seconds_fe": [2.2, 4.1], "ratio": [1.1, 1.025]}, index=["forward", "step"]
)


def matches(hit: Iterable[int], false: int, score_of_false: float = 0.1) -> Matches:
    """Ten images with a microbleed each, of ten patients; hits on those of `hit`, and false positives on the first."""
    hits = [detection(image, 0.9 - image / 100, T) for image in hit]
    return match(one_image_each(10, T), [*hits, *(detection(1, score_of_false, FAR) for _ in range(false))])


ALL, HALF = range(1, 11), range(1, 6)


def test_table_2_has_values_gains_and_the_papers_beside_them_and_what_is_never_reached_is_missing():
    pair = {"ssd512": matches(HALF, 5), "ssd512-fe": matches(ALL, 0)}
    beside = {"mobilenet320": matches(ALL, 0), "mobilenet320-fe": matches(ALL, 0)}  # not in the paper's table
    table = table2(pair | beside, EVALUATION, seed=0)
    assert list(table.index) == ["ssd512", "ssd512-fe"]
    assert table["our_ap"].tolist() == pytest.approx([0.5, 1.0])
    assert table["paper_ap"].tolist() == [0.733, 0.756]
    assert table.loc["ssd512-fe", "paper_gain"] == pytest.approx(0.023)
    assert table.loc["ssd512", ["our_gain", "paper_gain", "our_precision_at_90_sensitivity"]].isna().all()
    assert table.loc["ssd512-fe", "our_precision_at_90_sensitivity"] == 1
    assert table.loc["ssd512-fe", "our_false_positives_per_cmb"] == 0
    assert table["our_largest_sensitivity"].tolist() == [0.5, 1.0]
    for name, gain in (("", 0.5), ("largest_sensitivity_", 0.5), ("ap_11_point_", 1 - 6 / 11)):
        low, value, high = (table.loc["ssd512-fe", f"our_{name}gain{end}"] for end in ("_low", "", "_high"))
        assert value == pytest.approx(gain)
        assert low < value < high
    assert table.loc["ssd512", "our_ap_11_point_low"] < table.loc["ssd512", "our_ap_11_point"]
    assert summary_of_ap(pair) == {"ap": {"ssd512": 0.5, "ssd512-fe": 1.0}, "gain_by_fe": {"ssd512": 0.5}}
    for alone in pair:
        with pytest.raises(InputError, match=f"{alone} without ssd512"):
            table2({alone: pair[alone]}, EVALUATION, seed=0)
    areas = froc_table(pair, EVALUATION, seed=0)
    assert areas["our_area"].tolist() == pytest.approx([0.5, 1.0])  # all hits come before the first false positive
    assert areas["x_max"].tolist() == [8.0, 8.0]
    assert areas.loc["ssd512-fe", "our_gain"] == pytest.approx(0.5)
    assert areas.loc["ssd512", "our_area_low"] < 0.5 < areas.loc["ssd512", "our_area_high"]


def test_table_4_has_the_printed_rows_their_arithmetic_ours_and_the_baselines_with_their_published_values():
    # Nine of ten microbleeds, 90 %, come before the first false positive, without FE and with.
    pair = {"ssd512": matches(range(1, 10), 12), "ssd512-fe": matches(ALL, 2)}
    table = table4(pair, {"cascade": matches(range(1, 9), 10)}, EVALUATION, seed=0)
    assert table.index.tolist() == ["SSD-512", "SSD-512-FE", "Liu et al.", "Chen et al.", "cascade"]
    by_arithmetic = table["paper_false_positives_per_cmb_by_arithmetic"].tolist()[:4]
    assert by_arithmetic == pytest.approx([0.278, 0.229, 0.393, 0.370], abs=5e-4)
    assert table["paper_false_positives_per_cmb"].tolist()[:4] == [0.31, 0.23, 0.39, 11.7]
    ours = [column for column in table if column.startswith("our_")]
    assert table.loc[["Liu et al.", "Chen et al."], ours].isna().all(axis=None)
    assert table["our_precision"].tolist()[:2] == [1.0, 1.0]
    assert table.loc["SSD-512-FE", ["our_precision_gain", "our_false_positives_per_cmb_gain"]].tolist() == [0.0, 0.0]
    assert "our_precision_gain_low" in ours
    row = table.loc["cascade"]
    assert row["after"] == "Dou et al. 2016"
    assert row[["published_sensitivity", "published_precision"]].tolist() == [0.932, 0.443]
    # Eight of ten, all above the false positives, of which there is one for each of the ten images.
    assert row["our_ap"] == pytest.approx(0.8)
    assert row["our_sensitivity_at_1_per_picture"] == row["our_sensitivity_at_4_per_picture"] == pytest.approx(0.8)
    assert row["our_sensitivity_at_1_per_picture_low"] < 0.8 < row["our_sensitivity_at_1_per_picture_high"]
    assert row[["our_sensitivity", "our_precision"]].isna().all()  # 90 % is never reached
    assert row["our_ap_over_ssd512"] == pytest.approx(-0.1)
    assert row["our_ap_over_ssd512_low"] < -0.1 < row["our_ap_over_ssd512_high"]
    assert row.filter(like="paper_").isna().all()
    assert table[["published_sensitivity", "our_ap_over_ssd512"]].iloc[:-1].isna().all(axis=None)


def test_the_common_recall_of_a_resample_is_its_own():
    some, all_found = matches(HALF, 0), matches(ALL, 0)
    weights = np.zeros((3, 10))
    weights[0, 0] = weights[1, 9] = 1  # a patient that both find, and one that only the second does
    weights[2] = 1
    assert common_recall([some, all_found], 0.9, weights).tolist() == [0.9, 0.0, 0.5]
    assert common_recall([some, all_found], 0.9) == 0.5


def test_table_3_reads_twins_at_the_papers_recall_or_the_largest_that_both_reach_and_gives_times():
    worse = matches(HALF, 5, score_of_false=0.95)
    pairs = {"ssd512": worse, "ssd512-fe": matches(ALL, 3)}
    pairs |= {"resnet34-300": matches(ALL, 0), "resnet34-300-fe": matches(ALL, 0)}
    table = table3(pairs, {"ssd512": COST, "resnet34-300": COST}, EVALUATION, seed=0)
    assert table["our_recall"].tolist() == [0.5, 0.5, 0.9, 0.9]
    assert table["our_precision"].tolist()[:2] == [0.5, 1.0]
    assert table.loc["ssd512-fe", "our_gain"] == 0.5
    assert table["paper_recall"].tolist()[:2] == [0.9, 0.9]
    assert table["paper_precision"].tolist()[:2] == [0.764, 0.797]
    assert table["backbone"].tolist()[:2] == ["VGG-16", "VGG-16-FE"]
    assert table[["our_precision_low", "our_precision_high"]].notna().all(axis=None)
    assert table.loc["ssd512-fe", ["our_gain_low", "our_gain_high"]].notna().all()
    plain, fe = table.loc["resnet34-300"], table.loc["resnet34-300-fe"]
    assert [row["our_seconds_per_batch"] for row in (plain, fe)] == [2.0, 2.2]
    assert [row["paper_seconds_per_batch"] for row in (plain, fe)] == [0.129, 0.159]
    assert (fe["our_fe_time_ratio"], fe["our_fe_step_time_ratio"]) == (1.1, 1.025)
    assert fe["paper_fe_time_ratio"] == pytest.approx(0.159 / 0.129)
    assert plain[["our_fe_time_ratio", "paper_fe_time_ratio"]].isna().all()


def test_table_1_counts_patients_images_with_microbleeds_and_boxes():
    """Images 1-3 of patient A and 4 of B in train, 5 of C in test, 6 of D outside the study's splits."""
    splits = dict.fromkeys("AB", "train") | {"C": "test", "D": "unlabelled"}
    images = [{"id": number, "patient_id": name, "split": splits[name]} for number, name in enumerate("AAABCD", 1)]
    labels = {"images": images, "annotations": [{"id": n, "image_id": i} for n, i in enumerate([1, 1, 2, 4, 5])]}
    table = table1(labels)
    ours = table[["our_patients", "our_pictures", "our_cmbs", "our_pictures_in_all"]]
    assert ours.loc["train"].tolist() == [2, 3, 4, 4]
    assert ours.loc["test"].tolist() == [1, 1, 1, 1]
    assert ours.loc["validation"].tolist() == [0, 0, 0, 0]
    assert ours.loc["total"].tolist() == [3, 4, 5, 5]
    assert table.loc["train", ["paper_patients", "paper_pictures", "paper_cmbs"]].tolist() == [33, 467, 845]
    empty = table1({**labels, "annotations": []})
    assert empty.loc["total", ["our_patients", "our_pictures", "our_cmbs"]].tolist() == [3, 0, 0]


ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace without results, with the notebook whose parameters are read."""
    (tmp_path / "notebooks").mkdir()
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "batch = 8\nrounds = 5"}
    (tmp_path / "notebooks" / "05_backbones.ipynb").write_text(json.dumps({"cells": [cell]}))
    return tmp_path


def of(profile: str) -> Params:
    return load_params(profile_file(profile))


def write(root: Path, name: str, text: str) -> None:
    file = root / "results" / "tables" / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(0, 500), st.integers(1, 500))
def test_false_positives_per_microbleed_are_what_counting_gives(hits, false_positives, misses):
    truths = hits + misses
    sensitivity, precision = hits / truths, hits / (hits + false_positives)
    assert facts.false_positives_per_cmb(sensitivity, precision) == pytest.approx(false_positives / truths, abs=1e-9)


def test_contradictions_follow_by_arithmetic():
    splits = facts.TABLE_1.loc[["train", "test", "validation"]]
    assert splits.sum().tolist() == facts.TABLE_1.loc["total"].tolist() == [58, 723, 1301]
    for variant, study in (("ssd512", "SSD-512"), ("ssd512-fe", "SSD-512-FE")):
        assert facts.PRECISION_AT_90[variant] == facts.TABLE_4.loc[study, "precision"]
    table = facts.contradictions().set_index("what")
    for what, printed, follows in (
        ("false positives per microbleed, SSD-512", "0.31", 0.278),
        ("false positives per microbleed, SSD-512-FE", "0.23, 0.24", 0.229),
        ("false positives per microbleed, Liu et al.", "0.39", 0.393),
        ("false positives per microbleed, Chen et al.", "11.7, 11.6", 0.370),
        ("false positives per true positive, SSD-512", "0.31", 0.309),
        ("extra time by FE, ssd512", "0.26", 0.254),
        ("extra time by FE, mobilenet320", "0.26", 0.312),
        ("extra time by FE, resnet34-300", "0.26", 0.233),
    ):
        assert table.loc[what, "printed"] == printed
        assert table.loc[what, "follows"] == pytest.approx(follows, abs=5e-4)
    assert table.loc["images after augmentation", "how"] == "4434 = 9 · 467 + 231: no multiple"
    assert table.loc["images in a batch", "printed"] == "4, 8"
    assert pd.isna(table.loc["momentum with Adam", "follows"])


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_every_key_of_the_map_names_a_value_in_every_profile_and_every_place_in_the_code_is_there(profile, root):
    known = known_values(of(profile), root)
    keys = {setting.key for setting in SETTINGS} | {key for point in OPEN_POINTS for key in point.keys}
    assert not keys - set(known)
    for point in OPEN_POINTS:
        file, _, name = point.code.partition(";")[0].partition(": ")
        assert point.keys if not file else f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_deviations_of_the_laptop_profile_show_with_both_values_and_the_paper_profile_has_none(root):
    rows = paper_map.paper_map(of("paper"), root)
    assert set(rows.loc[rows["kind"] == "setting", "status"]) == {paper_map.AS_PRINTED}
    assert paper_map.deviations(of("paper")).empty
    deviations = paper_map.deviations(of("laptop"))
    assert deviations.loc["detector.default_boxes"].tolist() == ["voc", "cmb"]
    assert deviations.loc["training.longer.ssd300"].tolist() == ["–", "2.5"]
    assert not [key for key in deviations.index if key.startswith("study.")]
    row = paper_map.paper_map(of("laptop"), root).set_index("what").loc["initial weights of VGG-16"]
    assert row[["paper", "ours", "status"]].tolist() == ["imagenet", "compressed", paper_map.NARROWED]


def test_without_results_nothing_is_measured_and_exhibits_with_a_missing_file_are_named(root):
    rows = paper_map.paper_map(of("smoke"), root)
    assert paper_map.missing_exhibits(rows) == [exhibit.name for exhibit in EXHIBITS]
    measured = rows[rows["kind"].isin(["claim", "cost", "number", "mimics"])]
    assert set(measured["status"]) == {paper_map.NOT_YET, paper_map.PRINTED_ONLY}
    assert set(measured["ours"]) == {""}
    for file in (file for exhibit in EXHIBITS for file in exhibit.files):
        (root / "results" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "results" / file).write_text("name,value\n")
    assert not paper_map.missing_exhibits(paper_map.paper_map(of("smoke"), root))
    (root / "results" / "figures" / "fig6.png").unlink()
    assert paper_map.missing_exhibits(paper_map.paper_map(of("smoke"), root)) == ["Figure 6"]


@pytest.mark.parametrize(("values", "status"), [
    ("0.02,0.01,0.03", paper_map.HOLDS),
    ("0.02,-0.01,0.05", paper_map.INCONCLUSIVE),
    ("0.001,-0.01,0.02", paper_map.EXCLUDED),  # the paper's is 0.023
    ("-0.02,-0.03,-0.01", paper_map.OPPOSITE),
    ("0.02,,", paper_map.NO_INTERVAL),
    (",,", paper_map.NOT_REACHED),
])  # fmt: skip
def test_a_claim_is_judged_by_its_interval_and_fewer_false_positives_are_one(values, status, root):
    write(root, "table2", f"variant,our_gain,our_gain_low,our_gain_high\nssd512-fe,{values}\n")
    column = "our_false_positives_per_cmb_gain"
    write(root, "table4", f"study,{column},{column}_low,{column}_high\nSSD-512-FE,-0.1,-0.2,-0.05\n")
    rows = paper_map.paper_map(of("smoke"), root).set_index("what")[["paper", "ours", "status"]]
    assert rows.loc["FE raises the AP of ssd512", ["paper", "status"]].tolist() == ["0.023", status]
    claim = rows.loc["FE lowers the false positives per microbleed of ssd512"].tolist()
    assert claim == ["-0.08", "-0.1 (-0.2 to -0.05)", paper_map.HOLDS]


def test_an_open_point_shows_what_the_study_measured_and_whether_the_value_in_force_is_the_literal_one(root):
    points = paper_map.open_points(of("laptop"), root)
    for point, expected in {
        "A10": ["cmb", "voc", paper_map.ANOTHER],
        "A4": ["trunk", "trunk", paper_map.LITERAL],
        "A8": ["4; 8", "4; 8", paper_map.LITERAL],
        "A3": ["", "", paper_map.IN_CODE],
    }.items():
        assert points.loc[point, ["now", "paper_profile", "status"]].tolist() == expected
    assert points.loc["A4", "effect"] == "placement-source, placement-both: not measured yet"
    assert points.loc["A17", "effect"] == "no arm of the study"
    header = "arm,treatment,over_fe,over_fe_low,over_fe_high\n"
    write(root, "study", f"{header}placement-source,fe,0.01,-0.02,0.04\nplacement-both,fe,,,\n")
    source, both = paper_map.open_points(of("laptop"), root).loc["A4", "effect"].split("; ")
    assert source == "placement-source: change of AP 0.01 (-0.02 to 0.04)"
    assert both == "placement-both: change of AP not reached"


def test_a_cell_is_found_by_one_column_or_two_and_has_its_interval(root):
    write(root, "t", "px,preset,all,all_low,all_high\n512,voc,0.25,0.2,0.3\n512,coco,,,\n")
    assert read_cell(Cell("t", "512,voc", "all"), root) == (0.25, 0.2, 0.3)
    assert math.isnan(read_cell(Cell("t", "512,coco", "all"), root).value)
    for cell in (Cell("t", "512", "no_column"), Cell("t", "300,voc", "all"), Cell("no_table", "512", "all")):
        assert read_cell(cell, root) is None


def test_values_are_shown_short_with_intervals_behind_them():
    values = (1e-3, 0.7639, 24564.0, 120_000, (1.2, 1.5), -1e-9, "voc", None)
    assert "|".join(map(as_text, values)) == "0.001|0.764|24,564|120,000|1.2, 1.5|0|voc|"
    columns = {"name": ["a", "b"], "gain": [0.02, None], "gain_low": [-0.01, None], "gain_high": [0.05, None]}
    rows = markdown_of(pd.DataFrame(columns), {"name": "detector", "gain": "gain by FE"}).splitlines()
    assert rows[2:] == ["| a | +0.020 (-0.010 to +0.050) |", "| b | – |"]
    shown = readable(pd.DataFrame({"n": [161.0], "ap": [1.0], "ap_low": [0.9], "ap_high": [1.0]}))
    assert shown.to_dict("list") == {"n": ["161"], "ap": ["1.000 (0.900 to 1.000)"]}


BEGIN, END = "<!-- t: begin -->", "<!-- t: end -->"


@pytest.mark.parametrize("text", ["", END + BEGIN, BEGIN * 2 + END])
def test_a_block_without_its_markers_is_refused(text):
    made = with_block(f"a {BEGIN}old{END} z", "t", "new")
    assert " ".join(made.split()) == f"a {BEGIN} new {END} z"
    with pytest.raises(InputError):
        with_block(text, "t", "new")


@pytest.mark.parametrize(("low", "high", "paper", "word"), [
    (0.01, 0.03, 0.02, "helped"),
    (-0.03, -0.01, 0.02, "harmed"),
    (-0.01, 0.03, 0.02, "inconclusive"),
    (-0.01, 0.03, np.nan, "inconclusive"),
    (-0.01, 0.01, 0.02, "did not help"),
])  # fmt: skip
def test_a_verdict_follows_the_interval_and_the_papers_gain(low, high, paper, word):
    limits = {"gain": (low + high) / 2, "gain_low": low, "gain_high": high}
    row = pd.Series({**limits, "ap": 0.4, "ap_treated": 0.4, "paper_gain": paper, "seeds": 5})
    assert word in verdict("ssd512", row)
    assert "finds nothing" in verdict("ssd512", row.replace(0.4, 0.0))
    outside = intervals_without_zero(pd.DataFrame([row], index=["arm"]), "gain", "the gain by FE")
    assert ("arm" in outside) == (word in ("helped", "harmed"))


def test_the_answer_counts_detectors_by_their_interval_and_leaves_out_those_that_find_nothing():
    rows = pd.DataFrame(
        {"gain_low": [0.01, -0.01, -0.02, 0.0], "gain_high": [0.02, 0.01, -0.01, 0.0], "ap": [0.4, 0.4, 0.4, 0.0]},
    ).assign(detector=["up", "level", "down", "blind"], ap_treated=lambda table: table["ap"])
    said = answer(rows)
    assert "3 detectors" in said
    assert said.index("helped 1 (up)") < said.index("harmed 1 (down)")
    assert "blind" not in said
    assert "helped none and harmed none" in answer(rows.iloc[[1]])
