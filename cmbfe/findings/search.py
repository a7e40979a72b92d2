"""Which series a source holds: images, NIfTI volumes or DICOM, one kind at a time.

Of DICOM, what cannot be read costs its own series only. A series with an unreadable file is left out entirely: nobody
would notice a missing slice in its result. Where a broken file does not say which series it belongs to, every series
with files in its folder is left out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation
from pydicom import dcmread
from pydicom.uid import UID
from tqdm import tqdm

from cmbfe.data.dicom.pixels import input_errors
from cmbfe.data.dicom.series import SeriesHeaders, series_of
from cmbfe.data.dicom.slices import Slice, read_slices
from cmbfe.data.folders import files_below, folders_below, look_into, resolved
from cmbfe.data.labelled.images import is_phase_file, phase_file, read_with_phase
from cmbfe.data.phase import phase_of
from cmbfe.data.sources.volumes import open_volume
from cmbfe.errors import InputError
from cmbfe.findings.series import DicomSeries, ImageSeries, NiftiSeries, Series

IMAGES, NIFTI, DICOM = "images", "NIfTI", "DICOM"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
UNREADABLE = "cannot be read"
NO_PHASE = "the detector sees the phase as well, and there is no phase series on its slices"
BURNED_IN = "burned-in annotation is flagged in the header"


@dataclass(frozen=True)
class LeftOut:
    """A series, or files of an unknown series, that was not looked at."""

    patient: str
    """As the source names it; "" where that is not known."""
    series: str
    what: str
    """Why, without a name: for the outputs."""
    line: str
    """Why, with the file: for the terminal."""


def find(source: Path, out: Path, phase: bool = False) -> tuple[str, Sequence[Series], list[LeftOut]]:
    """The kind of a source, its series, and what of it cannot be looked at.

    A folder with images is one of images, else one with .nii or .nii.gz files one of NIfTI, else one of DICOM.

    Args:
        out: folder whose files are no source.
        phase: whether each series needs its phase.

    Raises:
        InputError: no such file or folder, a folder that may not be read, two kinds in one folder, an image that
            cannot be read or has no phase, or nothing to detect in.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    root = source.parent if source.is_file() else source
    if source.is_dir():
        look_into(source)
    files = visible_files(source, out)
    volumes = [file for file in files if file.name.lower().endswith(NIFTI_SUFFIXES)]
    if images := image_files(source, out):
        _refuse_beside(source, f"images ({images[0].name})", "NIfTI", volumes)
        return IMAGES, image_series(images, root, phase), []
    if volumes:
        _refuse_beside(source, f"NIfTI ({volumes[0].name})", "DICOM", filter(_is_dicom, files))
        if phase:
            raise InputError(f"{source}: the detector sees the phase as well, read from DICOM, not from NIfTI")
        return NIFTI, nifti_series(volumes, root), []
    return DICOM, *find_dicom(source, out, phase)


def visible_files(source: Path, out: Path) -> list[Path]:
    """Files under a folder (or the one file given), sorted by path, without hidden ones and those of `out`."""
    if not source.is_dir():
        return [source]
    below = (file for folder in folders_below(source) for file in folder.iterdir() if not file.name.startswith("."))
    targets = {file: resolved(file) for file in below}
    own = out.resolve()
    return sorted(file for file, target in targets.items() if target.is_file() and not target.is_relative_to(own))


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _refuse_beside(source: Path, what: str, other: str, files: Iterable[Path]) -> None:
    """Raise `InputError` where there are `files` of another kind than `what` is."""
    if (file := next(iter(files), None)) is not None:
        raise InputError(f"{source}: holds {what} and {other} ({file.name}); give a folder of one of the two")


def image_files(source: Path, out: Path) -> list[Path]:
    """PNG and JPG files under a folder (or the file given), sorted by path, without hidden ones, phase and `out`.

    Raises:
        InputError: two that differ in their suffix only, or DICOM files beside them.
    """
    files = visible_files(source, out)
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and not is_phase_file(file)]
    if images:
        _refuse_beside(source, f"images ({images[0].name})", "DICOM", filter(_is_dicom, files))
    for file, following in pairwise(sorted(images, key=lambda file: file.with_suffix(""))):
        if file.with_suffix("") == following.with_suffix(""):
            raise InputError(f"{following}: differs from {file.name} in its suffix only; keep one")
    return images


def image_series(files: Sequence[Path], root: Path, phase: bool = False) -> list[ImageSeries]:
    """Neighbouring files of one folder, which stands for the patient; all are decoded to check them.

    Images are numbered in the order of the files. With `phase` each needs its phase beside it.

    Raises:
        InputError: an image that cannot be read, or has no phase where that is asked for.
    """
    for file in files if phase else ():
        if not phase_file(file).is_file():
            raise InputError(f"{file}: {phase_file(file).name} is not beside it; the detector sees the phase as well")
    bar = tqdm(files, desc="checking images", unit="image", delay=1)
    shapes = [read_with_phase(file, phase_file(file) if phase else None).shape[:2] for file in bar]
    before = Counter[Path]()
    series = []
    for folder, run in groupby(zip(files, shapes, strict=True), key=lambda pair: pair[0].relative_to(root).parent):
        patient = folder.as_posix() if folder.name else root.resolve().name
        images = [
            {"file_name": file.relative_to(root).as_posix(), "width": columns, "height": rows, "slice_index": index}
            for index, (file, (rows, columns)) in enumerate(run, before[folder])
        ]
        series.append(ImageSeries(patient, len(images), images, root, phase))
        before[folder] += len(images)
    return series


def nifti_series(files: Sequence[Path], root: Path) -> list[NiftiSeries]:
    """Volumes below `root`: the first folder of a path names the patient, or the file where there is none."""
    series = []
    for file in files:
        path = file.relative_to(root)
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        patient = path.parts[0] if len(path.parts) > 1 else stem
        series.append(NiftiSeries(patient, path.as_posix(), file, _nifti_slices(file)))
    return series


def _nifti_slices(path: Path) -> int:
    """How many slices the volume has once it is turned, by its header alone; 0 where it cannot be read."""
    try:
        image = open_volume(path)
    except InputError:  # whoever reads it says why
        return 0
    axes = io_orientation(image.affine)[:, 0].tolist() if np.isfinite(image.affine).all() else []
    return image.shape[axes.index(2)] if 2 in axes else 0  # 2: to the head


def find_dicom(source: Path, out: Path, phase: bool = False) -> tuple[list[DicomSeries], list[LeftOut]]:
    """Find the magnitude series under a folder (or of one file), by patient and UID; phase and others are passed over.

    Args:
        out: folder whose files are no source.
        phase: whether the detector sees the phase as well: then a magnitude series without one is left out.

    Raises:
        InputError: nothing to detect in; the line says why.
    """
    paths = [source]
    if source.is_dir():
        paths = [path for path in sorted(files_below(source)) if not resolved(path).is_relative_to(out.resolve())]
    slices: list[Slice] = []
    broken: dict[Path, tuple[str, str]] = {}  # with the UID of its series ("": unknown) and the reason
    for path in tqdm(paths, desc="headers", unit="file", delay=1):
        try:
            slices += read_slices(path, named=path == source)
        except InputError as error:
            broken[path] = (_series_uid(path), str(error))
    headers, left_out = _readable_series(slices, _blamed(slices, broken))
    magnitude = [series for series in headers if series.kind == "magnitude"]
    magnitude.sort(key=lambda series: (series.patient_id, series.series_uid))
    series = []
    for each in magnitude:
        patient, uid = each.patient_id, each.series_uid
        try:
            its_phase = phase_of(each, headers) if phase else None
            series.append(DicomSeries(patient, uid, len(each.files), each, its_phase))
        except InputError as error:
            left_out.append(LeftOut(patient, uid, NO_PHASE, str(error)))
    left_out += [LeftOut("", "", UNREADABLE, line) for uid, line in broken.values() if not uid]
    if not series:
        _refuse(source, paths, headers, [what.line for what in left_out] + [line for _, line in broken.values()])
    return series, left_out


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
    for a_slice in slices:
        if line := spoilt.get(a_slice.path.parent):
            blamed.setdefault(a_slice.series_uid, f"{line}; it may be a slice of this series: repair or remove it")
    return blamed


def _readable_series(slices: list[Slice], blamed: dict[str, str]) -> tuple[list[SeriesHeaders], list[LeftOut]]:
    """The series of all kinds whose slices go together, and the others."""
    headers, asides = series_of(a_slice for a_slice in slices if a_slice.series_uid not in blamed)
    left_out = [LeftOut(each.patient_id, each.series_uid, UNREADABLE, each.line) for each in asides if each.refused]
    patients = {a_slice.series_uid: a_slice.patient_id for a_slice in slices}
    left_out += [LeftOut(patients.get(uid, ""), uid, UNREADABLE, line) for uid, line in blamed.items()]
    return headers, left_out


def _refuse(source: Path, paths: Sequence[Path], headers: Sequence[SeriesHeaders], reasons: Sequence[str]) -> None:
    """Raise `InputError` for a source without a magnitude series."""
    if lines := list(dict.fromkeys(reasons)):
        more = f" (and {len(lines) - 1} more files or series that cannot be read)" if len(lines) > 1 else ""
        raise InputError(lines[0] + more)
    if headers:
        kinds = ", ".join(sorted({series.kind for series in headers}))
        raise InputError(f"{source}: no magnitude series, but {len(headers)} of kind {kinds}")
    what = f"no DICOM image among {len(paths)} files" if source.is_dir() else "a DICOM object, but no image"
    raise InputError(f"{source}: {what}" if paths else f"{source}: the folder is empty")
