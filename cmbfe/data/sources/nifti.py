"""Any NIfTI volumes with masks or points, found by the description in a YAML file (docs/own_data.md has examples).

images: "{patient}/{series}/swi.nii.gz"    # relative to the YAML file; {series} may be left out
mask: "{patient}/{series}/cmb.nii.gz"      # or points: with coordinates:, or neither: not labelled
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cmbfe.data.sources.series import Coordinates, Found, Points, VolumeSeries
from cmbfe.errors import InputError
from cmbfe.params import read_yaml

DESCRIPTION_FILE = "import.yaml"
PLACEHOLDER = re.compile(r"\{(\w+)\}")
Ids = tuple[str, ...]


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
    box_mm: Annotated[float, Field(gt=0, le=100)] | None = None
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
            "paths are relative to this file, and lie below its folder": any(map(_leads_away, patterns)),
        }
        if wrong := [problem for problem, is_there in problems.items() if is_there]:
            raise ValueError(wrong[0])
        return self


def _leads_away(pattern: str) -> bool:
    return Path(pattern).is_absolute() or ".." in Path(pattern).parts


def find_nifti(source: Path, box_mm: float) -> Found:
    """Find the volumes that a description names.

    Args:
        source: the YAML file, or a folder with an import.yaml.
        box_mm: side of the boxes around points, unless the description says one.

    Raises:
        InputError: no description or an unsound one, no volume, two of one patient and series, a missing label, points
            that cannot be read, or a patient of `splits` that has no volume.
    """
    file = source / DESCRIPTION_FILE if source.is_dir() else source
    description = read_description(file)
    volumes = _volumes(description, file)
    split_of = _split_of(description, {patient for patient, _ in volumes}, file)
    series = [
        one
        for (patient, name), path in volumes.items()
        if (one := _series(patient, name, path, description, file, box_mm, split_of.get(patient)))
    ]
    if not series:
        raise InputError(f"{file}: every volume was left out, as none has a label; correct mask or points")
    _refuse_unknown(series, {patient for patient, _ in volumes})
    left_out = len(volumes) - len(series)
    return Found(tuple(series), {"volumes without a label": left_out} if left_out else {})


def read_description(path: Path) -> Description:
    """Read and check the YAML file.

    Raises:
        InputError: as `cmbfe.params.read_yaml`, or values that do not fit together.
    """
    return read_yaml(path, Description, "keys such as images and mask")


def _volumes(description: Description, file: Path) -> dict[tuple[str, str], Path]:
    """(patient, series) -> volume. Hidden files, and files that are the label of another volume, are none."""
    pattern, seen = "", set()
    for part in re.split(r"(\{\w+\}|\*)", description.images):
        name = part[1:-1]
        if part == "*":
            pattern += "[^/]*"
        elif PLACEHOLDER.fullmatch(part):
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            pattern += re.escape(part)
    volumes: dict[tuple[str, str], Path] = {}
    for path in sorted(file.parent.glob(PLACEHOLDER.sub("*", description.images))):
        relative = path.relative_to(file.parent)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if is_hidden or not (match := re.fullmatch(pattern, relative.as_posix())):
            continue
        key = match["patient"], match.groupdict().get("series", "volume")
        if key in volumes:
            raise InputError(f"{path}: a second volume of the same patient and series; tell them apart by {{series}}")
        volumes[key] = path
    labels = {_label(description, file, *key) for key in volumes}
    volumes = {key: path for key, path in volumes.items() if path not in labels}
    if not volumes:
        raise InputError(f"{file}: images: no file matches {description.images!r} below {file.parent}")
    return volumes


def _label(description: Description, file: Path, patient: str, series: str) -> Path | None:
    """The file of a volume's label, there or not; None where nothing is labelled."""
    pattern = description.mask or description.points
    return pattern and file.parent / pattern.replace("{patient}", patient).replace("{series}", series)


def _split_of(description: Description, patients: set[str], file: Path) -> dict[str, str]:
    split_of: dict[str, str] = {}
    for split, members in description.splits.items():
        for patient in members:
            if patient not in patients:
                raise InputError(f"{file}: splits.{split}: no volume is of patient {patient!r}")
            if split_of.setdefault(patient, split) != split:
                raise InputError(
                    f"{file}: splits: patient {patient!r} is in {split_of[patient]} and {split}; keep one"
                )
    return split_of


def _series(
    patient: str, name: str, path: Path, description: Description, file: Path, box_mm: float, split: str | None
) -> VolumeSeries | None:
    label = _label(description, file, patient, name)
    series = f"{patient}/{name}"
    if label is None:
        return VolumeSeries(patient, series, path, split=split)
    if not label.is_file():
        if description.without_label == "leave out":
            return None
        if description.without_label == "error":
            hint = "get it, or say what such a volume is: without_label: no microbleeds, or leave out"
            raise InputError(f"{label}: no such file, the label of {path.name}; {hint}")
        return VolumeSeries(patient, series, path, points=Points((), "voxel-0", (), path), split=split)
    if description.mask:
        return VolumeSeries(patient, series, path, mask=label, split=split)
    points = _points(label, patient, name, description, box_mm)
    return VolumeSeries(patient, series, path, points=points, split=split)


def _points(path: Path, patient: str, series: str, description: Description, box_mm: float) -> Points:
    table = _read_table(path)
    columns = [*"xyz", *(["diameter_mm"] if "diameter_mm" in table else [])]
    if missing := [column for column in columns if column not in table]:
        raise InputError(f"{path}: the column {missing[0]} is missing; x, y and z are needed, with a header")
    own = _own_rows(table, {"patient": patient, "series": series})
    numbers = own[columns].apply(pd.to_numeric, errors="coerce")
    if (wrong := numbers.index[numbers.isna().any(axis=1)]).size:
        raise InputError(f"{path}: row {wrong[0] + 2}: holds a value that is no number; correct or remove the row")
    side = description.box_mm or box_mm
    diameters = numbers["diameter_mm"] if "diameter_mm" in table else pd.Series(side, numbers.index)
    if (small := numbers.index[~diameters.gt(0)]).size:
        raise InputError(f"{path}: row {small[0] + 2}: diameter_mm is not above 0; correct it")
    places = tuple(tuple(row) for row in numbers[[*"xyz"]].to_numpy(float).tolist())
    return Points(places, description.coordinates, tuple(diameters.astype(float).tolist()), path)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"patient": str, "series": str}, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as CSV: {error}") from None


def _refuse_unknown(series: Sequence[VolumeSeries], patients: set[str]) -> None:
    """Raise `InputError` where a point list names a patient without a volume: a misspelt name loses lesions."""
    for path in sorted({one.points.file for one in series if one.points and one.points.file != one.image}):
        named = _read_table(path).get("patient", pd.Series(dtype=str)).dropna().str.strip()
        if unknown := sorted(set(named) - patients):
            raise InputError(
                f"{path}: no volume is of its patient {unknown[0]!r}; correct the name or remove the rows"
            )


def _own_rows(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    keys: Sequence[str] = [key for key in names if key in table]
    for key in keys:
        table = table[table[key].str.strip() == names[key]]
    return table
