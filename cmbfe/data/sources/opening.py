"""Open NIfTI files and check their headers; errors say what to do."""

import gzip
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.filename_parser import types_filenames
from nibabel.spatialimages import HeaderDataError

from cmbfe.errors import InputError

OTHER_FORMATS = {
    **dict.fromkeys((".mha", ".mhd"), "MetaImage"),
    **dict.fromkeys((".nrrd", ".nhdr"), "NRRD"),
    **dict.fromkeys((".mgz", ".mgh"), "FreeSurfer's format"),
    **dict.fromkeys((".head", ".brik"), "AFNI's format"),
    **dict.fromkeys((".par", ".rec"), "Philips PAR/REC"),
    ".mnc": "MINC",
}
"""Suffix -> volume format other than NIfTI."""
PACKED = (".bz2", ".xz", ".zst", ".zip")
SINGLE = (".nii", ".nii.gz")
PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")
LARGEST_QUATERNION = 1.01
"""Largest length of a qform quaternion that is normalised instead of refused; the length should be 1."""
UNITS = {1: (1000.0, "metres"), 3: (0.001, "micrometres")}
"""Code of `xyzt_units` -> mm per unit, and its name. Code 2 is mm; files without a unit are in mm by convention."""
PART_BYTES = 2**22


class _RoundedQuaternion:
    """Mixin for nibabel headers that accepts a quaternion slightly longer than 1, as in some public data sets."""

    def get_qform_quaternion(self) -> np.ndarray:
        places = np.array([self[f"quatern_{letter}"] for letter in "bcd"], np.float64)
        length = np.linalg.norm(places)
        if length > LARGEST_QUATERNION:
            raise HeaderDataError(f"the quaternion of its qform has the length {length:.3g}, not 1; repair it")
        return np.concatenate([[0.0], places / length]) if length > 1 else super().get_qform_quaternion()


def _lenient(kind: type[nib.Nifti1Pair]) -> type[nib.Nifti1Pair]:
    header = type(kind.header_class.__name__, (_RoundedQuaternion, kind.header_class), {})
    return type(kind.__name__, (kind,), {"header_class": header})


KINDS = [_lenient(kind) for kind in (nib.Nifti1Pair, nib.Nifti1Image, nib.Nifti2Pair, nib.Nifti2Image)]


@contextmanager
def _silent() -> Iterator[None]:
    """Silence nibabel's log about headers; the errors of this module say what matters."""
    logger = nib.imageglobals.logger
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def files_of(path: Path) -> list[Path]:
    """The files of a volume: a single file, or the pair of .hdr and .img if the path is either of them."""
    if not path.name.lower().endswith(PAIR):
        return [path]
    names = types_filenames(path, nib.Nifti1Pair.files_types)
    return [Path(names["header"]), Path(names["image"])]


def open_volume(path: Path) -> nib.Nifti1Pair:
    """Open a NIfTI file, or pair of .hdr and .img, and read its header; gzip is recognised by content, not by name.
    Raises `InputError` if the file is missing, half of a pair, of another format, or damaged."""
    _refuse_other_formats(path)
    try:
        with _silent():
            image = _load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, TypeError) as error:
        raise InputError(f"{path}: not readable as NIfTI: {error}; get it again") from None
    if isinstance(image, nib.Nifti1Pair):
        return image
    if isinstance(image, nib.AnalyzeImage):
        raise InputError(f"{path}: Analyze 7.5 does not say what is left and what is right; give NIfTI")
    raise InputError(f"{path}: not a NIfTI file but {type(image).__name__}; convert it to .nii or .nii.gz")


def _refuse_other_formats(path: Path) -> None:
    """Raise `InputError` if a file is not NIfTI by its name, is missing, or lacks the other file of its pair."""
    suffix = path.suffix.lower()
    if suffix in OTHER_FORMATS:
        raise InputError(f"{path}: is {OTHER_FORMATS[suffix]}, not NIfTI; convert it to .nii or .nii.gz")
    if suffix in PACKED:
        raise InputError(f"{path}: is packed as {suffix}; unpack it, or pack it as .nii.gz")
    if not path.exists():
        raise InputError(f"{path}: no such file; get it, or correct the path")
    if missing := [file.name for file in files_of(path) if not file.exists()]:
        raise InputError(f"{path}: {missing[0]} is not beside it, the other file of the pair; get it")


def _load(path: Path) -> nib.filebasedimages.FileBasedImage:
    kind = next((kind for kind in KINDS if kind.path_maybe_image(path)[0]), None)
    if kind:
        return kind.from_filename(path)
    misnamed = _load_misnamed(path) if path.name.lower().endswith(SINGLE) else None
    return misnamed or nib.load(path)


def _load_misnamed(path: Path) -> nib.Nifti1Pair | None:
    """Open a gzipped file called .nii, or an uncompressed file called .nii.gz; None if it does not contain NIfTI."""
    with (gzip.open if is_gzipped(path) else open)(path, "rb") as file:
        start = file.read(max(kind.header_class.sizeof_hdr for kind in KINDS))
        headers = ((kind, kind.header_class) for kind in KINDS)
        found = [kind for kind, header in headers if header.is_single and header.may_contain_header(start)]
        return found[0].from_bytes(start + file.read()) if found else None


def is_gzipped(path: Path) -> bool:
    """Whether a file is gzipped, by its first bytes."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def voxels_of(path: Path, image: nib.Nifti1Pair) -> np.ndarray:
    """Voxels of an open volume as float32, slope and intercept applied. Raises `InputError` if the file is cut off."""
    try:
        _check_all_there(path, image)
        with np.errstate(over="ignore", invalid="ignore"):
            return image.get_fdata(dtype=np.float32, caching="unchanged")
    except (OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: the file is damaged or cut off: {error}; get it again") from None


def _check_all_there(path: Path, image: nib.Nifti1Pair) -> None:
    """Raise an error if a file is shorter than its header says, or fails gzip's checksum, which nibabel does not read.
    This check runs before memory is allocated."""
    voxels = Path(image.file_map["image"].filename or path)
    wanted = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize
    size = voxels.stat().st_size
    if is_gzipped(voxels):
        with gzip.open(voxels) as file:
            size = sum(len(part) for part in iter(lambda: file.read(PART_BYTES), b""))
    if size < wanted:
        raise ValueError(f"{wanted} bytes are announced, {size} are there")


def millimetres(header: nib.Nifti1Header) -> tuple[float, str]:
    """Length unit of the header in mm, and its name ("" for mm, or if no unit is given)."""
    return UNITS.get(int(header["xyzt_units"]) % 8, (1.0, ""))


def says_spacing(image: nib.Nifti1Pair) -> bool:
    """Whether the header gives the voxel size. The header is read again, because nibabel replaces 0 by 1."""
    if image.header["sform_code"] > 0:
        return True
    holder = image.file_map.get("header", image.file_map["image"])
    header = image.header_class
    with holder.get_prepare_fileobj("rb") as file:
        sizes = header(file.read(header.sizeof_hdr), check=False)["pixdim"][1:4]
    return bool((np.isfinite(sizes) & (sizes != 0)).all())
