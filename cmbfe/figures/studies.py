"""Figures of gains (of arms, folds, backbones, kinds of microbleeds), and of phase."""

from collections.abc import Mapping
from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmbfe.data.labelled.images import HALF_TURN, ZERO_PHASE
from cmbfe.figures.evidence import PRINTED
from cmbfe.figures.style import COLOURS, arm, new_figure, theme

SHOWN_TURNS = 0.5  # phase shown from black to white: a quarter of a turn (half of half a turn) to either side
PREFIX = "false positives: "


def gains_figure(gains: pd.DataFrame, of_seeds: pd.DataFrame | None = None, what: str = "AP") -> Figure:
    """Gain of each row with its interval, and the paper's gain; beside it the AP without and with, where it is there.

    Args:
        gains: columns `gain`, `gain_low`, `gain_high` and perhaps `paper_gain`, `ap` and `ap_treated`; rows by name, or
            by arm and treatment as those of `cmbfe.studies.reading.gains_table`.
        of_seeds: what `seeds_table` there gives, for a dot per seed. what: is gained.
    """
    places, panels = np.arange(len(gains)), 2 if "ap_treated" in gains else 1
    shape = {"figsize": (5 + 2 * panels, 1.6 + 0.36 * len(gains)), "sharey": True, "squeeze": False}
    with new_figure(1, panels, width_ratios=(3, 2)[:panels], **shape) as (figure, (axes,)):
        axes[0].axvline(0, color="0.4", linewidth=1)
        for place, row in zip(places, gains.index if of_seeds is not None else (), strict=False):
            each = of_seeds.sort_index().loc[row, "gain"]
            axes[0].plot(each, np.full(len(each), place), "o", color="0.6", markersize=4, label="one seed")
        axes[0].hlines(places, gains["gain_low"], gains["gain_high"], color=COLOURS["SSD-FE"], linewidth=2)
        axes[0].plot(gains["gain"], places, "D", color=COLOURS["SSD-FE"], label="ours, 95 % CI")
        if "paper_gain" in gains and gains["paper_gain"].notna().any():
            axes[0].plot(gains["paper_gain"], places, "o", label="the paper's, on other patients", **PRINTED)
        axes[0].set_yticks(places, _names(gains.index))
        axes[0].set(xlabel=f"{what} with less without", title="Gain", ylim=(len(gains) - 0.5, -0.5))
        axes[0].locator_params(axis="x", nbins=6)
        for axis in axes[1:]:
            for label, column, name in (("without", "ap", "SSD"), ("with", "ap_treated", "SSD-FE")):
                axis.plot(gains[column], places, "o", color=COLOURS[name], label=label)
            axis.set(xlabel="average precision", title="Without and with", xlim=(0, 1))
        drawn = [zip(*reversed(axis.get_legend_handles_labels()), strict=True) for axis in axes]
        handles = dict(chain(*drawn))  # one of each label
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def _names(index: pd.Index) -> list[str]:
    """Of rows by name, or by arm and treatment, which is named where there are several."""
    if index.nlevels == 1:
        return list(index)
    several = index.get_level_values("treatment").nunique() > 1
    return [f"{arm}, {treatment}" if several else arm for arm, treatment in index]


def phase_figure(examples: Mapping[str, np.ndarray], effect: pd.DataFrame) -> Figure:
    """Pieces of images in magnitude and phase beside each other, and false positives by kind without phase and with.

    Args:
        examples: title -> uint8 [rows, columns, 2].
        effect: what `cmbfe.studies.phase.effect_table` gives.
    """
    with theme():
        figure = plt.figure(figsize=(9, 4.4), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(4, 7))
        _draw_examples(left, examples)
        axes = right.subplots()
        for shift, (name, rows) in enumerate(effect.groupby("detector", sort=False)):
            _draw_kinds(axes, rows.droplevel("detector"), arm(name), 0.25 * shift)
        axes.set(xlabel="false positives per patient", xlim=(0, None))
        axes.set_title("At one sensitivity, by what they are on")
        right.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    plt.close(figure)
    return figure


def _draw_examples(figure: Figure, examples: Mapping[str, np.ndarray]) -> None:
    grid = figure.subplots(max(len(examples), 1), 2, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    half = SHOWN_TURNS * HALF_TURN
    look = {"cmap": "gray", "interpolation": "nearest"}
    for (magnitude, phase), (title, image) in zip(grid, examples.items(), strict=False):
        magnitude.imshow(image[..., 0], vmin=0, vmax=255, **look)
        phase.imshow(image[..., 1], vmin=ZERO_PHASE - half, vmax=ZERO_PHASE + half, **look)
        magnitude.set_title(f"{title}, magnitude", fontsize=9)
        phase.set_title("phase, -90° to 90°", fontsize=9)


def _draw_kinds(axes: Axes, rows: pd.DataFrame, name: str, shift: float) -> None:
    rows = rows[rows.index.str.startswith(PREFIX) & (rows.index != f"{PREFIX}all")]
    places, colour = np.arange(len(rows)) + shift, COLOURS[name]
    axes.hlines(places, rows["without_phase"], rows["with_phase"], color=colour, linewidth=2)
    ends = rows["without_phase"] + rows["difference_low"], rows["without_phase"] + rows["difference_high"]
    axes.hlines(places, *ends, color=colour, alpha=0.3, linewidth=6, label=f"{name}, 95 % CI of the change")
    look = {"marker": "o", "linestyle": "none", "color": colour}
    axes.plot(rows["without_phase"], places, markerfacecolor="white", label=f"{name}, magnitude only", **look)
    axes.plot(rows["with_phase"], places, label=f"{name}, magnitude and phase", **look)
    axes.set_yticks(np.arange(len(rows)) + shift / 2, [kind.removeprefix(PREFIX) for kind in rows.index])
    axes.set_ylim(len(rows) - 0.3, -0.6)
