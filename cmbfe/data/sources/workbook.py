"""Places of microbleeds from Excel workbooks as the CSIRO data set has them.

The first column holds the name of a volume (its header has a trailing blank), the columns after it hold x, y, z of one
microbleed after the other. Empty cells may hold blanks as text, numbers may be text, rows may be repeated.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openpyxl
from openpyxl.utils import get_column_letter

from cmbfe.errors import InputError

NAME_COLUMN = "nifti file name"


@dataclass(frozen=True)
class Row:
    """Microbleeds of one volume."""

    name: str
    """As the workbook has it, without blanks around."""
    places: tuple[tuple[float, float, float], ...]
    """x, y, z of each."""
    workbook: Path
    where: str
    """Workbook, sheet and row, for errors."""


def read_workbook(path: Path) -> list[Row]:
    """Read the rows of every sheet whose first column is headed `NIFTI File Name`; empty ones are passed over.

    Raises:
        InputError: no Excel workbook, no such sheet or none with a row, a name without places, places without a name, a
            place that is not complete, or a cell that is neither a number nor blank; names sheet and row.
    """
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheets = {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in book.worksheets}
        book.close()
    except Exception as error:  # whatever a damaged part of the archive leads to
        raise InputError(
            f"{path}: not readable as an Excel workbook (.xlsx): {type(error).__name__}: {error}"
        ) from None
    wanted = {title: cells for title, cells in sheets.items() if cells and _is_headed(cells[0])}
    if not wanted:
        raise InputError(f"{path}: no sheet has a first column 'NIFTI File Name'; get the workbook again")
    rows = [row for title, cells in wanted.items() for row in _rows(path, title, cells)]
    if not rows:
        raise InputError(f"{path}: holds no row below its header; get the workbook again")
    return rows


def _is_headed(header: Sequence[Any]) -> bool:
    return bool(header) and str(header[0]).strip().casefold() == NAME_COLUMN


def _rows(path: Path, title: str, cells: Sequence[Sequence[Any]]) -> Iterator[Row]:
    for number, (name, *values) in ((number, row) for number, row in enumerate(cells[1:], 2) if row):
        where = f"{path}: sheet {title!r}, row {number}"
        numbers = [_number(value, f"{where}, column {get_column_letter(n)}") for n, value in enumerate(values, 2)]
        name = "" if name is None else str(name).strip()
        if not name and all(value is None for value in numbers):
            continue
        places = tuple(_places(numbers, where))
        if not name:
            raise InputError(f"{where}: holds places but no name of a volume; add it, or remove the row")
        if not places:
            raise InputError(f"{where}: {name} has no place; add it, or remove the row and its volume")
        yield Row(name, places, path, where)


def _number(value: Any, where: str) -> float | None:
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: holds {text!r}, which is no number; correct or clear it")
    return number


def _places(numbers: Sequence[float | None], where: str) -> Iterator[tuple[float, float, float]]:
    for first in range(0, len(numbers), 3):
        place = tuple(numbers[first : first + 3])
        known = [value for value in place if value is not None]
        if len(known) == 3:
            yield place
        elif known:
            count = first // 3 + 1
            raise InputError(
                f"{where}: place {count} has {len(known)} of its three numbers x, y, z; complete or clear it"
            )
