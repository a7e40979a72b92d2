"""Import NIfTI volumes with masks or points, found by a description in a YAML file (examples in docs/own_data.md).

images: "{patient}/{series}/swi.nii.gz"    # relative to the YAML file; {series} may be left out
mask: "{patient}/{series}/cmb.nii.gz"      # or points: and coordinates:. Unlabelled volumes need none of these keys
"""

import csv
import glob
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cmbfe.data.inventory import Aside
from cmbfe.data.labelled.labels import split_of_patients
from cmbfe.data.sources.lesions import IMPOSSIBLE_MM
from cmbfe.data.sources.opening import files_of
from cmbfe.data.sources.series import Coordinates, Found, Points, VolumeSeries, number_in
from cmbfe.data.sources.sidecars import stem
from cmbfe.errors import InputError
from cmbfe.files import within_python
from cmbfe.params import read_yaml

NO_LABEL = "volumes without a label"
DESCRIPTION_FILE = "import.yaml"
PLACEHOLDER = re.compile(r"\{(\w+)\}")
NAMES = ("patient", "series")
"""Columns of a point list that name the volume of a point."""
COLUMNS = (*NAMES, "diameter_mm")
MISNAMED = re.compile(r"patient|subject|participant|series|session|diameter")
"""Words in misspelt column names. If such a column were ignored, points would match any patient or lose their size."""
Ids = tuple[str, ...]
LEAST_MM = 0.01
"""Smallest side of a box; a smaller box would have no extent."""


@dataclass(frozen=True)
class Table:
    """The points of a CSV file."""

    columns: tuple[int, ...]
    """Indices in `NAMES` of the columns that the table has."""
    rows: Mapping[Ids, list[tuple[int, dict[str, str]]]]
    """Key of a volume -> line and values of each of its points."""

    def key(self, volume: Ids) -> Ids:
        """Key of a volume (patient, series) in the rows of the table."""
        return tuple(volume[number] for number in self.columns)


class Description(BaseModel):
    """Content of the YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: str
    """Pattern of the volumes' paths: {patient}, {series} and * stand for any text without a slash."""
    mask: str | None = None
    """Pattern of the mask's path; voxels above 0 are microbleeds."""
    points: str | None = None
    """Pattern of a CSV file with the columns x, y, z and, if needed, `diameter_mm`, `patient`, `series`."""
    coordinates: Coordinates | None = None
    box_mm: Annotated[float, Field(gt=LEAST_MM, le=IMPOSSIBLE_MM)] | None = None
    """Side of the boxes around points without `diameter_mm`; default: the command's --box-mm."""
    without_label: Literal["error", "no microbleeds", "leave out"] = "error"
    """How to treat a volume whose label file is missing."""
    splits: dict[Literal["train", "validation", "test"], Ids] = {}
    """Patients of each split; by default, splits are drawn."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Description":
        patterns = [self.images, *(pattern for pattern in (self.mask, self.points) if pattern)]
        unknown = {name for pattern in patterns for name in PLACEHOLDER.findall(pattern)} - {"patient", "series"}
        problems = {
            "images needs the placeholder {patient}": "{patient}" not in self.images,
            f"unknown placeholder {{{min(unknown, default='')}}}": bool(unknown),
            "give mask or points, not both": self.mask is not None and self.points is not None,
            "points need coordinates, and only they do": (self.points is None) != (self.coordinates is None),
            "* is for images only": any("*" in pattern for pattern in patterns[1:]),
            "paths are relative to this file, and lie below its folder": any(
                Path(pattern).is_absolute() or ".." in Path(pattern).parts for pattern in patterns
            ),
        }
        if wrong := [problem for problem, is_there in problems.items() if is_there]:
            raise ValueError(wrong[0])
        return self


def find_nifti(source: Path, box_mm: float) -> Found:
    """Find the volumes of a description (a YAML file, or import.yaml of a folder). Boxes around points have sides of
    `box_mm`, unless the description gives another size.

    Raises:
        InputError: an invalid description, no volume, two volumes of one patient and series, a missing label, a label
            shared by several volumes, invalid points, or a patient of `splits` without a volume.
    """
    file = source / DESCRIPTION_FILE if source.is_dir() else source
    description = read_description(file)
    volumes = _volumes(description, file)
    split_of = _split_of(description, {patient for patient, _ in volumes}, file)
    labels = {key: _label(description, file, *key) for key in volumes}
    _refuse_misnamed(labels, file.parent, {*volumes.values()})
    lists = sorted(path for path in set(labels.values()) if path.is_file()) if description.points else []
    tables = {path: _read_table(path) for path in lists}  # read once: all volumes may share a table
    each = {
        key: _series(key, path, labels[key], description, tables.get(labels[key]), box_mm, split_of.get(key[0]))
        for key, path in volumes.items()
    }
    series = tuple(kept for kept in each.values() if kept)
    if not series:
        raise InputError(f"{file}: every volume was left out, as none has a label; correct mask or points")
    _refuse_shared(tables, labels)
    _refuse_unknown(tables, labels, "{series}" in description.images)
    left_out = tuple(path for key, path in volumes.items() if not each[key])
    line = f"{file}: {len(left_out)} {NO_LABEL}, {left_out[0].name} first; left out" if left_out else ""
    asides = (Aside(left_out, "", "", NO_LABEL, line, refused=False),) if left_out else ()
    return Found(series, read=(file,), asides=asides)


def read_description(path: Path) -> Description:
    """Read the YAML file; raises `InputError` like `read_yaml`, or for values that contradict each other."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; describe the data in it, as docs/own_data.md shows")
    with within_python(path):
        return read_yaml(path, Description, "keys such as images and mask")


def _volumes(description: Description, file: Path) -> dict[tuple[str, str], Path]:
    """(patient, series) -> volume. Hidden files and label files of other volumes are not volumes."""
    pattern, wild, seen = "", "", set()
    for part in re.split(r"(\{\w+\}|\*)", PurePosixPath(description.images).as_posix()):
        name = part[1:-1]
        if part == "*":
            pattern += "[^/]*"
        elif PLACEHOLDER.fullmatch(part):
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            pattern += re.escape(part)
        is_wild = part == "*" or PLACEHOLDER.fullmatch(part)
        wild += "*" * (not wild.endswith("*")) if is_wild else glob.escape(part)
    volumes: dict[tuple[str, str], Path] = {}
    ambiguous = []
    for path in sorted(file.parent.glob(wild)):
        relative = path.relative_to(file.parent)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if is_hidden or not (match := re.fullmatch(pattern, relative.as_posix())):
            continue
        longest = re.fullmatch(pattern.replace("+?)", "+)"), relative.as_posix())
        if longest.groupdict() != match.groupdict():
            ambiguous.append(path)
        key = match["patient"], match.groupdict().get("series", "volume")
        if key in volumes:
            raise InputError(f"{path}: a second volume of the same patient and series; tell them apart by {{series}}")
        volumes[key] = path
    labels = {part for key in volumes if (label := _label(description, file, *key)) for part in files_of(label)}
    volumes = {key: path for key, path in volumes.items() if path not in labels}
    if several := [path for path in volumes.values() if path in ambiguous]:
        what = f"{several[0]}: images: {description.images!r} fits its name in several ways"
        raise InputError(f"{what}; put the patient in a folder, or write out more of the name")
    if not volumes:
        raise InputError(f"{file}: images: no file matches {description.images!r} below {file.parent}")
    return volumes


def _label(description: Description, file: Path, patient: str, series: str) -> Path | None:
    """Path of a volume's label, whether or not it exists; None if the description has no labels."""
    pattern = description.mask or description.points
    return pattern and file.parent / pattern.replace("{patient}", patient).replace("{series}", series)


def _refuse_misnamed(labels: Mapping[Ids, Path | None], folder: Path, volumes: set[Path]) -> None:
    """Raise `InputError` if a file name differs from that of a missing label only in case, Unicode form of accents, or
    .gz. Without this check, the volume might count as free of microbleeds."""
    missing = {_plain(path): path for path in labels.values() if path and not path.is_file()}
    for path in sorted(folder.rglob("*")) if missing else ():
        label = missing.get(_plain(path))
        if label and path.is_file() and path not in volumes and path not in labels.values():
            raise InputError(f"{path}: is called nearly as {label.name}, the label of a volume; rename it to that")


def _plain(path: Path) -> Path:
    path = Path(unicodedata.normalize("NFC", str(path)).casefold())
    return path.parent / stem(path)


def _split_of(description: Description, patients: set[str], file: Path) -> dict[str, str]:
    pairs = [(patient, split) for split, members in description.splits.items() for patient in members]
    for patient, split in pairs:
        if patient not in patients:
            raise InputError(f"{file}: splits.{split}: no volume is of patient {patient!r}")
    return split_of_patients(pairs, f"{file}: splits")


def _series(
    key: Ids,
    path: Path,
    label: Path | None,
    description: Description,
    table: Table | None,
    box_mm: float,
    split: str | None,
) -> VolumeSeries | None:
    mask, points = None, None
    if label is not None and not label.is_file():
        if description.without_label == "leave out":
            return None
        if description.without_label == "error":
            raise InputError(f"{label}: no such file, the label of {path.name}; get it, or set without_label")
        points = Points((), "voxel-0", (), path)
    elif description.mask:
        mask = label
    elif label is not None:
        points = _points(label, table, key, description, box_mm)
    return VolumeSeries(key[0], "/".join(key), path, mask, points, split)


def _points(path: Path, table: Table, key: Ids, description: Description, box_mm: float) -> Points:
    side, own = description.box_mm or box_mm, table.rows.get(table.key(key), [])
    places = tuple(tuple(number_in(row[axis], f"{path}: row {line}") for axis in "xyz") for line, row in own)
    said = ((row.get("diameter_mm"), f"{path}: row {line}: diameter_mm") for line, row in own)
    diameters = tuple(checked_side(number_in(text, what), what) if text else side for text, what in said)
    return Points(places, description.coordinates, diameters, path)


def checked_side(side_mm: float, what: str) -> float:
    """Check the side of a box around a point and return it; the `InputError` of an invalid side begins with `what`."""
    if not LEAST_MM < side_mm <= IMPOSSIBLE_MM:
        raise InputError(f"{what} {side_mm}: is not above {LEAST_MM:g} and up to {IMPOSSIBLE_MM:g} mm; correct it")
    return side_mm


def _read_table(path: Path) -> Table:
    """Read all rows of a CSV file that are not empty. Values stay text, because a patient may be called 007 or NA."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = max(",;\t", key=file.readline().count)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, [value.strip() for value in row]) for row in reader]
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as CSV: {error}; save it anew, comma-separated, in UTF-8") from None
    rows = [(line, values) for line, values in rows if any(values)]
    header = [name.casefold() for name in rows[0][1]] if rows else []
    while header and not header[-1]:
        header.pop()
    if missing := [column for column in "xyz" if column not in header]:
        raise InputError(f"{path}: the column {missing[0]} is missing; x, y and z are needed, with a header")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: its header names a column twice; rename one")
    for name in header:
        if MISNAMED.search(name) and name not in COLUMNS:
            raise InputError(f"{path}: its column {name!r} is none of {', '.join(COLUMNS)}; rename or remove it")
    columns = tuple(number for number, name in enumerate(NAMES) if name in header)
    of_volume = defaultdict(list)
    for line, values in rows[1:]:
        if any(values[len(header) :]):
            raise InputError(f"{path}: row {line}: has more values than the header has columns; correct it")
        row = dict(zip(header, values + [""] * len(header), strict=False))
        of_volume[tuple(row[NAMES[number]] for number in columns)].append((line, row))
    return Table(columns, of_volume)


def _refuse_shared(tables: Mapping[Path, Table], labels: Mapping[Ids, Path | None]) -> None:
    """Raise `InputError` if two patients share a mask, or if points may belong to two volumes."""
    owners: dict[tuple[Path, Ids], Ids] = {}
    for volume, path in labels.items():
        table = tables.get(path)
        if not (table.rows if table else path and path.is_file()):
            continue
        key, whose = (table.key(volume), volume) if table else ((), volume[:1])
        if (other := owners.setdefault((path, key), whose)) != whose:
            both = f"{'/'.join(other)} and of {'/'.join(whose)}"
            raise InputError(f"{path}: would be the label of {both}; give each its own, or add patient and series")


def _refuse_unknown(tables: Mapping[Path, Table], labels: Mapping[Ids, Path], has_series: bool) -> None:
    """Raise `InputError` for points that belong to no volume: a misspelt name would lose lesions."""
    known = {(path, tables[path].key(volume)) for volume, path in labels.items() if path in tables}
    for path, table in tables.items():
        if table.rows and NAMES.index("series") in table.columns and not has_series:
            raise InputError(f"{path}: has a column series, but images has no {{series}}; add it, or remove this")
        for key, rows in table.rows.items():
            if (path, key) not in known:
                names = zip((NAMES[number] for number in table.columns), key, strict=True)
                whose = " and ".join(f"{name} {value!r}" for name, value in names)
                raise InputError(f"{path}: no volume is of its {whose} (row {rows[0][0]}); correct or remove the row")
