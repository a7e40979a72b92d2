"""Momeni et al. 2021 (CSIRO, doi 10.25919/aegy-ny12): SWI with real and synthetic microbleeds, placed in workbooks.

    PublicDataShare_2020/
      rCMB_DefiniteSubject/122_T1_MRI_SWI_BFC_50mm_HM.nii.gz             subject, visit (T0, T1, T2); real microbleeds
      NoCMBSubject/…                                                     none
      sCMB_DefiniteSubject/122_T1_MRI_SWI_BFC_50mm_HM_rsCMB_3.nii.gz     those of 122_T1_…_HM, and synthetic ones
      sCMB_NoCMBSubject/…_HM_sCMB_3.nii.gz                               synthetic ones only
      *.xlsx                                                             where they are

Folders that are not there are passed over. A patient is the leading number, whatever the folder: real and synthetic
volumes of a subject, and all its visits, are in one split.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cmbfe.data.sources.series import Found, Points, VolumeSeries, number_in
from cmbfe.errors import InputError

NAME_COLUMN = "nifti file name"
"""Heads the first column of a workbook, with a trailing blank; x, y, z of one microbleed after the other follow. Empty
cells may hold blanks as text, numbers may be text, rows may be repeated."""
FOLDERS = ("rCMB_DefiniteSubject", "NoCMBSubject", "sCMB_DefiniteSubject", "sCMB_NoCMBSubject")
REAL, NONE, SYNTHETIC_ON_REAL, SYNTHETIC = FOLDERS
REPEATED = "repeated rows of workbooks (their places are joined)"
MARK_ON_REAL, MARK_SYNTHETIC = "_rsCMB", "_sCMB"
NAME = re.compile(r"(?P<subject>\d+)_(?P<visit>T\d+)_.+")


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


def find_momeni(source: Path, box_mm: float) -> Found:
    """Find the volumes and the points of their microbleeds.

    Args:
        source: PublicDataShare_2020, or a folder above it.
        box_mm: side of the boxes around the points.

    Raises:
        InputError: none of the folders, another name than theirs, no sound workbook, or a volume or a row alone.
    """
    root = _root(source)
    folders = [root / name for name in FOLDERS if (root / name).is_dir()]
    volumes = _volumes(root, folders)
    workbooks = [path for path in sorted(root.glob("*.xlsx")) if not path.name.startswith("~$")]
    if not workbooks and [folder.name for folder in folders] != [NONE]:
        raise InputError(f"{root}: no workbook *.xlsx, which places the microbleeds; get those of the data set")
    rows, repeated = _rows(workbooks)
    known = {name: row for name, row in rows.items() if root / _folder(name) in folders}
    for name, row in known.items():
        if name not in volumes or volumes[name].parent.name != _folder(name):
            where = f", but lies in {volumes[name].parent.name}" if name in volumes else ""
            reason = f"{name} is no volume of {_folder(name)}{where}; correct the name or get the volume"
            raise InputError(f"{row.where}: {reason}")
    left_out = {REPEATED: repeated, "rows of workbooks whose folder is not there": len(rows) - len(known)}
    series = tuple(_series(name, path, rows, box_mm) for name, path in volumes.items())
    return Found(series, left_out, read=tuple(workbooks))


def _volumes(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Name of a volume, without its suffix -> file."""
    volumes: dict[str, Path] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("[!.]*.nii*"))):
        name = _stem(path.name)
        if not NAME.fullmatch(name):
            raise InputError(f"{path}: its name does not begin as 122_T1_…, subject and visit; rename or remove it")
        if (other := volumes.setdefault(name, path)) != path:
            raise InputError(f"{path}: {other.parent.name} holds a volume of the same name; keep one of the two")
    if not volumes:
        raise InputError(f"{root}: its folders hold no *.nii.gz; unpack the data set again")
    return volumes


def _root(source: Path) -> Path:
    candidates = [source, *sorted(path for path in source.rglob("*") if path.is_dir())]
    root = next((path for path in candidates if any((path / name).is_dir() for name in FOLDERS)), None)
    if root is None:
        raise InputError(f"{source}: none of the folders {', '.join(FOLDERS)} is in it; give PublicDataShare_2020")
    return root


def _stem(name: str) -> str:
    return name.strip().removesuffix(".gz").removesuffix(".nii")


def _folder(name: str) -> str:
    """The folder that a volume of this name lies in, if it has microbleeds."""
    return SYNTHETIC_ON_REAL if MARK_ON_REAL in name else SYNTHETIC if MARK_SYNTHETIC in name else REAL


def _rows(workbooks: Sequence[Path]) -> tuple[dict[str, Row], int]:
    """Name of a volume -> its row of all workbooks, and how many rows repeat another."""
    rows: dict[str, Row] = {}
    repeated = 0
    for workbook in workbooks:
        for row in read_workbook(workbook):
            name = _stem(row.name)
            before = rows.get(name)
            repeated += before is not None
            places = row.places if before is None else tuple(dict.fromkeys((*before.places, *row.places)))
            rows[name] = Row(name, places, workbook, row.where)
    return rows, repeated


def _series(name: str, path: Path, rows: Mapping[str, Row], box_mm: float) -> VolumeSeries:
    places, file, folder = (), path, path.parent.name
    if folder != NONE:
        names = [name, name.split(MARK_ON_REAL)[0]] if folder == SYNTHETIC_ON_REAL else [name]
        if missing := [needed for needed in names if needed not in rows]:
            raise InputError(f"{path}: no workbook has a row for {missing[0]}; add it, or remove the volume")
        places = tuple(dict.fromkeys(place for known in names for place in rows[known].places))
        file = rows[name].workbook
    points = Points(places, "voxel-1", (box_mm,) * len(places), file)
    return VolumeSeries(NAME.fullmatch(name)["subject"], f"{folder}/{name}", path, points=points)


def read_workbook(path: Path) -> list[Row]:
    """Read the rows of every sheet whose first column is headed `NIFTI File Name`; empty ones are passed over.

    Raises:
        InputError: no Excel workbook, no such sheet or none with a row, a name without places or places without a
            name, or a place that is not three numbers; names sheet and row.
    """
    try:
        sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=object, na_filter=False, engine="openpyxl")
    except Exception as error:  # whatever a damaged part of the archive leads to
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not readable as an Excel workbook (.xlsx): {reason}; get it again") from None
    cells_of = {title: sheet.to_numpy().tolist() for title, sheet in sheets.items()}
    wanted = {
        title: cells
        for title, cells in cells_of.items()
        if cells and cells[0] and str(cells[0][0]).strip().casefold() == NAME_COLUMN
    }
    if not wanted:
        raise InputError(f"{path}: no sheet has a first column 'NIFTI File Name'; get the workbook again")
    rows = [row for title, cells in wanted.items() for row in _rows_of_sheet(path, title, cells)]
    if not rows:
        raise InputError(f"{path}: holds no row below its header; get the workbook again")
    return rows


def _rows_of_sheet(path: Path, title: str, cells: Sequence[Sequence[Any]]) -> Iterator[Row]:
    for number, (name, *values) in enumerate(cells[1:], 2):
        where = f"{path}: sheet {title!r}, row {number}"
        name, *texts = (str(value).strip() for value in (name, *values))
        numbers = [number_in(text, f"{where}, column {n}") if text else None for n, text in enumerate(texts, 2)]
        if not name and all(value is None for value in numbers):
            continue
        places = tuple(_places(numbers, where))
        if not name:
            raise InputError(f"{where}: holds places but no name of a volume; add it, or remove the row")
        if not places:
            raise InputError(f"{where}: {name} has no place; add it, or remove the row and its volume")
        yield Row(name, places, path, where)


def _places(numbers: Sequence[float | None], where: str) -> Iterator[tuple[float, float, float]]:
    for first in range(0, len(numbers), 3):
        place = tuple(numbers[first : first + 3])
        known = [value for value in place if value is not None]
        if len(known) == 3:
            yield place
        elif known:
            has = f"place {first // 3 + 1} has {len(known)} of its three numbers x, y, z"
            raise InputError(f"{where}: {has}; complete or clear it")
