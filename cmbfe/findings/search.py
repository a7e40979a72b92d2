"""Find the series in a source, which holds images, NIfTI volumes or DICOM."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation
from tqdm import tqdm

from cmbfe.data.conversion import phase_of
from cmbfe.data.dicom.finding import magnitude_of_series, others_of_series, series_in
from cmbfe.data.inventory import DICOM, IMAGE, LINK, NIFTI, REASONS, SUFFIXES, Aside, Inventory, take_inventory
from cmbfe.data.labelled.images import image_notes, natural_key, phase_file, read_with_phase
from cmbfe.data.sources.bids import find_volumes, patient_of
from cmbfe.data.sources.dicom import DicomSeries
from cmbfe.data.sources.opening import open_volume
from cmbfe.data.sources.series import Loaded, Series, VolumeSeries
from cmbfe.errors import InputError
from cmbfe.training.detection import BATCH

NO_PHASE = "the detector sees the phase as well, and there is no phase series on its slices"


@dataclass(frozen=True)
class Place:
    """The position of a series' slices in the patient, in mm: x to the left, y to the back, z to the head (LPS)."""

    orientation: tuple[float, ...]
    """Directions along a row (px x), then along a column (px y)."""
    positions_mm: tuple[tuple[float, float, float], ...]
    """Centre of the first pixel of each slice."""
    pixel_spacing_mm: tuple[float, float]
    """Row spacing (along y), column spacing (along x)."""
    slice_spacing_mm: float


def place_of(series: Series, loaded: Loaded) -> Place | None:
    """The place of a series in the patient; None for images, whose position is unknown."""
    if isinstance(series, DicomSeries):
        own = series.headers
        return Place(own.orientation, own.positions_mm, own.pixel_spacing_mm, own.slice_spacing_mm)
    return even_place(loaded.place, loaded.images) if loaded.place else None


def even_place(place: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> Place:
    """The place of evenly spaced slices; `place` and `images` as in `Loaded`."""
    affine, (row_mm, column_mm) = np.array(place["affine"]), images[0]["pixel_spacing_mm"]
    positions = affine[:3, 3] + np.arange(len(images))[:, None] * affine[:3, 2]
    orientation = (*(affine[:3, 0] / column_mm).tolist(), *(affine[:3, 1] / row_mm).tolist())
    positions_mm = tuple(map(tuple, positions.tolist()))
    return Place(orientation, positions_mm, (row_mm, column_mm), place["slice_spacing_mm"])


def in_batches(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Stack neighbouring images of the same size, at most `BATCH`: [rows, columns], with phase [rows, columns, 2]."""
    for _, run in groupby(images, key=np.shape):
        while batch := list(islice(run, BATCH)):
            yield np.stack(batch)


@dataclass(frozen=True)
class ImageSeries:
    """The images of one folder, which counts as one patient; see `Series`."""

    patient: str
    images: list[dict[str, Any]]
    """As in `Loaded`; each `file_name` is relative to `root`."""
    root: Path
    has_phase: bool = False
    """Whether the phase of each image is also read."""
    name: str = ""
    split: str | None = None
    is_labelled: bool = False

    @property
    def files(self) -> Sequence[Path]:
        files = [self.root / image["file_name"] for image in self.images]
        return files + [phase_file(file) for file in files if self.has_phase]

    def load(self, size: int | None) -> Loaded:
        """See `Series`; images are not changed."""
        files = self.files[: len(self.images)]
        drawn = (read_with_phase(file, phase_file(file) if self.has_phase else None) for file in files)
        said = {f"{note[:-1]} ({times} of {len(files)}).": times for note, times in image_notes(files).items()}
        return Loaded(self.images, [], lambda _: drawn, notes=said)


@dataclass(frozen=True)
class Search:
    """The result of a search in a source."""

    kind: str
    series: Sequence[Series]
    counts: Sequence[int]
    """Number of images of each series; 0 if its file cannot be read."""
    asides: list[Aside]


def find(source: Path, out: Path, phase: bool = False, as_magnitude: bool = False) -> Search:
    """Find the kind of a source, its series, and the files that are left out.

    Args:
        out: folder to skip in the search.
        phase: whether each series needs its phase.
        as_magnitude: also accept a series as magnitude if its header or name does not say what it is.

    Raises:
        InputError: no such file or folder, a folder without read permission, two kinds in one folder, an image that
            cannot be read or has no phase, or no usable series.
    """
    inventory = take_inventory(source, out)
    kinds = {kind: files[0] for kind in (IMAGE, NIFTI, DICOM) if (files := inventory.of(kind))}
    if len(kinds) > 1:
        both = " and ".join(f"{kind} ({inventory.name(file)})" for kind, file in kinds.items())
        raise InputError(f"{source}: holds {both}; give a folder of one of them")
    if not kinds:
        raise inventory.nothing("DICOM, NIfTI (.nii, .nii.gz) or images (PNG, JPG, TIFF, BMP, …)")
    (kind,) = kinds
    if kind != DICOM:
        _refuse_odd_names(inventory, kind)
    finders = {IMAGE: _find_images, NIFTI: _find_nifti, DICOM: _find_dicom}
    series, asides = finders[kind](inventory, phase, as_magnitude)
    seen = {file for each in series for file in each.files} | {file for aside in asides for file in aside.files}
    return Search(kind, series, [_count(each) for each in series], asides + _others(inventory, kind, seen))


def _refuse_odd_names(inventory: Inventory, kind: str) -> None:
    """Raise `InputError` for file names that are not UTF-8, as the outputs contain the names in UTF-8."""
    for path in inventory.of(kind):
        try:
            inventory.name(path).encode()
        except UnicodeEncodeError:
            raise InputError(f"{path}: its name is no UTF-8; rename it") from None


def _others(inventory: Inventory, kind: str, seen: set[Path]) -> list[Aside]:
    """The files that belong to no series. A broken link with a NIfTI name is listed under its folder's patient."""
    what, hint = REASONS[LINK]
    links = [path for path in inventory.of(LINK) if kind == NIFTI and path.name.lower().endswith(SUFFIXES[NIFTI])]
    named = [
        Aside(
            (path,), patient_of(path, inventory), inventory.name(path), what, f"{path}: {what}; {hint}", refused=True
        )
        for path in links
        if path not in seen
    ]
    return named + inventory.others(seen.union(links))


def image_files(inventory: Inventory) -> list[Path]:
    """The images of an inventory in natural order. Raises `InputError` if two names differ in the suffix only."""
    images = sorted(inventory.of(IMAGE), key=natural_key)
    for file, following in pairwise(sorted(images, key=lambda file: file.with_suffix(""))):
        if file.with_suffix("") == following.with_suffix(""):
            raise InputError(f"{following}: differs from {file.name} in its suffix only; keep one")
    return images


def _find_images(inventory: Inventory, phase: bool, _: bool) -> tuple[list[ImageSeries], list[Aside]]:
    source = inventory.source
    root = source if source.is_dir() else source.parent
    return image_series(image_files(inventory), root, phase), []


def image_series(files: Sequence[Path], root: Path, phase: bool = False) -> list[ImageSeries]:
    """Series of neighbouring files in one folder, which counts as one patient. All images are decoded to check them.

    Images are numbered in the order of the files. With `phase`, each image needs its phase file beside it.

    Raises:
        InputError: an image that cannot be read, or has no phase although `phase` is set.
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
        series.append(ImageSeries(patient, images, root, phase))
        before[folder] += len(images)
    return series


def _find_nifti(inventory: Inventory, phase: bool, as_magnitude: bool) -> tuple[list[VolumeSeries], list[Aside]]:
    series, asides = find_volumes(inventory, phase, as_magnitude)
    if not series:
        raise _nothing_left(inventory, asides)
    return series, asides


def _count(series: Series) -> int:
    """The number of images of a series. For a volume, its header alone gives the number of axial slices."""
    if not isinstance(series, VolumeSeries):
        return len(series.images if isinstance(series, ImageSeries) else series.headers.files)
    try:
        image = open_volume(series.image)
    except InputError:  # reading the series reports the error
        return 0
    axes = io_orientation(image.affine)[:, 0].tolist() if np.isfinite(image.affine).all() else []
    return image.shape[axes.index(2)] if 2 in axes and len(image.shape) > 2 else 0  # 2: to the head


def _find_dicom(inventory: Inventory, phase: bool, as_magnitude: bool) -> tuple[list[DicomSeries], list[Aside]]:
    """The magnitude series by patient and UID, and the series and files that are left out."""
    headers, asides = series_in(inventory)
    series, used = [], []
    for each in magnitude_of_series(headers, as_magnitude):
        try:
            its_phase = phase_of(each, headers) if phase else None
        except InputError as error:
            line = str(error)
            asides.append(Aside(each.files, each.patient_id, each.series_uid, NO_PHASE, line, refused=True))
        else:
            series.append(DicomSeries(each, None, phase=its_phase))
            used += [its_phase] if its_phase else []
    asides += others_of_series(headers, used, as_magnitude)
    if not series:
        raise _nothing_left(inventory, asides)
    return series, asides


def _nothing_left(inventory: Inventory, asides: Sequence[Aside]) -> InputError:
    """The error for a source without usable series: the first refused entry or, if none is refused, the first entry."""
    lines = list(dict.fromkeys(aside.line for aside in sorted(asides, key=lambda aside: not aside.refused)))
    if not lines:
        return inventory.nothing("magnitude image")
    more = f" (and {len(lines) - 1} more series or files)" if len(lines) > 1 else ""
    refused = any(aside.refused for aside in asides)
    return InputError(f"{'' if refused else f'{inventory.source}: no magnitude series, but '}{lines[0]}{more}")
