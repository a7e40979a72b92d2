"""Format tables and values as Markdown, and insert them into handwritten pages."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from cmbfe.errors import InputError


def as_text(value: object) -> str:
    """A value as text: numbers to three decimals, tuples separated by commas, an empty text for None.

    >>> as_text((0.8, 0.95)), as_text(120_000), as_text(0.12345), as_text(0.0003), as_text(None)
    ('0.8, 0.95', '120,000', '0.123', '0.0003', '')
    """
    if value is None:
        return ""
    if type(value) is tuple:
        return ", ".join(map(as_text, value))
    if isinstance(value, float) and 1e-6 < abs(value) < 1e-3:
        return f"{value:.1g}"
    if isinstance(value, float) and abs(value) < 1e4:
        return f"{round(value, 3) + 0.0:g}"  # no -0
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are already text."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def markdown_of(frame: pd.DataFrame, headings: Mapping[str, str]) -> str:
    """The columns of a data frame that `headings` names, as a Markdown table.

    An interval (columns NAME_low and NAME_high) follows its value, gains have a sign, and a missing value is a dash.
    """
    return markdown(list(headings.values()), readable(frame)[list(headings)].to_numpy())


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """A table for display: cells are text as in `markdown_of`, and intervals follow their values."""
    rows, names = frame.astype(object).to_dict("records"), list(frame)
    limits = {f"{name}{end}" for name in names for end in ("_low", "_high")}
    cells = {name: [_cell(row, name) for row in rows] for name in names if name not in limits}
    return pd.DataFrame(cells, index=frame.index)


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if isinstance(value, str | int):
        return str(value)
    if pd.isna(value):
        return "–"
    sign = "+" if column.endswith(("gain", "change", "difference", "over_fe", "over_ssd512")) else ""
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    if low is None and float(value).is_integer() and abs(value) > 1:
        return f"{value:.0f}"
    interval = "" if low is None or pd.isna(low) else f" ({low:{sign}z.3f} to {high:{sign}z.3f})"
    return f"{value:{sign}z.3f}{interval}"


def with_block(text: str, name: str, block: str) -> str:
    """Replace the text between the markers `<!-- name: begin -->` and `<!-- name: end -->`.

    Raises:
        InputError: the text does not have each marker once, in this order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"expected {begin} and, after it, {end} once each")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{block}\n{end}{after}"
