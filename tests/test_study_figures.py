"""Figures of the study draw what the tables say."""

import numpy as np
import pandas as pd

from cmbfe.figures.study import kinds_figure, study_figure
from cmbfe.figures.style import COLOURS


def test_every_arm_has_its_gain_interval_and_a_dot_per_seed():
    effects = pd.DataFrame(
        {
            "ap": [0.5, 0.6],
            "ap_fe": [0.6, 0.5],
            "gain": [0.1, -0.1],
            "gain_low": [0.0, -0.2],
            "gain_high": [0.2, 0.0],
            "paper_gain": [0.02, np.nan],
        },
        index=["ssd512", "ssd300"],
    )
    each = [("ssd512", 1, 0.05), ("ssd512", 2, 0.15), ("ssd300", 1, -0.1)]
    of_seeds = pd.DataFrame(each, columns=["arm", "seed", "gain"]).set_index(["arm", "seed"])
    gains, aps = study_figure(effects, of_seeds).axes
    assert [label.get_text() for label in gains.get_yticklabels()] == ["ssd512", "ssd300"]
    intervals = [segment[:, 0].tolist() for segment in gains.collections[0].get_segments()]
    assert intervals == [[0.0, 0.2], [-0.2, 0.0]]
    dots = [line.get_xdata().tolist() for line in gains.get_lines() if line.get_label() == "one seed"]
    assert dots == [[0.05, 0.15], [-0.1]]
    (printed,) = [line for line in gains.get_lines() if line.get_label().startswith("the paper's")]
    np.testing.assert_equal(printed.get_xdata(), [0.02, np.nan])
    assert {line.get_label(): line.get_color() for line in aps.get_lines()} == COLOURS


def test_kinds_have_a_panel_per_property_and_a_dot_per_third():
    rows = [
        {
            "arm": arm,
            "by": by,
            "from": third,
            "to": third + 1,
            "gain": gain,
            "gain_low": gain - 1,
            "gain_high": gain + 1,
        }
        for arm, gain in (("ssd512", 0.1), ("ssd300", 0.2))
        for by in ("contrast", "diameter, mm")
        for third in range(3)
    ]
    panels = kinds_figure(pd.DataFrame(rows).set_index(["arm", "by"])).axes
    assert [axes.get_xlabel() for axes in panels] == ["contrast", "diameter, mm"]
    drawn = {
        line.get_label(): line.get_ydata()
        for line in panels[0].get_lines()
        if line.get_label() in ("ssd512", "ssd300")
    }
    np.testing.assert_allclose(drawn["ssd300"], [0.2] * 3)
    assert [label.get_text() for label in panels[0].get_xticklabels()] == [
        "0.00 to 1.00",
        "1.00 to 2.00",
        "2.00 to 3.00",
    ]
