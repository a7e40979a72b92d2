"""Inventory of the files under a path, each examined once. Every file is read, passed over or refused. An `Aside` gives
the reason why files are passed over or refused.

A file is DICOM if it has the letters DICM at byte 128 or a DICOM suffix, or if it has no suffix and begins with an
element of group 0002 or 0008. Other kinds are recognised by suffix.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cmbfe.data.labelled.images import PHASE_SUFFIX
from cmbfe.errors import InputError
from cmbfe.files import is_partial, resolved

DICOM, NIFTI, IMAGE, PHASE, TEXT, ARCHIVE = "DICOM", "NIfTI", "images", "phase", "text", "archive"
VOLUME, LINK, HIDDEN, REPEATED, EMPTY = "volume", "link", "hidden", "repeated", "empty"
DIRECTORY, COPY, RESULTS, OTHER = "DICOMDIR", "copy", "results", "other"
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
BARE_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""First bytes of a dataset without preamble: group 0002 or 0008, little or big endian."""
SUFFIXES = {
    PHASE: (PHASE_SUFFIX,),
    NIFTI: (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz"),
    IMAGE: (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".ppm", ".pgm"),
    VOLUME: (".mha", ".mhd", ".nrrd", ".nhdr", ".mgh", ".mgz", ".mnc", ".par", ".rec", ".head", ".brik"),
    ARCHIVE: (".zip", ".gz", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"),
    TEXT: (
        *(".json", ".xml", ".csv", ".tsv", ".txt", ".md", ".yaml", ".yml"),
        *(".xlsx", ".mat", ".bval", ".bvec", ".pdf"),
    ),
}
"""Kind -> suffixes, in the order in which they are tried."""
REASONS = {
    DICOM: ("DICOM files that are not read here", "cmbfe import dicom and cmbfe detect read them"),
    NIFTI: ("NIfTI volumes that nothing names", "cmbfe import nifti reads those that its description names"),
    IMAGE: ("images that no label names", "label them, or say that they have no microbleeds by an empty label"),
    PHASE: ("phases of images, which are not looked at", "a model trained with images.phase reads them"),
    TEXT: ("texts and tables", ""),
    ARCHIVE: ("archives", "unpack them"),
    VOLUME: ("volumes of a format that is not read", "convert them to .nii.gz"),
    LINK: ("links to nothing", "get the files that they lead to (datalad get), or remove the links"),
    HIDDEN: ("hidden files and folders", ""),
    REPEATED: ("links to folders that are looked at already", ""),
    EMPTY: ("empty folders", ""),
    RESULTS: ("results of an earlier detection", ""),
    DIRECTORY: ("DICOM directories (DICOMDIR)", "give the folder of the files that they list"),
    COPY: ("links to files that are looked at already", ""),
    OTHER: ("files of other kinds", ""),
}
"""Kind of file -> why such files are passed over, and what to do about them."""
NAMED_AT_MOST = 3
IMAGES_FILE, RESULTS_FILE = "images.json", "summary.json"
"""A folder with both files is the output of `cmbfe detect`."""


@dataclass(frozen=True)
class Aside:
    """Files, or frames of files, that are not read."""

    files: tuple[Path, ...]
    """A multi-frame file is listed once per frame."""
    patient_id: str
    """Patient id of the source; "" if unknown."""
    series_uid: str
    """Series UID; "" if unknown, or if several series are concerned."""
    what: str
    """The reason for the outputs, without names."""
    line: str
    """The reason for the terminal, with a file and what to do."""
    refused: bool
    """Whether the files should be readable but are not; otherwise they are passed over."""


@dataclass(frozen=True)
class Inventory:
    """The files under a folder, or a single file."""

    source: Path
    kinds: Mapping[Path, str]
    """Every file, broken link, hidden entry and empty folder -> its kind (a key of `REASONS`), sorted by path."""

    def of(self, kind: str) -> list[Path]:
        """Files of one kind."""
        return [path for path, own in self.kinds.items() if own == kind]

    def named(self, *suffixes: str) -> list[Path]:
        """Files with one of the suffixes, in upper or lower case, without hidden files and broken links."""
        return [
            path
            for path, kind in self.kinds.items()
            if kind not in (LINK, HIDDEN, REPEATED, EMPTY, RESULTS) and path.name.lower().endswith(suffixes)
        ]

    def folders(self) -> list[Path]:
        """Every folder that was searched, except the source itself."""
        above = {folder for path in self.kinds for folder in path.relative_to(self.source).parents}
        return sorted({self.source / folder for folder in above if folder.name} | set(self.of(EMPTY)))

    def others(self, seen: Iterable[Path]) -> list[Aside]:
        """Asides for all files except `seen`, grouped by kind; they are passed over."""
        seen = set(seen)
        real = {os.path.realpath(path) for path in seen}

        def is_left(path: Path, kind: str) -> bool:
            return path not in seen and (kind == LINK or os.path.realpath(path) not in real)

        left = {path: kind for path, kind in self.kinds.items() if is_left(path, kind)}
        asides = []
        for kind, (what, hint) in REASONS.items():
            if files := tuple(path for path, own in left.items() if own == kind):
                shown = ", ".join(self.name(path) for path in files[:NAMED_AT_MOST])
                more = f" and {len(files) - NAMED_AT_MOST} more" if len(files) > NAMED_AT_MOST else ""
                line = f"{self.source}: {what}: {shown}{more}" + (f"; {hint}" if hint else "")
                asides.append(Aside(files, "", "", what, line, refused=False))
        return asides

    def name(self, path: Path) -> str:
        """A path relative to the source, as text."""
        return path.name if path == self.source else path.relative_to(self.source).as_posix()

    def nothing(self, wanted: str, asides: Sequence[Aside] = ()) -> InputError:
        """The error for a source without anything `wanted`. It lists what is there instead, and what to do."""
        if not self.kinds:
            return InputError(f"{self.source}: the folder is empty; give one with {wanted}")
        hints = "; ".join(aside.line.removeprefix(f"{self.source}: ") for aside in asides or self.others(()))
        return InputError(f"{self.source}: no {wanted} there, but {hints}")


def take_inventory(source: Path, out: Path | None = None) -> Inventory:
    """List all files under a folder, at any depth, or a single file.

    Links are followed, but each folder is searched only once. Hidden folders and `out` are not searched.

    Raises:
        InputError: no such path, or a folder that is not readable: its patients would be missing without notice.
    """
    if not resolved(source).exists():
        raise InputError(f"{source}: {_missing(source)}")
    if not source.is_dir():
        return Inventory(source, {source: kind_of(source, named=True)})
    entries = tqdm(_walk(source, out), desc="looking at files", unit="file", delay=1)
    kinds = dict(sorted((path, kind or kind_of(path)) for path, kind in entries))
    return Inventory(source, kinds | dict.fromkeys(_copies(kinds), COPY))


def _copies(kinds: Mapping[Path, str]) -> Iterator[Path]:
    """Links to a file that is read anyway, directly or through an earlier link."""
    links = [path for path, kind in kinds.items() if kind != LINK and path.is_symlink()]
    seen = {os.path.realpath(path) for path in kinds.keys() - set(links)} if links else set()
    for path in links:
        real = os.path.realpath(path)
        if real in seen:
            yield path
        seen.add(real)


def _missing(source: Path) -> str:
    if source.is_symlink():
        return "links to nothing; get the file that it leads to, or give another path"
    above = next((folder for folder in source.absolute().parents if folder.exists()), None)
    return "no such file or folder; " + (f"{above} is there, look below it" if above else "correct the path")


def _walk(source: Path, out: Path | None) -> Iterator[tuple[Path, str]]:
    """Every entry except searched folders, with its kind, or with "" if only the content can show the kind."""
    own = None if out is None else resolved(out)
    visited = {os.path.realpath(source)}
    for place, folders, files in os.walk(source, onerror=_refuse, followlinks=True):
        kept = []
        for name in sorted(folders):
            path = Path(place, name)
            real = os.path.realpath(path)
            if is_partial(path):
                continue  # of a run in progress, or of a killed run
            if name.startswith("."):
                yield path, HIDDEN
            elif real in visited:
                yield path, REPEATED
            elif own is None or Path(real) != own:
                visited.add(real)
                kept.append(name)
        if {IMAGES_FILE, RESULTS_FILE} <= set(files):  # of an earlier cmbfe detect
            yield Path(place), RESULTS
            folders.clear()
            continue
        if not (folders or files) and Path(place) != source:
            yield Path(place), EMPTY
        folders[:] = kept
        for name in files:
            path = Path(place, name)
            yield path, HIDDEN if name.startswith(".") else ""


def kind_of(path: Path, named: bool = False) -> str:
    """Kind of a file by its first bytes and its name. `named`: the source is this single file. Raises `InputError` if
    the file is not readable."""
    if not path.exists():
        return LINK
    if not path.is_file():  # a socket, a pipe, a device
        return OTHER
    if path.name == DIRECTORY:
        return DIRECTORY
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; make it readable, or remove it") from None
    is_bare = start[:2] in BARE_STARTS and (named or may_be_dicom(path))
    if is_bare or start[128:] == b"DICM" or path.suffix.lower() in DICOM_SUFFIXES:
        return DICOM
    name = path.name.lower()
    return next((kind for kind, suffixes in SUFFIXES.items() if name.endswith(suffixes)), OTHER)


def may_be_dicom(path: Path) -> bool:
    """Whether a file name looks like DICOM: its suffix is that of DICOM, a number, or absent."""
    return path.suffix.lower() in DICOM_SUFFIXES or bool(re.fullmatch(r"(\.\d*)?", path.suffix))


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: {error.strerror}; the folder must be readable, or not lie in the source")
