"""Find all DICOM series of a source, and the DICOM files that belong to no series.

An unreadable file excludes its whole series, because a missing slice would go unnoticed. If the series of the file is
not known, every series with files in its folder is excluded.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmread
from pydicom.uid import UID
from tqdm import tqdm

from cmbfe.data.dicom.kinds import MAGNITUDE, UNCLEAR
from cmbfe.data.dicom.pixels import input_errors
from cmbfe.data.dicom.series import SeriesHeaders, series_of
from cmbfe.data.dicom.slices import Coloured, Slice, read_slices
from cmbfe.data.inventory import DICOM, LINK, OTHER, Aside, Inventory, may_be_dicom, take_inventory
from cmbfe.errors import InputError

UNREADABLE = "cannot be read"
NO_IMAGE = "DICOM objects that are no grey images of MR"


class Broken(NamedTuple):
    """An unusable file, and the line that says why."""

    path: Path
    line: str
    patient_id: str = ""
    series_uid: str = ""
    """Like `patient_id`, "" if unknown."""


def find_series(folder: Path | str) -> list[SeriesHeaders]:
    """Every series under a folder or in one file, sorted by patient and series UID, with checked headers. Raises
    `InputError` if there is no DICOM image, or if `series_in` refuses a file."""
    inventory = take_inventory(Path(folder))
    found, asides = series_in(inventory, progress=False)
    refuse_first(asides)
    if not found:
        raise inventory.nothing("DICOM image", asides)
    return found


def refuse_first(asides: Iterable[Aside]) -> None:
    """Raise `InputError` for the first refused file, if there is any."""
    for aside in asides:
        if aside.refused:
            raise InputError(aside.line)


def series_in(inventory: Inventory, progress: bool = True) -> tuple[list[SeriesHeaders], list[Aside]]:
    """The series of all kinds, sorted by patient and UID, and the DICOM files outside all series, with the reason.

    Broken files and links (among DICOM files) are refused with their series, as are slices that `series_of` rejects.
    """
    slices: list[Slice] = []
    broken: list[Broken] = []
    coloured: list[Broken] = []
    no_images: list[Path] = []
    for path in tqdm(inventory.of(DICOM), desc="headers", unit="file", delay=1, disable=not progress):
        try:
            own = read_slices(path, named=path == inventory.source)
            slices += own
            no_images += [] if own else [path]
        except InputError as error:
            (coloured if isinstance(error, Coloured) else broken).append(Broken(path, str(error), *_whose(path)))
    grey = {each.series_uid for each in slices}
    no_images += [each.path for each in coloured if each.series_uid not in grey]
    broken += [each for each in coloured if each.series_uid in grey]
    links = [path for path in inventory.of(LINK) if slices and may_be_dicom(path)]
    broken += [
        Broken(path, f"{path}: links to nothing; get the file that it leads to, or remove it") for path in links
    ]
    broken += [Broken(path, f"{path}: named like a slice, and no DICOM: get it again") for path in _odd(inventory)]
    spoilt = _spoilt(slices, broken)
    found, asides = series_of(each for each in slices if each.series_uid not in spoilt)
    asides += _refused(slices, broken, spoilt)
    if no_images:
        line = f"{no_images[0]}: {NO_IMAGE} ({len(no_images)} files)"
        asides.append(Aside(tuple(no_images), "", "", NO_IMAGE, line, refused=False))
    return found, asides


def _whose(path: Path) -> tuple[str, str]:
    """PatientID and SeriesInstanceUID of an unusable file; both are "" without a valid UID."""
    tags = ["PatientID", "SeriesInstanceUID"]
    try:
        with input_errors(path, "damaged DICOM header"):
            header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
            patient, uid = (str(header.get(tag) or "").strip() for tag in tags)
            return (patient, uid) if UID(uid).is_valid else ("", "")
    except InputError:
        return "", ""


def _odd(inventory: Inventory) -> list[Path]:
    """Damaged slices: files of unknown kind whose names differ only in numbers from DICOM files in the same folder."""

    def like(path: Path) -> tuple[Path, str]:
        return path.parent, re.sub(r"\d+", "0", path.name)

    names = {like(path) for path in inventory.of(DICOM)}
    return [path for path in inventory.of(OTHER) if like(path) in names and re.search(r"\d", path.name)]


def _spoilt(slices: Iterable[Slice], broken: Iterable[Broken]) -> dict[str, str]:
    """UID of each series that a broken file may belong to -> the line about that file."""
    spoilt = {each.series_uid: each.line for each in broken if each.series_uid}
    of_folder = {each.path.parent: each.line for each in broken if not each.series_uid}
    for each in slices:
        if line := of_folder.get(each.path.parent):
            spoilt.setdefault(each.series_uid, f"{line}; it may be a slice of this series: repair or remove it")
    return spoilt


def _refused(slices: Iterable[Slice], broken: Iterable[Broken], spoilt: Mapping[str, str]) -> list[Aside]:
    """Asides of two types: a `spoilt` series with its broken files, and a broken file whose series is unknown."""
    files = defaultdict(list)
    for each in (*slices, *broken):
        if each.series_uid in spoilt:
            files[each.patient_id, each.series_uid].append(each.path)
    known = [(tuple(own), *whose, UNREADABLE, spoilt[whose[1]]) for whose, own in files.items()]
    unknown = [((each.path,), "", "", UNREADABLE, each.line) for each in broken if not each.series_uid]
    return [Aside(*aside, refused=True) for aside in known + unknown]


def magnitude_of_series(found: Sequence[SeriesHeaders], as_magnitude: bool = False) -> list[SeriesHeaders]:
    """The magnitude series and, with `as_magnitude`, the series of unclear kind."""
    return [series for series in found if series.kind == MAGNITUDE or (as_magnitude and series.kind == UNCLEAR)]


def magnitude_among(
    found: Sequence[SeriesHeaders], asides: Sequence[Aside], inventory: Inventory, as_magnitude: bool = False
) -> list[SeriesHeaders]:
    """Like `magnitude_of_series`; raises `InputError` if there is no such series."""
    if not found:
        raise inventory.nothing("DICOM image", asides)
    magnitude = magnitude_of_series(found, as_magnitude)
    if not magnitude:
        kinds = ", ".join(sorted({series.kind for series in found}))
        hint = "; --as-magnitude takes those that are unclear" if UNCLEAR in kinds else ""
        raise InputError(f"{inventory.source}: no magnitude series, but {len(found)} of kind {kinds}{hint}")
    return magnitude


def others_of_series(
    found: Sequence[SeriesHeaders], used: Iterable[SeriesHeaders], as_magnitude: bool = False
) -> list[Aside]:
    """An aside, passed over and not refused, for each series that is neither a magnitude nor in `used`."""
    taken = {*magnitude_of_series(found, as_magnitude), *used}
    asides = []
    for series in (series for series in found if series not in taken):
        hint = "; --as-magnitude takes it" if series.kind == UNCLEAR else ""
        what = f"images of kind {series.kind}"
        line = f"{series.files[0]}: {len(series.files)} {what}; passed over{hint}"
        asides.append(Aside(series.files, series.patient_id, series.series_uid, what, line, refused=False))
    return asides
