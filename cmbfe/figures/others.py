"""Figure of FE in other detectors and of its relatives, in the look of `cmbfe.figures.style`."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmbfe.figures.style import COLOURS, theme


def others_figure(gains: pd.DataFrame, relatives: pd.DataFrame, of_seeds: pd.DataFrame, compared_on: str) -> Figure:
    """AP of each detector's twins, the gain by FE, and beside it the gains of FE and its relatives on one detector.

    Args:
        gains: what `cmbfe.studies.other_comparison.gains_table` gives.
        relatives: what `relatives_table` there gives; no row where they were not trained.
        of_seeds: what `seeds_table` there gives.
        compared_on: the detector of `relatives`.
    """
    with theme():
        rows = max(len(gains), len(relatives))
        figure, (aps, twins, family) = plt.subplots(
            1, 3, figsize=(14, 1.8 + 0.4 * rows), layout="constrained", width_ratios=(2, 3, 3)
        )
        for label, column, arm in (("without FE", "ap", "SSD"), ("with FE", "ap_fe", "SSD-FE")):
            aps.plot(gains[column], np.arange(len(gains)), "o", color=COLOURS[arm], label=label)
        aps.set_yticks(range(len(gains)), gains.index)
        aps.set(xlim=(0, 1), ylim=(len(gains) - 0.5, -0.5), xlabel="AP, mean over seeds", title="Twins")
        each = [of_seeds.loc[(detector, "fe")] for detector in gains.index]
        _gains(twins, gains, each, "Gain by FE")
        twins.set_yticklabels([])
        named = relatives.dropna(subset="gain")
        _gains(family, named, [of_seeds.loc[(compared_on, name)] for name in named.index], f"On {compared_on}")
        handles = dict(zip(*reversed(twins.get_legend_handles_labels()), strict=True))  # one of each label
        handles |= dict(zip(*reversed(aps.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    plt.close(figure)
    return figure


def _gains(axes: Axes, table: pd.DataFrame, each: list[pd.DataFrame], title: str) -> None:
    """A row per line of the table: its gain with interval, and a dot per seed."""
    places = np.arange(len(table))
    axes.axvline(0, color="0.4", linewidth=1)
    for place, of_seeds in zip(places, each, strict=True):
        axes.plot(of_seeds["gain"], np.full(len(of_seeds), place), "o", color="0.6", markersize=4, label="one seed")
    axes.hlines(places, table["gain_low"], table["gain_high"], color=COLOURS["SSD-FE"], linewidth=2)
    axes.plot(table["gain"], places, "D", color=COLOURS["SSD-FE"], markersize=6,
              label="mean and 95 % interval over patients and seeds")  # fmt: skip
    axes.set_yticks(places, table.index)
    axes.set(ylim=(len(table) - 0.5, -0.5), xlabel="AP with less without", title=title)
