"""Figures of the gains of arms, folds, backbones and kinds of microbleeds, and of the effect of phase."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmbfe.data.labelled.images import HALF_TURN, ZERO_PHASE
from cmbfe.figures.evidence import PRINTED
from cmbfe.figures.style import COLOURS, PRESET_COLOURS, arm, new_figure, theme

SHOWN_TURNS = 0.5  # share of half a turn: black to white is a phase of -90° to 90°
PREFIX = "false positives: "


def gains_figure(gains: pd.DataFrame, of_seeds: pd.DataFrame | None = None, what: str = "AP") -> Figure:
    """Gain of each row with its interval, and the paper's gain, in points (hundredths).

    Args:
        gains: columns `gain`, `gain_low`, `gain_high` and optionally `paper_gain`. Rows have a name, or an arm and a
            treatment as in `cmbfe.studies.reading.gains_table`. A row without a gain has a note instead of a point.
        of_seeds: result of `seeds_table` in the same module, for a dot per seed. what: name of the metric.
    """
    places, points = np.arange(len(gains)), 100 * gains.filter(like="gain")
    with new_figure(figsize=(7, 1.6 + 0.45 * len(gains))) as (figure, axes):
        axes.axvline(0, color="0.4", linewidth=1)
        for place, row in zip(places, gains.index if of_seeds is not None else (), strict=False):
            each = 100 * of_seeds.sort_index().loc[row, "gain"]
            axes.plot(each, np.full(len(each), place + 0.25), "o", color="0.5", markersize=4, label="one seed")
        axes.hlines(places, points["gain_low"], points["gain_high"], color=COLOURS["SSD-FE"], linewidth=2)
        axes.plot(points["gain"], places, "D", color=COLOURS["SSD-FE"], label="ours, 95 % CI")
        if "paper_gain" in points and points["paper_gain"].notna().any():
            axes.plot(points["paper_gain"], places, "o", label="the paper's, on other patients", **PRINTED)
        for place in places[points["gain"].isna()]:
            where = {"xycoords": ("axes fraction", "data"), "va": "center", "backgroundcolor": "white"}
            axes.annotate("no gain can be computed", (0.02, place), **where)
        axes.set_yticks(places, _names(gains.index))
        axes.set(xlabel=f"gain in {what}, points (with minus without)", ylim=(len(gains) - 0.5, -0.5))
        axes.locator_params(axis="x", nbins=8)
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one of each label
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def kinds_figure(kinds: pd.DataFrame) -> Figure:
    """Gain in sensitivity of each detector in each third of the microbleeds, by contrast and by diameter.

    `kinds`: result of `cmbfe.studies.reading.kinds_table`.
    """
    looks = list(zip((COLOURS["SSD"], *PRESET_COLOURS), "osD^", strict=True))
    with new_figure(1, 2, figsize=(9, 4.2), sharey=True) as (figure, panels):
        for axes, (by, part) in zip(panels, kinds.groupby("by", sort=False), strict=True):
            axes.axhline(0, color="0.4", linewidth=1)
            for number, (name, rows) in enumerate(part.groupby("arm", sort=False)):
                colour, marker = looks[number % len(looks)]
                gain, limits = 100 * rows["gain"], 100 * rows[["gain_low", "gain_high"]]
                bars = limits.sub(gain, axis=0).abs().to_numpy().T
                places = np.arange(len(rows)) + 0.16 * number - 0.24
                axes.errorbar(places, gain, bars, fmt=marker, color=colour, label=name)
            thirds = zip(rows["from"], rows["to"], strict=True)
            axes.set_xticks(range(len(rows)), [f"{low:.2f} to {high:.2f}" for low, high in thirds])
            what, *unit = by.split(", ")
            axes.set(xlabel=", ".join([f"{what} of the microbleeds", *unit]))
        panels[0].set_ylabel("gain in sensitivity, points")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    return figure


def _names(index: pd.Index) -> list[str]:
    """Labels of the rows: the name or arm and, if there are several treatments, the treatment."""
    if index.nlevels == 1:
        return list(index)
    several = index.get_level_values("treatment").nunique() > 1
    return [f"{arm}, {treatment}" if several else arm for arm, treatment in index]


def phase_figure(examples: Mapping[str, np.ndarray], effect: pd.DataFrame) -> Figure:
    """Crops in magnitude and phase side by side, and the change that phase makes to false positives of each kind.

    Args:
        examples: title -> uint8 [rows, columns, 2].
        effect: result of `cmbfe.studies.phase.effect_table`.
    """
    with theme():
        figure = plt.figure(figsize=(10.5, 4.4), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(4, 9))
        _draw_examples(left, examples)
        axes = right.subplots(1, 2, sharey=True)
        for shift, (name, rows) in enumerate(effect.groupby("detector", sort=False)):
            _draw_kinds(axes, rows.droplevel("detector"), name, 0.25 * shift)
        axes[0].set(xlabel="per patient", xlim=(0, None), title="False positives")
        axes[1].axvline(0, color="0.4", linewidth=1)
        axes[1].set(xlabel="per patient, 95 % CI", title="Change by phase")
        right.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
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


def _draw_kinds(axes: Sequence[Axes], rows: pd.DataFrame, name: str, shift: float) -> None:
    rows = rows[rows.index.str.startswith(PREFIX) & (rows.index != f"{PREFIX}all")]
    places, counts, changes = np.arange(len(rows)) + shift, *axes
    look = {"marker": "o", "linestyle": "none", "color": COLOURS[arm(name)]}
    counts.plot(rows["without_phase"], places, markerfacecolor="white", label=f"{name}, magnitude only", **look)
    counts.plot(rows["with_phase"], places, label=f"{name}, magnitude and phase", **look)
    changes.hlines(places, rows["difference_low"], rows["difference_high"], color=look["color"], linewidth=2)
    changes.plot(rows["difference"], places, **look | {"marker": "D"})
    kinds = [kind.removeprefix(PREFIX).replace(", ", ",\n") for kind in rows.index]
    counts.set_yticks(np.arange(len(rows)) + shift / 2, kinds)
    counts.set_ylim(len(rows) - 0.3, -0.6)
