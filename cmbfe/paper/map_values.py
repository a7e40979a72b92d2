"""Values of ours for the map of the paper: settings, constants of the code, cells of tables, and how they are shown."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cmbfe import paths
from cmbfe.detector.boxes import GRIDS
from cmbfe.detector.ssd import SPECS
from cmbfe.paper import facts
from cmbfe.paper.claims import Cell
from cmbfe.params import Params
from cmbfe.phantom import dicom
from cmbfe.phantom.simulate import draw_patient

ACQUISITION = ("field_strength_t", "echo_time_ms", "repetition_time_ms", "echo_train_length", "bandwidth_khz",
               "flip_angle_degrees")  # fmt: skip
"""Names of constants of `cmbfe.phantom.dicom`, in small letters."""


class Reading(NamedTuple):
    """A value of ours with its 95 % interval; NaN where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan

    def __str__(self) -> str:
        if np.isnan(self.value):
            return ""
        if np.isnan(self.low):
            return as_text(self.value)
        return f"{as_text(self.value)} ({as_text(self.low)} to {as_text(self.high)})"


def read_cell(cell: Cell, root: Path) -> Reading | None:
    """What results/tables says, with `<column>_low` and `_high` if the table has them; None where it does not exist.

    A row is named by the first column, or by "a,b" for the first two.

    Args:
        root: the workspace.
    """
    file = paths.table(cell.table, root)
    if not file.is_file():
        return None
    table = pd.read_csv(file)
    names = table.iloc[:, 0].astype(str)
    if "," in cell.row:
        names += "," + table.iloc[:, 1].astype(str)
    found = table[names == cell.row]
    if not len(found) or cell.column not in table:
        return None
    return Reading(*(float(found.iloc[0].get(f"{cell.column}{end}", np.nan)) for end in ("", "_low", "_high")))


def known_values(params: Params, root: Path) -> dict[str, object]:
    """Every value that a key of `paper_claims` or `open_points` may name.

    Settings by their key paths, and beside them what no setting holds: `acquisition.*`, `input_px.*`, `trunk.*`,
    `first_map.*` (cells on a side) from the code, `cohort.*` from several settings, `05_backbones.batch` from that
    notebook's parameters.

    Args:
        root: the workspace.
    """
    phantom = params.phantom
    defaults = draw_patient.__kwdefaults__
    return {
        **setting_values(params),
        **{f"acquisition.{name}": getattr(dicom, name.upper()) for name in ACQUISITION},
        **{f"acquisition.{name}": defaults[name] for name in ("field_of_view_mm", "slice_thickness_mm")},
        **{f"input_px.{name}": SPECS[name].input_size for name in facts.INPUT_PX},
        **{f"trunk.{name}": SPECS[name].trunk for name in facts.INPUT_PX},
        **{f"first_map.{name}": GRIDS[SPECS[name].input_size].maps[0] for name in facts.INPUT_PX},
        "cohort.patients": phantom.patients.total,
        "cohort.pictures": phantom.exact.images if phantom.exact else phantom.patients.total * phantom.slices,
        "cohort.folds": len(params.crossvalidation.folds),
        "05_backbones.batch": notebook_parameters(root / "notebooks" / "05_backbones.ipynb")["batch"],
    }


def setting_values(params: Params) -> dict[str, object]:
    """All settings by their key paths, such as training.learning_rate."""
    return _flat(params.model_dump())


def _flat(content: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def notebook_parameters(notebook: Path) -> dict[str, object]:
    """The plain literals of a notebook's parameters cell, by name."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    lines = (line.partition(" = ") for text in source for line in text.splitlines())
    return {name: json.loads(value) for name, _, value in lines}


def as_text(value: object) -> str:
    """A value as the map shows it: numbers to three decimals, several after one another, nothing for None.

    >>> as_text((0.8, 0.95)), as_text(120_000), as_text(0.12345), as_text(None)
    ('0.8, 0.95', '120,000', '0.123', '')
    """
    if value is None:
        return ""
    if isinstance(value, tuple) and not isinstance(value, Reading):
        return ", ".join(map(as_text, value))
    if isinstance(value, float) and abs(value) < 1e4:
        return f"{round(value, 3) + 0.0:g}"  # no -0
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)
