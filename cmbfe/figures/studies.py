"""Figures of the study: gains of all arms, kinds of microbleeds, phase, folds."""

from collections.abc import Mapping
from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmbfe.data.labelled.images import HALF_TURN, ZERO_PHASE
from cmbfe.figures.style import COLOURS, PRESET_COLOURS, arm, new_figure, theme

SHOWN_TURNS = 0.5  # phase shown from black to white: a quarter of a turn (half of half a turn) to either side
PREFIX = "false positives: "


def gains_figure(gains: pd.DataFrame, of_seeds: pd.DataFrame) -> Figure:
    """Gain of each row with its interval, a dot per seed, and the paper's gain; beside it the AP without and with.

    Args:
        gains: rows of what `cmbfe.studies.reading.gains_table` gives, by arm and treatment.
        of_seeds: what `seeds_table` there gives.
    """
    places, of_seeds = np.arange(len(gains)), of_seeds.sort_index()
    several = gains.index.get_level_values("treatment").nunique() > 1
    names = [f"{arm}, {treatment}" if several else arm for arm, treatment in gains.index]
    shape = {"figsize": (11, 1.6 + 0.36 * len(gains)), "sharey": True, "width_ratios": (3, 2)}
    with new_figure(1, 2, **shape) as (figure, (left, right)):
        left.axvline(0, color="0.4", linewidth=1)
        for place, row in zip(places, gains.index, strict=True):
            each = of_seeds.loc[row, "gain"]
            left.plot(each, np.full(len(each), place), "o", color="0.6", markersize=4, label="one seed")
        left.hlines(places, gains["gain_low"], gains["gain_high"], color=COLOURS["SSD-FE"], linewidth=2)
        left.plot(gains["gain"], places, "D", color=COLOURS["SSD-FE"], markersize=6,
                  label="mean and 95 % interval over patients and seeds")  # fmt: skip
        if gains["paper_gain"].notna().any():
            left.plot(gains["paper_gain"], places, "o", color="black", markerfacecolor="none", markersize=9,
                      label="the paper's, one training on other patients")  # fmt: skip
        for label, column, name in (("without", "ap", "SSD"), ("with", "ap_treated", "SSD-FE")):
            right.plot(gains[column], places, "o", color=COLOURS[name], label=label)
        left.set_yticks(places, names)
        left.set(xlabel="AP with less without", title="Gain", ylim=(len(gains) - 0.5, -0.5))
        right.set(xlabel="average precision, mean over seeds", title="Without and with", xlim=(0, 1))
        drawn = [zip(*reversed(axes.get_legend_handles_labels()), strict=True) for axes in (left, right)]
        handles = dict(chain(*drawn))  # one of each label
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def kinds_figure(kinds: pd.DataFrame) -> Figure:
    """Gain by FE in the sensitivity of each third of the microbleeds, by contrast and by size; a colour per detector.

    `kinds` is what `cmbfe.studies.reading.kinds_table` gives.
    """
    properties = kinds.index.get_level_values("by").unique()
    names = kinds.index.get_level_values("arm").unique()
    shape = {"figsize": (5 * len(properties), 3.6), "sharey": True, "squeeze": False}
    with new_figure(1, len(properties), **shape) as (figure, axes):
        for axis, shown in zip(axes[0], properties, strict=True):
            axis.axhline(0, color="0.4", linewidth=1)
            for shift, (name, colour) in enumerate(zip(names, PRESET_COLOURS, strict=False)):
                part = kinds.loc[(name, shown)]
                places = np.arange(len(part)) + 0.15 * (shift - (len(names) - 1) / 2)
                axis.vlines(places, part["gain_low"], part["gain_high"], color=colour, linewidth=2)
                axis.plot(places, part["gain"], "o", color=colour, label=name)
            ranges = [f"{row['from']:.2f} to {row['to']:.2f}" for _, row in part.iterrows()]
            axis.set_xticks(range(len(part)), ranges)
            axis.set(xlabel=shown, title=f"thirds by {shown.split(',')[0]}")
        axes[0, 0].set_ylabel("sensitivity with FE less without")
        axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    return figure


def phase_figure(examples: Mapping[str, np.ndarray], effect: pd.DataFrame) -> Figure:
    """Pieces of images in magnitude and phase beside each other, and false positives by kind without phase and with.

    Args:
        examples: title -> uint8 [rows, columns, 2].
        effect: what `cmbfe.studies.phase.effect_table` gives.
    """
    with theme():
        figure = plt.figure(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(4, 7))
        _draw_examples(left, examples)
        axes = right.subplots()
        for shift, (name, rows) in enumerate(effect.groupby("detector", sort=False)):
            _draw_kinds(axes, rows.droplevel("detector"), arm(name), 0.25 * shift)
        axes.set(xlabel="false positives per patient", xlim=(0, None))
        axes.set_title("At one sensitivity, by what they are on")
        right.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
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
        phase.set_title("phase, black to white\n-90° to 90°", fontsize=9)


def _draw_kinds(axes: Axes, rows: pd.DataFrame, name: str, shift: float) -> None:
    rows = rows[rows.index.str.startswith(PREFIX) & (rows.index != f"{PREFIX}all")]
    places, colour = np.arange(len(rows)) + shift, COLOURS[name]
    axes.hlines(places, rows["without_phase"], rows["with_phase"], color=colour, linewidth=2)
    ends = rows["without_phase"] + rows["difference_low"], rows["without_phase"] + rows["difference_high"]
    axes.hlines(places, *ends, color=colour, alpha=0.3, linewidth=6, label=f"{name}: 95 % interval of the change")
    look = {"marker": "o", "linestyle": "none", "color": colour}
    axes.plot(rows["without_phase"], places, markerfacecolor="white", label=f"{name}, magnitude only", **look)
    axes.plot(rows["with_phase"], places, label=f"{name}, magnitude and phase", **look)
    axes.set_yticks(np.arange(len(rows)) + shift / 2, [kind.removeprefix(PREFIX) for kind in rows.index])
    axes.set_ylim(len(rows) - 0.3, -0.6)
