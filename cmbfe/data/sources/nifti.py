"""Any NIfTI volumes with masks or points, found by the description in a YAML file (docs/own_data.md has examples).

images: "{patient}/{series}/swi.nii.gz"    # relative to the YAML file; {series} may be left out
mask: "{patient}/{series}/cmb.nii.gz"      # or points: with coordinates:, or neither: not labelled
"""

import csv
import glob
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cmbfe.data.inventory import Aside
from cmbfe.data.labelled.labels import split_of_patients
from cmbfe.data.sources.opening import files_of
from cmbfe.data.sources.series import Coordinates, Found, Points, VolumeSeries, number_in
from cmbfe.errors import InputError
from cmbfe.files import within_python
from cmbfe.params import read_yaml

NO_LABEL = "volumes without a label"
DESCRIPTION_FILE = "import.yaml"
PLACEHOLDER = re.compile(r"\{(\w+)\}")
NAMES = ("patient", "series")
"""Columns of a point list that say on which volume a point lies."""
Ids = tuple[str, ...]
LARGEST_MM = 100.0
"""Of the boxes around points."""
SMALLEST_MM = 0.01
"""Below it a box would have no extent."""
Table = dict[int, dict[str, str]]
"""Line of a CSV file -> its values by column."""


class Description(BaseModel):
    """What the YAML file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: str
    """Pattern of the volumes' paths: {patient}, {series} and * stand for any text without a slash."""
    mask: str | None = None
    """Pattern of the label's path; above 0 is microbleed."""
    points: str | None = None
    """Pattern of a CSV file: x, y, z, and `diameter_mm`, `patient`, `series` where they are needed."""
    coordinates: Coordinates | None = None
    """Of the points."""
    box_mm: Annotated[float, Field(gt=SMALLEST_MM, le=LARGEST_MM)] | None = None
    """Side of the boxes around points without `diameter_mm`; default: the command's --box-mm."""
    without_label: Literal["error", "no microbleeds", "leave out"] = "error"
    """What a volume is whose label file is missing."""
    splits: dict[Literal["train", "validation", "test"], Ids] = {}
    """Patients of each split; default: drawn."""

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
    """Find the volumes that a description (the YAML file, or import.yaml of a folder) names.

    Args:
        box_mm: side of the boxes around points, unless the description says one.

    Raises:
        InputError: an unsound description, no volume, two of one patient and series, a missing label, unsound points,
            or a patient of `splits` without a volume.
    """
    file = source / DESCRIPTION_FILE if source.is_dir() else source
    description = read_description(file)
    volumes = _volumes(description, file)
    split_of = _split_of(description, {patient for patient, _ in volumes}, file)
    each = (
        _series(patient, name, path, description, file, box_mm, split_of.get(patient))
        for (patient, name), path in volumes.items()
    )
    series = [kept for kept in each if kept]
    if not series:
        raise InputError(f"{file}: every volume was left out, as none has a label; correct mask or points")
    if description.points:
        _refuse_unknown(description, file, list(volumes))
    left_out = tuple(path for path in volumes.values() if path not in {kept.image for kept in series})
    line = f"{file}: {len(left_out)} {NO_LABEL}, {left_out[0].name} first; left out" if left_out else ""
    asides = (Aside(left_out, "", "", NO_LABEL, line, refused=False),) if left_out else ()
    return Found(tuple(series), read=(file,), asides=asides)


def read_description(path: Path) -> Description:
    """Read the YAML file; raises `InputError` as `read_yaml`, or for values that do not fit together."""
    with within_python(path):
        return read_yaml(path, Description, "keys such as images and mask")


def _volumes(description: Description, file: Path) -> dict[tuple[str, str], Path]:
    """(patient, series) -> volume. Hidden files, and files that are the label of another volume, are none."""
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
    for path in sorted(file.parent.glob(wild)):
        relative = path.relative_to(file.parent)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if is_hidden or not (match := re.fullmatch(pattern, relative.as_posix())):
            continue
        key = match["patient"], match.groupdict().get("series", "volume")
        if key in volumes:
            raise InputError(f"{path}: a second volume of the same patient and series; tell them apart by {{series}}")
        volumes[key] = path
    labels = {part for key in volumes if (label := _label(description, file, *key)) for part in files_of(label)}
    volumes = {key: path for key, path in volumes.items() if path not in labels}
    if not volumes:
        raise InputError(f"{file}: images: no file matches {description.images!r} below {file.parent}")
    return volumes


def _label(description: Description, file: Path, patient: str, series: str) -> Path | None:
    """The file of a volume's label, there or not; None where nothing is labelled."""
    pattern = description.mask or description.points
    return pattern and file.parent / pattern.replace("{patient}", patient).replace("{series}", series)


def _split_of(description: Description, patients: set[str], file: Path) -> dict[str, str]:
    pairs = [(patient, split) for split, members in description.splits.items() for patient in members]
    for patient, split in pairs:
        if patient not in patients:
            raise InputError(f"{file}: splits.{split}: no volume is of patient {patient!r}")
    return split_of_patients(pairs, f"{file}: splits")


def _series(
    patient: str, name: str, path: Path, description: Description, file: Path, box_mm: float, split: str | None
) -> VolumeSeries | None:
    label, mask, points = _label(description, file, patient, name), None, None
    if label is not None and not label.is_file():
        if description.without_label == "leave out":
            return None
        if description.without_label == "error":
            hint = "get it, or say what such a volume is: without_label: no microbleeds, or leave out"
            raise InputError(f"{label}: no such file, the label of {path.name}; {hint}")
        points = Points((), "voxel-0", (), path)
    elif description.mask:
        mask = label
    elif label is not None:
        points = _points(label, patient, name, description, box_mm)
    return VolumeSeries(patient, f"{patient}/{name}", path, mask, points, split)


def _points(path: Path, patient: str, series: str, description: Description, box_mm: float) -> Points:
    side = description.box_mm or box_mm
    own = [
        (line, row)
        for line, row in _read_table(path).items()
        if row.get("patient", patient) == patient and row.get("series", series) == series
    ]
    places = tuple(tuple(number_in(row[axis], f"{path}: row {line}") for axis in "xyz") for line, row in own)
    diameters = tuple(
        _diameter(row["diameter_mm"], path, line) if "diameter_mm" in row else side for line, row in own
    )
    return Points(places, description.coordinates, diameters, path)


def _diameter(text: str, path: Path, line: int) -> float:
    diameter = number_in(text, f"{path}: row {line}")
    if not SMALLEST_MM < diameter <= LARGEST_MM:
        range_mm = f"above {SMALLEST_MM:g} and up to {LARGEST_MM:g}"
        raise InputError(f"{path}: row {line}: diameter_mm is not {range_mm}, but {text}; correct it")
    return diameter


def _read_table(path: Path) -> Table:
    """Every row that is not empty. Values stay text: a patient may be called 007 or NA."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, [value.strip() for value in row]) for row in reader]
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as CSV: {error}; save it anew, comma-separated, in UTF-8") from None
    rows = [(line, values) for line, values in rows if any(values)]
    header = rows[0][1] if rows else []
    while header and not header[-1]:
        header.pop()
    if missing := [column for column in "xyz" if column not in header]:
        raise InputError(f"{path}: the column {missing[0]} is missing; x, y and z are needed, with a header")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: its header names a column twice; rename one")
    table: Table = {}
    for line, values in rows[1:]:
        if any(values[len(header) :]):
            raise InputError(f"{path}: row {line}: has more values than the header has columns; correct it")
        table[line] = dict(zip(header, values + [""] * len(header), strict=False))
    return table


def _refuse_unknown(description: Description, file: Path, volumes: list[tuple[str, str]]) -> None:
    """Raise `InputError` for a point that is on no volume: a misspelt name loses lesions."""
    of_file = defaultdict(set)
    for key in volumes:
        of_file[_label(description, file, *key)].add(key)
    for path in sorted(path for path in of_file if path.is_file()):
        table = _read_table(path)
        columns = [number for number, key in enumerate(NAMES) if key in next(iter(table.values()), {})]
        if NAMES.index("series") in columns and "{series}" not in description.images:
            raise InputError(f"{path}: has a column series, but images has no {{series}}; add it, or remove this")
        known = {tuple(key[number] for number in columns) for key in of_file[path]}
        for line, row in table.items():
            if tuple(row[NAMES[number]] for number in columns) not in known:
                whose = " and ".join(f"{NAMES[number]} {row[NAMES[number]]!r}" for number in columns)
                raise InputError(f"{path}: no volume is of its {whose} (row {line}); correct or remove the row")
