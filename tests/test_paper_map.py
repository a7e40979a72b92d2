"""The map of the paper: values are read and not typed, deviations show, and what is missing is named."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from cmbfe.paper import paper_map
from cmbfe.paper.claims import EXHIBITS, SETTINGS, Cell
from cmbfe.paper.contradictions import contradictions
from cmbfe.paper.map_values import Reading, as_text, known_values, notebook_parameters, read_cell
from cmbfe.paper.open_points import OPEN_POINTS
from cmbfe.params import Params, load_params, profile_file

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ("smoke", "laptop", "paper")


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


@pytest.mark.parametrize("profile", PROFILES)
def test_every_key_of_the_map_names_a_value_in_every_profile(profile, root):
    known = known_values(of(profile), root)
    keys = {setting.key for setting in SETTINGS} | {key for point in OPEN_POINTS for key in point.keys}
    assert not keys - set(known)
    assert all(point.keys or point.code for point in OPEN_POINTS)


def test_the_paper_profile_has_every_setting_of_the_paper_and_no_deviation(root):
    rows = paper_map.paper_map(of("paper"), root)
    assert set(rows.loc[rows["kind"] == "setting", "status"]) == {map.AS_PRINTED}
    assert paper_map.deviations(of("paper")).empty


def test_deviations_of_the_laptop_profile_show_with_both_values(root):
    rows = paper_map.paper_map(of("laptop"), root).set_index("what")
    shown = ["paper", "ours", "status"]
    assert rows.loc["iterations", shown].tolist() == ["120,000", "450", map.DIFFERS]
    assert rows.loc["beta", shown].tolist() == ["1.5", "1.5", map.AS_PRINTED]
    assert rows.loc["translation up to, px", shown].tolist() == ["15", "7.5", map.SCALED]
    assert rows.loc["blur, sigma, px", shown].tolist() == ["0, 3", "0, 1", map.DIFFERS]
    assert rows.loc["initial weights of VGG-16", shown].tolist() == ["imagenet", "null", map.DIFFERS]
    deviations = paper_map.deviations(of("laptop"))
    assert deviations.loc["detector.default_boxes"].tolist() == ["voc", "cmb"]
    assert deviations.loc["training.longer.ssd300"].tolist() == ["–", "1.5"]
    assert not [key for key in deviations.index if key.startswith("study.")]


def test_without_results_nothing_is_measured_and_every_exhibit_is_missing(root):
    rows = paper_map.paper_map(of("smoke"), root)
    assert paper_map.missing_exhibits(rows) == [exhibit.name for exhibit in EXHIBITS]
    measured = rows[rows["kind"].isin(["claim", "cost", "number", "mimics"])]
    assert set(measured["status"]) == {paper_map.NOT_YET, map.PRINTED_ONLY}
    assert set(measured["ours"]) == {""}


def test_exhibits_are_tables_1_to_4_and_figures_1_to_7_and_one_missing_file_is_named(root):
    names = [exhibit.name for exhibit in EXHIBITS]
    assert names == [f"Table {number}" for number in range(1, 5)] + [f"Figure {number}" for number in range(1, 8)]
    for exhibit in EXHIBITS:
        for file in exhibit.files:
            (root / "results" / file).parent.mkdir(parents=True, exist_ok=True)
            (root / "results" / file).write_text("name,value\n")
    assert not paper_map.missing_exhibits(paper_map.paper_map(of("smoke"), root))
    (root / "results" / "figures" / "fig6.svg").unlink()
    assert paper_map.missing_exhibits(paper_map.paper_map(of("smoke"), root)) == ["Figure 6"]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ("0.02,0.01,0.03", map.HOLDS),
        ("0.02,-0.01,0.05", map.CANNOT_TELL),
        ("-0.02,-0.03,-0.01", map.OPPOSITE),
        ("0.02,,", map.CANNOT_TELL),
        (",,", map.NOT_REACHED),
    ],
)
def test_a_claim_is_judged_by_its_interval(values, status, root):
    write(root, "table2", f"variant,our_gain,our_gain_low,our_gain_high\nssd512-fe,{values}\n")
    rows = paper_map.paper_map(of("smoke"), root).set_index("what")
    assert rows.loc["FE raises the AP of ssd512", ["paper", "status"]].tolist() == ["0.023", status]


def test_fewer_false_positives_are_the_claim_of_table_4(root):
    column = "our_false_positives_per_cmb_gain"
    write(root, "table4", f"study,{column},{column}_low,{column}_high\nSSD-512-FE,-0.1,-0.2,-0.05\n")
    rows = paper_map.paper_map(of("smoke"), root).set_index("what")
    claim = rows.loc["FE lowers the false positives per microbleed of ssd512"]
    assert claim[["paper", "ours", "status"]].tolist() == ["-0.08", "-0.1 (-0.2 to -0.05)", map.HOLDS]


def test_an_open_point_tells_what_the_study_measured_once_it_has(root):
    def effect(point: str) -> str:
        return paper_map.open_points(of("laptop"), root).loc[point, "effect"]

    assert effect("A4") == "placement-source, placement-both: not measured yet"
    assert effect("A17") == "no arm of the study"
    write(root, "study", "arm,change,change_low,change_high\nplacement-source,0.01,-0.02,0.04\nplacement-both,,,\n")
    source, both = effect("A4").split("; ")
    assert source == "placement-source: change of AP 0.01 (-0.02 to 0.04)"
    assert both == "placement-both: change of AP not reached"


def test_an_open_point_says_whether_the_value_in_force_is_the_literal_one(root):
    points = paper_map.open_points(of("laptop"), root)
    told = ["now", "paper_profile", "status"]
    assert list(points.index) == [f"A{number}" for number in range(1, 21)]
    assert points.loc["A10", told].tolist() == ["cmb", "voc", map.ANOTHER]
    assert points.loc["A4", told].tolist() == ["trunk", "trunk", map.LITERAL]
    assert points.loc["A8", told].tolist() == ["4; 8", "4; 8", map.LITERAL]
    assert points.loc["A3", told].tolist() == ["", "", map.IN_CODE]


def test_a_cell_is_found_by_one_column_or_two_and_has_its_interval(root):
    write(root, "t", "px,preset,all,all_low,all_high\n512,voc,0.25,0.2,0.3\n512,coco,,,\n")
    assert read_cell(Cell("t", "512,voc", "all"), root) == (0.25, 0.2, 0.3)
    assert math.isnan(read_cell(Cell("t", "512,coco", "all"), root).value)
    assert read_cell(Cell("t", "512", "preset_of_nobody"), root) is None
    assert read_cell(Cell("t", "300,voc", "all"), root) is None
    assert read_cell(Cell("no_table", "512", "all"), root) is None


def test_values_are_shown_short():
    assert [as_text(value) for value in (1e-3, 0.7639, 24564.0, 120_000, (1.2, 1.5), -1e-9, "voc", None)] == [
        "0.001", "0.764", "24,564", "120,000", "1.2, 1.5", "0", "voc", "",
    ]  # fmt: skip
    assert str(Reading(0.5)) == "0.5"
    assert str(Reading(math.nan)) == ""


def test_the_batch_that_is_timed_is_that_of_the_notebook():
    assert notebook_parameters(ROOT / "notebooks" / "05_backbones.ipynb")["batch"] == 8


def test_contradictions_follow_by_arithmetic():
    table = contradictions().set_index("what")
    expected = {
        "false positives per microbleed, SSD-512": ("0.31", 0.278),
        "false positives per microbleed, SSD-512-FE": ("0.23, 0.24", 0.229),
        "false positives per microbleed, Liu et al.": ("0.39", 0.393),
        "false positives per microbleed, Chen et al.": ("11.7, 11.6", 0.370),
        "false positives per true positive, SSD-512": ("0.31", 0.309),
        "extra time by FE, ssd512": ("0.26", 0.254),
        "extra time by FE, mobilenet320": ("0.26", 0.312),
        "extra time by FE, resnet34-300": ("0.26", 0.233),
    }
    for what, (printed, follows) in expected.items():
        assert table.loc[what, "printed"] == printed
        assert table.loc[what, "follows"] == pytest.approx(follows, abs=5e-4)
    assert table.loc["images after augmentation over those before", "how"] == "4434 = 9 · 467 + 231: no multiple"
    assert table.loc["images in a batch", "printed"] == "4, 8"
    assert pd.isna(table.loc["momentum with Adam", "follows"])
