"""Public data sets of volumes, each in its own layout.

VALDO 2021, Task 2 (https://valdo.grand-challenge.org), a folder per patient:

    sub-101/sub-101_space-T2S_desc-masked_T2S.nii.gz    T2*, face and skull removed; imported
    sub-101/sub-101_space-T2S_desc-masked_T1.nii.gz     T1 and T2, registered to T2*; left out
    sub-101/sub-101_space-T2S_CMB.nii.gz                mask; values 2 and 3 occur and are microbleeds too

Dou et al. 2016 (cmb-3dcnn-data):

    nii/01.nii             orientations differ: LPS, RAS and LAS occur
    ground_truth/01.mat    `cen`, N x 3: voxel indices of the file, counted from 1; `gt_num`: N

Momeni et al. 2021 (CSIRO, doi 10.25919/aegy-ny12), PublicDataShare_2020. Folders may be missing. In all
folders, the leading number of a name is the patient, so that all volumes and visits of a subject are in one split:

    rCMB_DefiniteSubject/122_T1_MRI_SWI_BFC_50mm_HM.nii.gz             subject, visit (T0, T1, T2); real microbleeds
    NoCMBSubject/…                                                     no microbleeds
    sCMB_DefiniteSubject/122_T1_MRI_SWI_BFC_50mm_HM_rsCMB_3.nii.gz     microbleeds of 122_T1_…_HM, and synthetic
    sCMB_NoCMBSubject/…_HM_sCMB_3.nii.gz                               only synthetic microbleeds
    *.xlsx                                                             positions of the microbleeds
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cmbfe.data.inventory import Aside, Inventory
from cmbfe.data.own_process import own_process
from cmbfe.data.sources.mat_file import read_numbers
from cmbfe.data.sources.series import Found, Points, VolumeSeries, number_in
from cmbfe.errors import InputError

SUFFIXES = (".nii.gz", ".nii")
VOLUME, LABEL = "_space-T2S_desc-masked_T2S", "_space-T2S_CMB"
OTHERS = ("_space-T2S_desc-masked_T1", "_space-T2S_desc-masked_T2")
OTHER_VOLUMES = "T1 and T2 volumes (images are T2*)"
NAME_COLUMN = "nifti file name"
"""Header of a workbook's first column, compared without case and outer blanks. The next columns are x, y, z of each
microbleed. Empty cells may contain blanks, numbers may be text, and rows may be repeated."""
FOLDERS = ("rCMB_DefiniteSubject", "NoCMBSubject", "sCMB_DefiniteSubject", "sCMB_NoCMBSubject")
REAL, NONE, SYNTHETIC_ON_REAL, SYNTHETIC = FOLDERS
REPEATED = "repeated rows of workbooks (their places are joined)"
MARK_ON_REAL, MARK_SYNTHETIC = "_rsCMB", "_sCMB"
NAME = re.compile(r"(?P<subject>\d+)_(?P<visit>T\d+)_.+")


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii")


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Name without suffix -> volume; raises `InputError` if two volumes share a name."""
    volumes: dict[str, Path] = {}
    for path in paths:
        if (other := volumes.setdefault(_stem(path.name), path)) != path:
            raise InputError(f"{path}: {other.parent.name}/{other.name} has the same name; keep one of the two")
    return volumes


def find_valdo(inventory: Inventory) -> Found:
    """Find the patients of VALDO's Task 2 below a folder. Raises `InputError` if there is no folder `sub-…`, if two
    have the same name, or if a folder lacks its volume or its label."""
    source = inventory.source
    folders = [path for path in inventory.folders() if path.name.startswith("sub-")]
    if not folders:
        raise InputError(f"{source}: no folder sub-… in it or below; give the folder of VALDO's Task 2 (Task2)")
    name, times = Counter(folder.name for folder in folders).most_common(1)[0]
    if times > 1:
        raise InputError(f"{source}: holds {times} folders {name}; keep one")
    series = tuple(
        VolumeSeries(
            folder.name, f"{folder.name}/T2S", _file(folder, VOLUME, "volume"), _file(folder, LABEL, "label")
        )
        for folder in folders
    )
    others = tuple(path for folder in folders for other in OTHERS if (path := _path(folder, other)))
    line = f"{source}: {len(others)} {OTHER_VOLUMES}, {others[0].name} first; passed over" if others else ""
    return Found(series, asides=(Aside(others, "", "", OTHER_VOLUMES, line, refused=False),) if others else ())


def _path(folder: Path, ending: str) -> Path | None:
    paths = (folder / f"{folder.name}{ending}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _file(folder: Path, ending: str, what: str) -> Path:
    if found := _path(folder, ending):
        return found
    wanted = f"{folder.name}{ending}{SUFFIXES[0]}"
    if odd := next((path for path in folder.iterdir() if path.name == wanted), None):
        raise InputError(f"{odd}: is no file, but a folder or a link to nothing; get the {what} again")
    other = next((path.name for suffix in SUFFIXES for path in sorted(folder.glob(f"*{ending}{suffix}"))), None)
    hint = f"it holds {other}, which is another patient's name" if other else "get it, or remove the folder"
    raise InputError(f"{folder}: its {what} {wanted} is missing; {hint}")


def find_dou(source: Path, box_mm: float) -> Found:
    """Find the volumes in `source`/nii, and their points in `source`/ground_truth, which get boxes of `box_mm`. Raises
    `InputError` for a volume without points, points without a volume, or points that cannot be read."""
    volumes = _by_name(path for path in sorted(source.glob("nii/[!.]*")) if path.name.endswith(SUFFIXES))
    if not volumes:
        raise InputError(f"{source}: no volume nii/*.nii; give the folder that holds nii and ground_truth")
    labels = {path.stem: path for path in sorted(source.glob("ground_truth/[!.]*.mat"))}
    for name in sorted(volumes.keys() ^ labels.keys()):
        wanted = f"ground_truth/{name}.mat" if name in volumes else f"nii/{name}.nii"
        raise InputError(
            f"{volumes.get(name) or labels[name]}: {source / wanted} is not there; get it, or remove this"
        )
    # scipy's reader may crash on damaged files.
    with own_process(read_numbers, "damaged, it crashes the reader of MATLAB files; get the file again") as read:
        points = {name: _points(labels[name], *read(labels[name], ("cen", "gt_num")), box_mm) for name in volumes}
    return Found(tuple(VolumeSeries(name, f"{name}/SWI", path, None, points[name]) for name, path in volumes.items()))


def _points(path: Path, centres: np.ndarray, count: np.ndarray, box_mm: float) -> Points:
    centres = centres.reshape(0, 3) if centres.size == 0 else centres
    if centres.ndim != 2 or centres.shape[1] != 3:
        raise InputError(f"{path}: cen has the shape {centres.shape}; N x 3 is expected, x, y, z of each microbleed")
    if count.size != 1 or count.item() != len(centres):
        found = ", ".join(f"{value:g}" for value in count.ravel()[:5])
        raise InputError(f"{path}: gt_num is {found}, but cen has {len(centres)} rows; correct one of them")
    return Points(tuple(map(tuple, centres.tolist())), "voxel-1", (box_mm,) * len(centres), path)


@dataclass(frozen=True)
class Row:
    """Microbleeds of one volume of Momeni et al."""

    name: str
    """Name of the volume, without suffix."""
    places: tuple[tuple[float, ...], ...]
    """x, y, z of each microbleed."""
    workbook: Path
    where: str
    """Workbook, sheet and row, for error texts."""


def find_momeni(source: Path, box_mm: float) -> Found:
    """Find volumes and points of PublicDataShare_2020, which may lie below `source`; points get boxes of `box_mm`.

    Raises:
        InputError: no known folder, unknown file name, no valid workbook, volume without row, or row without volume.
    """
    below = [source, *sorted(path for path in source.rglob("*") if path.is_dir())]
    root = next((path for path in below if any((path / name).is_dir() for name in FOLDERS)), None)
    if root is None:
        raise InputError(f"{source}: none of the folders {', '.join(FOLDERS)} is in it; give PublicDataShare_2020")
    folders = [root / name for name in FOLDERS if (root / name).is_dir()]
    volumes = _by_name(path for folder in folders for path in sorted(folder.glob("[!.]*.nii*")))
    if odd := [path for name, path in volumes.items() if not NAME.fullmatch(name)]:
        raise InputError(f"{odd[0]}: its name does not begin as 122_T1_…, subject and visit; rename or remove it")
    if not volumes:
        raise InputError(f"{root}: its folders hold no *.nii.gz; unpack the data set again")
    workbooks = [path for path in sorted(root.glob("*.xlsx")) if not path.name.startswith("~$")]
    if not workbooks and [folder.name for folder in folders] != [NONE]:
        raise InputError(f"{root}: no workbook *.xlsx, which places the microbleeds; get those of the data set")
    read = [row for workbook in workbooks for row in read_workbook(workbook)]
    rows: dict[str, Row] = {}
    for row in read:
        places = *(rows[row.name].places if row.name in rows else ()), *row.places
        rows[row.name] = replace(row, places=places)
    known = [row for row in rows.values() if root / _folder(row.name) in folders]
    for row in known:
        if row.name not in volumes or volumes[row.name].parent.name != _folder(row.name):
            where = f", but lies in {volumes[row.name].parent.name}" if row.name in volumes else ""
            what = f"{row.name} is no volume of {_folder(row.name)}{where}"
            raise InputError(f"{row.where}: {what}; correct the name or get the volume")
    series = tuple(_series(name, path, rows, box_mm) for name, path in volumes.items())
    elsewhere = {"rows of workbooks whose folder is not there": len(rows) - len(known)}
    return Found(series, {REPEATED: len(read) - len(rows), **elsewhere}, read=tuple(workbooks))


def _folder(name: str) -> str:
    """Folder of a volume with microbleeds, by the name of the volume."""
    return SYNTHETIC_ON_REAL if MARK_ON_REAL in name else SYNTHETIC if MARK_SYNTHETIC in name else REAL


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
    """Read the rows of every sheet whose first column is headed `NIFTI File Name`; empty rows are skipped.

    Raises:
        InputError: not an Excel workbook, no such sheet, no row, a name without points or points without a name, or a
            point that is not three numbers; the error names sheet and row.
    """
    try:
        sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=object, na_filter=False, engine="openpyxl")
    except Exception as error:  # damaged data cause any exception
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not readable as an Excel workbook (.xlsx): {reason}; get it again") from None
    rows = []
    for title, sheet in sheets.items():
        cells = [[str(value).strip() for value in row] for row in sheet.to_numpy().tolist()]
        if cells and cells[0] and cells[0][0].casefold() == NAME_COLUMN:
            numbered = ((f"{path}: sheet {title!r}, row {number}", *row) for number, row in enumerate(cells[1:], 2))
            rows += [
                Row(_stem(name), _places(name, values, where), path, where)
                for where, name, *values in numbered
                if name or any(values)
            ]
    if not rows:
        raise InputError(f"{path}: no row below a first column 'NIFTI File Name'; get the workbook again")
    return rows


def _places(name: str, texts: Sequence[str], where: str) -> tuple[tuple[float, ...], ...]:
    numbers = [number_in(text, f"{where}, column {n}") if text else None for n, text in enumerate(texts, 2)]
    places = []
    for first in range(0, len(numbers), 3):
        place = tuple(value for value in numbers[first : first + 3] if value is not None)
        if len(place) in (1, 2):
            raise InputError(f"{where}: place {first // 3 + 1} has {len(place)} of x, y, z; complete or clear it")
        places += [place] if place else []
    if not (name and places):
        what = f"{name} has no place" if name else "holds places but no name of a volume"
        raise InputError(f"{where}: {what}; add it, or remove the row")
    return tuple(places)
