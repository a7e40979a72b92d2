"""The map of the paper: each claim, setting, number, table and figure, with our result and its notebook or file.

Our values are read from params.yaml, from constants in the code and from results/tables, never typed in. Missing values
are marked.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cmbfe import paths
from cmbfe.detector.boxes import GRIDS
from cmbfe.detector.ssd import SPECS
from cmbfe.paper import claims, facts
from cmbfe.paper.claims import Cell, Claim, Exhibit, OpenPoint, Setting, Value
from cmbfe.paper.tables import as_text
from cmbfe.params import Params, by_key_path, load_params, profile_file
from cmbfe.phantom import dicom
from cmbfe.phantom.simulate import draw_patient

AS_PRINTED, SCALED, DIFFERS = "as in the paper", "as in the paper, at our image size", "differs"
NARROWED = "the paper's, compressed to our width"
MADE, MISSING, NOT_YET, NOT_REACHED = "made", "missing", "not measured yet", "not reached"
NO_INTERVAL = "no interval"
MEASURED, TIMED = "measured, on other patients", "measured, on another machine"
PRINTED_ONLY = "printed only: a study of others"
HOLDS, OPPOSITE, INCONCLUSIVE = "holds here", "the opposite here", "inconclusive here"
EXCLUDED = "the paper's gain is excluded here"
LITERAL, ANOTHER, IN_CODE = "as in the profile paper", "another value", "stated in the code"
ACQUISITION = ("field_strength_t", "echo_time_ms", "repetition_time_ms", "echo_train_length", "bandwidth_khz",
               "flip_angle_degrees")  # fmt: skip
"""Names of constants of `cmbfe.phantom.dicom`, in lower case."""


class Reading(NamedTuple):
    """One of our values with its 95 % CI, which is NaN if none was computed."""

    value: float
    low: float = np.nan
    high: float = np.nan

    def __str__(self) -> str:
        if np.isnan(self.value):
            return ""
        interval = "" if np.isnan(self.low) else f" ({as_text(self.low)} to {as_text(self.high)})"
        return as_text(self.value) + interval


def read_cell(cell: Cell, root: Path) -> Reading | None:
    """A cell of results/tables in the workspace `root`, with its CI from `<column>_low` and `_high`; None if absent.

    `cell.row` is the value in the first column, or "a,b" for the first two columns.
    """
    file = paths.table(cell.table, root)
    if not file.is_file():
        return None
    table = pd.read_csv(file)
    names = table.iloc[:, 0].astype(str)
    if "," in cell.row:
        names += "," + table.iloc[:, 1].astype(str)
    rows = table[names == cell.row]
    if not len(rows) or cell.column not in table:
        return None
    return Reading(*(float(rows.iloc[0].get(f"{cell.column}{end}", np.nan)) for end in ("", "_low", "_high")))


def paper_map(params: Params, root: Path) -> pd.DataFrame:
    """All rows of the map: `kind`, `section`, `what`, `paper`, `ours`, `status`, `notebook`, `where`.

    Args:
        root: the workspace, whose notebooks/ and results/ are read.
    """
    known = known_values(params, root)
    rows = [
        *(_of_claim(claim, root) for claim in claims.CLAIMS),
        *(_of_value("cost", "4", value, "05_backbones", root) for value in claims.COSTS),
        _of_value("mimics", "1", claims.MIMICS, "01_data", root),
        *(_of_setting(setting, params, known) for setting in claims.SETTINGS),
        *_of_printed_tables(params, root),
        *(_of_exhibit(exhibit, root) for exhibit in claims.EXHIBITS),
    ]
    return pd.DataFrame(rows)


def missing_exhibits(rows: pd.DataFrame) -> list[str]:
    """Names of the paper's tables and figures that lack a file in results/."""
    return rows.loc[rows["status"].eq(MISSING), "section"].tolist()


def open_points(params: Params, root: Path) -> pd.DataFrame:
    """A row per open point: `question`, `readings` (ours first), `set_by`, `now`, `status`, `paper_profile`, `effect`.

    `now` is the value in params.yaml, and `paper_profile` the value of the literal reading. `effect` lists measured
    changes of AP: AP with FE in the arm of a reading minus AP with FE as in params.yaml.
    """
    now, literal = (known_values(settings, root) for settings in (params, load_params(profile_file("paper"))))
    rows = []
    for point in claims.OPEN_POINTS:
        is_literal = all(now[key] == literal[key] for key in point.keys)
        rows.append({
            "point": point.name,
            "question": point.question,
            "readings": "; ".join(point.readings),
            "set_by": ", ".join(point.keys) or point.code,
            "now": "; ".join(_setting_text(now, key) for key in point.keys),
            "status": IN_CODE if not point.keys else LITERAL if is_literal else ANOTHER,
            "paper_profile": "; ".join(_setting_text(literal, key) for key in point.keys),
            "effect": _effect(point, params, root),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("point")


def deviations(params: Params) -> pd.DataFrame:
    """Settings that differ from the profile `paper`, in columns `paper_profile` and `ours`. Leaves out `study`."""
    both = [setting_values(settings) for settings in (load_params(profile_file("paper")), params)]
    keys = [key for key in both[0] | both[1] if not key.startswith("study.") and key != "profile"]
    differing = [key for key in keys if both[0].get(key) != both[1].get(key)]
    rows = [[_setting_text(values, key) for values in both] for key in differing]
    return pd.DataFrame(rows, differing, ["paper_profile", "ours"]).rename_axis("setting")


def _row(
    kind: str, section: str, what: str, printed: object, ours: object, status: str, notebook: str, where: str
) -> dict[str, str]:
    place = {"kind": kind, "section": section, "what": what, "paper": as_text(printed), "ours": as_text(ours)}
    return place | {"status": status, "notebook": notebook, "where": where}


def _of_setting(setting: Setting, params: Params, known: Mapping[str, object]) -> dict[str, str]:
    ours, printed, matrix_px = known[setting.key], setting.printed, params.phantom.matrix_px
    status = AS_PRINTED if ours == printed else DIFFERS
    if setting.is_px and matrix_px != claims.IMAGE_PX:
        shrunk = np.multiply(printed, matrix_px / claims.IMAGE_PX)
        status = SCALED if np.array_equal(shrunk, ours) else DIFFERS
    if ours == "compressed":
        status = NARROWED
    where = "params.yaml" if setting.key in setting_values(params) else "code"
    shown, where = _setting_text(known, setting.key), f"{where}: {setting.key}"
    return _row("setting", setting.section, setting.what, printed, shown, status, setting.notebook, where)


def _of_claim(claim: Claim, root: Path) -> dict[str, str]:
    ours = read_cell(claim.ours, root)
    printed = np.subtract(*claim.printed).item() if claim.printed else None
    if ours is None or np.isnan(ours.value):
        status = NOT_YET if ours is None else NOT_REACHED
    elif np.isnan(ours.low):
        status = NO_INTERVAL
    else:
        worst, best = sorted((claim.better * ours.low, claim.better * ours.high))
        excluded = printed is not None and best < claim.better * printed
        status = HOLDS if worst > 0 else OPPOSITE if best < 0 else EXCLUDED if excluded else INCONCLUSIVE
    return _row("claim", claim.section, claim.what, printed, ours, status, claim.notebook, _file(claim.ours))


def _of_value(kind: str, section: str, value: Value, notebook: str, root: Path) -> dict[str, str]:
    ours = read_cell(value.ours, root)
    measured = TIMED if "time" in value.name or "seconds" in value.name else MEASURED
    status = NOT_YET if ours is None else NOT_REACHED if np.isnan(ours.value) else measured
    return _row(kind, section, value.name, value.printed, ours, status, notebook, _file(value.ours))


def _of_printed_tables(params: Params, root: Path) -> list[dict[str, str]]:
    """A row per number of Tables 1 to 4 and of the ten folds."""
    ap = pd.DataFrame({"ap": facts.TABLE_2_AP})
    tables = (
        ("Table 1", "table1", facts.TABLE_1, {name: f"our_{name}" for name in facts.TABLE_1}, "01_data"),
        ("Table 2", "table2", ap, {"ap": "our_ap"}, "04_froc"),
        ("Table 3", "table3", facts.TABLE_3, {"recall": "our_recall", "precision": "our_precision",
         "seconds_per_batch_of_8": "our_seconds_per_batch"}, "05_backbones"),
        ("Table 4", "table4", facts.TABLE_4, {name: f"our_{name}" for name in facts.TABLE_4}, "09_baselines"),
    )  # fmt: skip
    rows = []
    for section, file, printed, columns, notebook in tables:
        for name, values in printed.iterrows():
            for column, ours in columns.items():
                value = Value(f"{name}: {column.replace('_', ' ')}", Cell(file, name, ours), float(values[column]))
                row = _of_value("number", section, value, notebook, root)
                if section == "Table 4" and not name.startswith("SSD"):
                    row["status"] = PRINTED_ONLY
                rows.append(row)
    for name, column in zip(facts.TEN_FOLD_AP, ("our_ap", "our_ap_fe"), strict=True):
        detector = params.crossvalidation.detector + ("-fe" if name.endswith("-fe") else "")
        what = f"AP over {facts.FOLDS} folds, {name} (ours: {detector}, {len(params.crossvalidation.folds)} folds)"
        value = Value(what, Cell("crossvalidation", "all", column), facts.TEN_FOLD_AP[name])
        rows.append(_of_value("number", "3", value, "10_crossvalidation", root))
    return rows


def _of_exhibit(exhibit: Exhibit, root: Path) -> dict[str, str]:
    there = all((root / "results" / file).is_file() for file in exhibit.files)
    values = [(value, read_cell(value.ours, root)) for value in exhibit.values]
    ours = "; ".join(f"{value.name} {_shown(reading)}" for value, reading in values)
    printed = "; ".join(f"{value.name} {as_text(value.printed)}" for value, _ in values if value.printed is not None)
    where = ", ".join(f"results/{file}" for file in exhibit.files)
    kind = exhibit.name.split()[0].lower()
    return _row(kind, exhibit.name, exhibit.what, printed, ours, MADE if there else MISSING, exhibit.notebook, where)


def _setting_text(known: Mapping[str, object], key: str) -> str:
    """The value of a key as text: null for None, a dash for an unknown key."""
    return "–" if key not in known else "null" if known[key] is None else as_text(known[key])


def _effect(point: OpenPoint, params: Params, root: Path) -> str:
    """The measured effect of an open point as text, from the study's arms and other tables."""
    arms = [name for name, arm in params.study.arms.items() if set(arm.settings) & set(point.keys)]
    changes = [(name, read_cell(Cell("study", f"{name},fe", "over_fe"), root)) for name in arms]
    lines = [f"{name}: change of AP {_shown(reading)}" for name, reading in changes if reading is not None]
    if arms and not lines:
        lines = [f"{', '.join(arms)}: {NOT_YET}"]
    values = [(value, read_cell(value.ours, root)) for value in point.measured]
    lines += [f"{value.name} {as_text(reading)}" for value, reading in values if reading is not None]
    return "; ".join(lines) or "no arm of the study"


def _file(cell: Cell) -> str:
    return f"results/tables/{cell.table}.csv"


def _shown(reading: Reading | None) -> str:
    return NOT_YET if reading is None else str(reading) or NOT_REACHED


def known_values(params: Params, root: Path) -> dict[str, object]:
    """All values that keys in `cmbfe.paper.claims` may name: settings by key path, and other values.

    Other values are `acquisition.*`, `input_px.*`, `trunk.*` and `first_map.*` (cells per side) from the code,
    `cohort.*` from several settings, and `05_backbones.batch` from the notebook's parameters in the workspace `root`.
    """
    phantom, defaults = params.phantom, draw_patient.__kwdefaults__
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
    return by_key_path(params.model_dump())


def notebook_parameters(notebook: Path) -> dict[str, object]:
    """The literal values in a notebook's parameters cell, by name."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    lines = (line.partition(" = ") for text in source for line in text.splitlines())
    return {name: json.loads(value) for name, _, value in lines}
