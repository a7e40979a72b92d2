"""Figures of the evidence draw what the tables say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import colors

from cmbfe.figures import evidence, style

CURVE = pd.DataFrame({"sensitivity": [0.2, 0.6, 0.9], "precision": [1.0, 0.9, 0.7], "false_positives": [0, 0.5, 2]})


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_bands_have_the_colours_of_their_curves_and_a_gap_where_there_is_no_interval():
    band = pd.DataFrame(
        {"low": [0.1, 0.2, np.nan, 0.3, 0.3], "high": [0.5, 0.6, np.nan, 0.9, 0.9]}, [0, 1, 2, 3, 4.0]
    )
    bands = {"ssd300": band, "ssd300-fe": band}
    axes = evidence.froc_figure(dict.fromkeys(bands, CURVE), 8.0, dict.fromkeys(bands, 0.5), bands).axes[0]
    for drawn, name in zip(axes.collections, ("SSD", "SSD-FE"), strict=True):
        assert colors.to_hex(drawn.get_facecolor()[0]).upper() == style.COLOURS[name]
        assert len(drawn.get_paths()) == 2
    assert sum("bands" in text.get_text() for text in axes.get_legend().get_texts()) == 1


def test_figure_4_draws_each_curve_and_the_papers_point_named_as_of_other_patients():
    curves = {"ssd300": CURVE, "ssd300-fe": CURVE}
    axes = evidence.precision_sensitivity_figure(curves, {"ssd300-fe": (0.9, 0.797)}, 0.9).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["ssd300, ours"].get_color() != lines["ssd300-fe, ours"].get_color()
    np.testing.assert_array_equal(lines["ssd300, ours"].get_xydata(), CURVE[["sensitivity", "precision"]])
    np.testing.assert_array_equal(lines["ssd300-fe, paper (other patients)"].get_xydata(), [[0.9, 0.797]])


def test_figure_5_goes_on_at_its_last_sensitivity_to_the_right_end():
    axes = evidence.froc_figure({"ssd300": CURVE}, x_max=8.0, areas={"ssd300": 0.8125}).axes[0]
    (line,) = axes.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[0, 0.2], [0.5, 0.6], [2, 0.9], [8, 0.9]])
    assert line.get_label() == "ssd300, area to 8: 0.812"
    assert axes.get_xlim() == (0, 8)


def test_gains_are_drawn_with_interval_and_the_papers_value_for_rows_that_have_one():
    rows = ["ssd512", "ssd512-fe", "ssd300-fe"]
    gain = pd.Series([np.nan, 0.02, -0.01], rows)
    printed = pd.Series([np.nan, 0.033, np.nan], rows)
    axes = evidence.gain_figure(gain, gain - 0.03, gain + 0.04, printed).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == rows[1:]
    zero, ours, theirs = axes.get_lines()
    np.testing.assert_array_equal(ours.get_xdata(), [0.02, -0.01])
    np.testing.assert_array_equal(theirs.get_xdata(), [0.033, np.nan])
    ends = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    np.testing.assert_allclose(ends, [[-0.01, 0.06], [-0.04, 0.03]])
    assert list(zero.get_xdata()) == [0, 0]


def crossvalidation_table(paper_gain: float) -> pd.DataFrame:
    columns = {
        "our_ap": [0.6, 0.8, 0.7, 0.65],
        "our_ap_fe": [0.7, 0.7, 0.7, 0.66],
        "our_gain": [0.1, -0.1, 0.0, 0.01],
    }
    columns |= {"our_gain_low": [0.0, 0.0, np.nan, -0.05], "our_gain_high": [0.2, 0.2, np.nan, 0.06]}
    return pd.DataFrame({"detector": "ssd512", **columns, "paper_gain": paper_gain}, index=["1", "2", "mean", "all"])


def test_a_cross_validation_joins_twins_and_gives_every_gain_its_interval():
    aps, gains = evidence.crossvalidation_figure(crossvalidation_table(0.02)).axes
    assert [label.get_text() for label in aps.get_xticklabels()] == ["1", "2", "all"]
    drawn = {line.get_label(): line for line in aps.get_lines()}
    for name, values in (("SSD", [0.6, 0.8, 0.65]), ("SSD-FE", [0.7, 0.7, 0.66])):
        np.testing.assert_array_equal(drawn[name].get_ydata(), values)
        assert drawn[name].get_color() == style.COLOURS[name]
    joined = [segment[:, 1].tolist() for segment in aps.collections[0].get_segments()]
    np.testing.assert_allclose(joined, [[0.6, 0.7], [0.8, 0.7], [0.65, 0.66]])
    *_, interval = gains.collections[0].get_segments()
    np.testing.assert_allclose(interval, [[2, -0.05], [2, 0.06]])
    assert len(gains.collections[0].get_segments()) == 3
    of = {line.get_label(): list(line.get_ydata()) for line in gains.get_lines()}
    assert of["ours"] == [0.1, -0.1, 0.01]
    assert of["paper, 10 folds (other patients)"] == [0.02]


def test_a_cross_validation_without_a_value_in_the_paper_draws_none():
    _, gains = evidence.crossvalidation_figure(crossvalidation_table(np.nan)).axes
    assert not [line for line in gains.get_lines() if "paper" in line.get_label()]


def test_reliability_has_a_line_per_detector_without_empty_scores():
    table = pd.DataFrame(
        {"detections": [100, 0, 1], "mean_score": [0.1, np.nan, 0.9], "precision": [0.0, np.nan, 0.8]}
    )
    (axes,) = evidence.reliability_figure({"ssd512": table, "ssd512-fe": table}).axes
    drawn = {line.get_label(): line for line in axes.get_lines()}
    np.testing.assert_array_equal(drawn["ssd512-fe"].get_xydata(), [[0.1, 0.0], [0.9, 0.8]])
    assert drawn["ssd512"].get_color() == style.COLOURS["SSD"]
    many, one = axes.collections[0].get_sizes()
    assert many > 2 * one
