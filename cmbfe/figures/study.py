"""Figures of the ablation study and of the generated objects, in the look of `cmbfe.figures.style`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cmbfe.figures.style import COLOURS, GROUND_TRUTH_COLOUR, PRESET_COLOURS, image_grid, show_image, theme


def study_figure(effects: pd.DataFrame, of_seeds: pd.DataFrame, over: str = "patients") -> Figure:
    """Gain by FE of each arm with its interval, a dot per seed, and the paper's gain; beside it AP of the twins.

    Args:
        effects: what `cmbfe.studies.ablation.effects_table` gives, or `cmbfe.objects_study.gains_table`, which knows no paper.
        of_seeds: what `cmbfe.studies.ablation.seeds_table` gives.
        over: what the intervals are over, besides seeds.
    """
    places = np.arange(len(effects))
    with theme():
        size = (11, 1.6 + 0.36 * len(effects))
        figure, (gains, aps) = plt.subplots(
            1, 2, figsize=size, layout="constrained", sharey=True, width_ratios=(3, 2)
        )
        gains.axvline(0, color="0.4", linewidth=1)
        for place, name in zip(places, effects.index, strict=True):
            each = of_seeds.loc[name]
            gains.plot(each["gain"], np.full(len(each), place), "o", color="0.6", markersize=4, label="one seed")
        ends = (effects["gain_low"], effects["gain_high"])
        gains.hlines(places, *ends, color=COLOURS["SSD-FE"], linewidth=2)
        gains.plot(effects["gain"], places, "D", color=COLOURS["SSD-FE"], markersize=6,
                   label=f"mean and 95 % interval over {over} and seeds")  # fmt: skip
        for name, column in (("SSD", "ap"), ("SSD-FE", "ap_fe")):
            aps.plot(effects[column], places, "o", color=COLOURS[name], label=name)
        gains.set_yticks(places, effects.index)
        gains.set(xlabel="AP with FE less without", title="Gain by FE", ylim=(len(effects) - 0.5, -0.5))
        aps.set(xlabel="average precision, mean over seeds", title="Without FE and with", xlim=(0, 1))
        if "paper_gain" in effects:
            gains.plot(effects["paper_gain"], places, "o", color="black", markerfacecolor="none", markersize=9,
                       label="the paper's, one training on other patients")  # fmt: skip
        handles = dict(zip(*reversed(gains.get_legend_handles_labels()), strict=True))  # one of each label
        handles |= dict(zip(*reversed(aps.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    plt.close(figure)
    return figure


def kinds_figure(kinds: pd.DataFrame) -> Figure:
    """Gain by FE in the sensitivity of each third of the microbleeds, by contrast and by size; a colour per detector.

    Args:
        kinds: what `cmbfe.studies.ablation.kinds_table` gives.
    """
    properties = kinds.index.get_level_values("by").unique()
    names = kinds.index.get_level_values("arm").unique()
    with theme():
        figure, axes = plt.subplots(
            1, len(properties), figsize=(5 * len(properties), 3.6), sharey=True, layout="constrained", squeeze=False
        )
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
    plt.close(figure)
    return figure


def examples_figure(examples: Mapping[str, tuple[np.ndarray, Sequence[Sequence[float]]]]) -> Figure:
    """An image of each arm with its labels.

    Args:
        examples: what `cmbfe.objects_study.example_images` gives.
    """
    figure, axes = image_grid(len(examples))
    for axis, (name, (image, boxes)) in zip(axes, examples.items(), strict=True):
        show_image(axis, image, {GROUND_TRUTH_COLOUR: boxes}, title=name)
    plt.close(figure)
    return figure
