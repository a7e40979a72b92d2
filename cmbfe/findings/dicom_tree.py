"""The magnitude series of a folder tree of DICOM: what cannot be read costs its own series only.

A series of which one file cannot be read is left out whole: nobody would notice a missing slice in its result. Where a
broken file does not say which series it belongs to, every series with files in its folder is left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID
from tqdm import tqdm

from cmbfe.data.dicom.pixels import input_errors
from cmbfe.data.dicom.series import SeriesHeaders, files_below, series_of_one_uid, stacks_of
from cmbfe.data.dicom.slices import Slice, read_slices
from cmbfe.data.folders import resolved
from cmbfe.data.phase import phase_of
from cmbfe.errors import InputError
from cmbfe.findings.series import DicomSeries

UNREADABLE = "cannot be read"
NO_PHASE = "the detector sees the phase as well, and there is no phase series on its slices"
BURNED_IN = "burned-in annotation is flagged in the header"


@dataclass(frozen=True)
class LeftOut:
    """A series, or files of an unknown one, that was not looked at."""

    patient: str
    """As the source names it; "" where nobody knows."""
    series: str
    what: str
    """Why, without a name: for the outputs."""
    line: str
    """Why, with the file: for the terminal."""


def find_dicom(source: Path, out: Path, phase: bool = False) -> tuple[list[DicomSeries], list[LeftOut]]:
    """Find the magnitude series under a folder (or of one file), by patient and UID; phase and others are passed over.

    Args:
        out: folder whose files are no source.
        phase: whether the detector sees the phase as well: then a magnitude series without one is left out.

    Raises:
        InputError: nothing to detect in; the line says why.
    """
    paths = [path for path in sorted(files_below(source)) if not resolved(path).is_relative_to(out.resolve())]
    paths = paths if source.is_dir() else [source]
    slices, broken = _read_headers(paths, source)
    found, left_out = _series(slices, _blamed(slices, broken))
    wanted = sorted(
        (one for one in found if one.kind == "magnitude"), key=lambda one: (one.patient_id, one.series_uid)
    )
    magnitude = [DicomSeries(one) for one in wanted]
    if phase:
        magnitude, without = _with_phases(wanted, found)
        left_out += without
    left_out += [LeftOut("", "", UNREADABLE, line) for path, (uid, line) in broken.items() if not uid]
    if not magnitude:
        _refuse(source, paths, found, [*left_out, *(LeftOut("", "", "", line) for _, line in broken.values())])
    return magnitude, left_out


def _with_phases(
    magnitude: Sequence[SeriesHeaders], found: Sequence[SeriesHeaders]
) -> tuple[list[DicomSeries], list[LeftOut]]:
    """Magnitude series with the series of their phases, and those that have none."""
    pairs, left_out = [], []
    for one in magnitude:
        try:
            pairs.append(DicomSeries(one, phase_of(one, found)))
        except InputError as error:
            left_out.append(LeftOut(one.patient_id, one.series_uid, NO_PHASE, str(error)))
    return pairs, left_out


def _read_headers(paths: Sequence[Path], source: Path) -> tuple[list[Slice], dict[Path, tuple[str, str]]]:
    """All slices, and the files that cannot be read with their series' UID ("": unknown) and the reason."""
    slices: list[Slice] = []
    broken: dict[Path, tuple[str, str]] = {}
    for path in tqdm(paths, desc="headers", unit="file", delay=1):
        try:
            slices += read_slices(path, named=path == source)
        except InputError as error:
            broken[path] = (_series_uid(path), str(error))
    return slices, broken


def _series_uid(path: Path) -> str:
    """The SeriesInstanceUID of a file that is otherwise of no use, or ""."""
    try:
        with input_errors(path, "damaged DICOM header"):
            header = dcmread(path, force=True, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)
            uid = str(header.get("SeriesInstanceUID") or "").strip()
            return uid if UID(uid).is_valid else ""
    except InputError:
        return ""


def _blamed(slices: Iterable[Slice], broken: dict[Path, tuple[str, str]]) -> dict[str, str]:
    """Series UID -> why it is left out."""
    blamed = {uid: line for uid, line in broken.values() if uid}
    spoilt = {path.parent: line for path, (uid, line) in broken.items() if not uid}
    for one in slices:
        if one.path.parent in spoilt:
            reason = f"{spoilt[one.path.parent]}; it may be a slice of this series: repair or remove it"
            blamed.setdefault(one.series_uid, reason)
    return blamed


def _series(slices: list[Slice], blamed: dict[str, str]) -> tuple[list[SeriesHeaders], list[LeftOut]]:
    by_uid = defaultdict(list)
    for stack in stacks_of(slices):
        by_uid[stack[0].series_uid].append(stack)
    found, left_out = [], []
    for uid, stacks in by_uid.items():
        try:
            if uid in blamed:
                raise InputError(blamed[uid])
            found += list(series_of_one_uid(stacks))
        except InputError as error:
            left_out.append(LeftOut(stacks[0][0].patient_id, uid, UNREADABLE, str(error)))
    left_out += [LeftOut("", uid, UNREADABLE, line) for uid, line in blamed.items() if uid not in by_uid]
    return found, left_out


def _refuse(source: Path, paths: Sequence[Path], found: Sequence[SeriesHeaders], left_out: Sequence[LeftOut]) -> None:
    """Raise `InputError` for a source without a magnitude series."""
    if left_out:
        lines = list(dict.fromkeys(one.line for one in left_out))
        more = f" (and {len(lines) - 1} more files or series that cannot be read)" if len(lines) > 1 else ""
        raise InputError(lines[0] + more)
    if found:
        kinds = ", ".join(sorted({one.kind for one in found}))
        raise InputError(f"{source}: no magnitude series; found {len(found)} series of kind {kinds}")
    what = f"no DICOM image among {len(paths)} files" if source.is_dir() else "a DICOM object, but no image"
    raise InputError(f"{source}: {what}" if paths else f"{source}: the folder is empty")
