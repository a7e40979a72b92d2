"""The figure of other detectors draws what the tables say."""

import numpy as np
import pandas as pd

from cmbfe.figures.others import others_figure
from cmbfe.figures.style import COLOURS


def test_twins_gains_and_relatives_have_a_row_each_with_interval_and_a_dot_per_seed():
    gain = {"gain": [0.1, -0.1], "gain_low": [0.0, -0.2], "gain_high": [0.2, 0.0]}
    gains = pd.DataFrame({"ap": [0.5, 0.6], "ap_fe": [0.6, 0.5], **gain}, index=["fcos", "ssdlite"])
    relatives = pd.DataFrame(
        {"gain": [np.nan, 0.1], "gain_low": [np.nan, 0.0], "gain_high": [np.nan, 0.2]}, index=["plain", "fe"]
    )
    each = [("fcos", "fe", 1, 0.05), ("fcos", "fe", 2, 0.15), ("ssdlite", "fe", 1, -0.1)]
    of_seeds = pd.DataFrame(each, columns=["detector", "relative", "seed", "gain"])
    of_seeds = of_seeds.set_index(["detector", "relative", "seed"])
    aps, twins, family = others_figure(gains, relatives, of_seeds, "fcos").axes
    assert {line.get_label(): line.get_color() for line in aps.get_lines()} == {
        "without FE": COLOURS["SSD"],
        "with FE": COLOURS["SSD-FE"],
    }
    assert [label.get_text() for label in aps.get_yticklabels()] == ["fcos", "ssdlite"]
    assert [label.get_text() for label in family.get_yticklabels()] == ["fe"]
    for axes, intervals in ((twins, [[0.0, 0.2], [-0.2, 0.0]]), (family, [[0.0, 0.2]])):
        assert [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()] == intervals
    dots = [line.get_xdata().tolist() for line in twins.get_lines() if line.get_label() == "one seed"]
    assert dots == [[0.05, 0.15], [-0.1]]
