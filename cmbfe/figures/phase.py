"""The figure of 11_ablation, in the look of `cmbfe.figures.style`."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmbfe.data.labelled.images import HALF_TURN, ZERO_PHASE
from cmbfe.figures.style import COLOURS, arm, theme

SHOWN_TURNS = 0.5
"""Phase shown from black to white: a quarter of a turn (half of half a turn) to either side."""
PREFIX = "false positives: "


def phase_figure(examples: Mapping[str, np.ndarray], effect: pd.DataFrame) -> Figure:
    """Pieces of images in magnitude and phase beside each other, and false positives by kind without phase and with.

    Args:
        examples: title -> uint8 [rows, columns, 2].
        effect: what `cmbfe.studies.phase_effect.effect_table` gives.
    """
    with theme():
        figure = plt.figure(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(4, 7))
        _draw_examples(left, examples)
        axes = right.subplots()
        for shift, (name, rows) in enumerate(effect.groupby("detector", sort=False)):
            _draw_kinds(axes, rows.droplevel("detector"), arm(name), 0.25 * shift)
        axes.set(
            xlabel="false positives per patient", title="At one sensitivity, by what they are on", xlim=(0, None)
        )
        right.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def _draw_examples(figure: Figure, examples: Mapping[str, np.ndarray]) -> None:
    grid = figure.subplots(max(len(examples), 1), 2, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    half = SHOWN_TURNS * HALF_TURN
    for (magnitude, phase), (title, image) in zip(grid, examples.items(), strict=False):
        magnitude.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        phase.imshow(
            image[..., 1], cmap="gray", vmin=ZERO_PHASE - half, vmax=ZERO_PHASE + half, interpolation="nearest"
        )
        magnitude.set_title(f"{title}, magnitude", fontsize=9)
        phase.set_title("phase, black to white\n-90° to 90°", fontsize=9)


def _draw_kinds(axes: Axes, rows: pd.DataFrame, name: str, shift: float) -> None:
    rows = rows[rows.index.str.startswith(PREFIX)]
    rows = rows[rows.index != f"{PREFIX}all"]
    places = np.arange(len(rows)) + shift
    colour = COLOURS[name]
    axes.hlines(places, rows["without_phase"], rows["with_phase"], color=colour, linewidth=2)
    ends = rows["without_phase"] + rows["difference_low"], rows["without_phase"] + rows["difference_high"]
    axes.hlines(places, *ends, color=colour, alpha=0.3, linewidth=6, label=f"{name}: 95 % interval of the change")
    axes.plot(
        rows["without_phase"], places, "o", color=colour, markerfacecolor="white", label=f"{name}, magnitude only"
    )
    axes.plot(rows["with_phase"], places, "o", color=colour, label=f"{name}, magnitude and phase")
    axes.set_yticks(np.arange(len(rows)) + shift / 2, [one.removeprefix(PREFIX) for one in rows.index])
    axes.set_ylim(len(rows) - 0.3, -0.6)
