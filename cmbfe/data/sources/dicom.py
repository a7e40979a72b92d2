"""Import the magnitude series among DICOM series, with labels as COCO or Pascal VOC, or without labels.

Images are never rotated against the DICOM slices, because labels, `cmbfe detect` and DICOM SR refer to their pixels.
"""

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np

from cmbfe.data.conversion import phase_images, phase_of, refuse_flat, volume_images
from cmbfe.data.dicom.finding import magnitude_among, others_of_series, refuse_first, series_in
from cmbfe.data.dicom.pixels import refuse_burned_in
from cmbfe.data.dicom.series import SeriesHeaders, read_volume
from cmbfe.data.inventory import DICOM_SUFFIXES, Aside, Inventory, take_inventory
from cmbfe.data.labelled.images import ZERO_PHASE
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, read_foreign_labels, split_of_patients
from cmbfe.data.sources.labelled import (
    APART,
    Box,
    boxes_of_images,
    labels_file,
    lesions_apart,
    microbleed_category,
    records,
    size_notes,
    without_doubles,
)
from cmbfe.data.sources.series import Found, Frame, Loaded
from cmbfe.data.sources.sidecars import SCAN, SPIN_ECHO
from cmbfe.data.sources.voc import ANNOTATIONS, read_voc
from cmbfe.data.sources.volumes import AXES, RAS_TO_LPS, refuse_lines
from cmbfe.errors import InputError
from cmbfe.params import Images

NO_PATIENT = "series without a PatientID: all of them count as one patient"
UNLABELLED_SLICES = "slices that no label names, in series that labels name: taken to have no microbleeds"
OTHER_VIEW = "series whose columns, rows and slices do not run to left, back and head: shown as the scanner does"
OTHER_SERIES = "images of magnitude series that no label names, of patients that labels name"

SUFFIXES = (*DICOM_SUFFIXES, ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".xml")
"""Suffixes that are removed from names; other text after a dot belongs to the name, such as the end of a UID."""
Place = tuple[int, int]
"""Index of a series, and index of a slice in the series."""


@dataclass(frozen=True)
class Labelled:
    """The boxes of one series."""

    boxes: tuple[tuple[Box, ...], ...]
    """Microbleeds of each slice."""
    mimics: tuple[tuple[Box, ...], ...]
    unnamed: int = 0
    """Number of slices that no label names."""


@dataclass(frozen=True)
class DicomSeries:
    """A magnitude series with its boxes; see `Series`."""

    headers: SeriesHeaders
    labelled: Labelled | None
    """None if no label names a slice of the series."""
    split: str | None = None
    phase: SeriesHeaders | None = None
    """The phase series, if images have phase."""

    @property
    def patient(self) -> str:
        return self.headers.patient_id

    @property
    def name(self) -> str:
        return self.headers.series_uid

    @property
    def files(self) -> Sequence[Path]:
        return list(dict.fromkeys([*self.headers.files, *(self.phase.files if self.phase else ())]))

    @property
    def is_labelled(self) -> bool:
        return self.labelled is not None

    def load(self, size: int | None) -> Loaded:
        """See `Series`. The volume stays in memory as long as the result does."""
        refuse_burned_in(self.files)
        headers, slice_mm, count = self.headers, self.headers.slice_spacing_mm, len(self.headers.files)
        refuse_lines(headers.files[0], headers.rows, headers.columns)
        frame = Frame(headers.rows, headers.columns, *headers.pixel_spacing_mm, size)
        labelled = self.labelled or Labelled(((),) * count, ((),) * count)
        affine = affine_of(headers)
        axes = "".join(nib.aff2axcodes(RAS_TO_LPS @ affine))
        volume, spacing_mm = read_volume(headers), (slice_mm, *headers.pixel_spacing_mm)
        refuse_flat(volume, headers.files[0])
        phases = self.phase and [
            frame.image(image, ZERO_PHASE) for image in phase_images(read_volume(self.phase), self.phase.files[0])
        ]

        def draw(settings: Images) -> Iterator[np.ndarray]:
            images = map(frame.image, volume_images(volume, spacing_mm, settings, headers.files[0]))
            return images if phases is None else (np.stack(pair, -1) for pair in zip(images, phases, strict=True))

        return Loaded(
            images=[
                {**frame.entry, "slice_index": index, "sop_instance_uid": uid}
                for index, uid in enumerate(headers.sop_instance_uids)
            ],
            boxes=records(labelled.boxes, [frame] * count),
            mimics=records(labelled.mimics, [frame] * count),
            place={"axes": axes, "affine": frame.affine(affine).tolist(), "slice_spacing_mm": slice_mm},
            notes={
                UNLABELLED_SLICES: labelled.unnamed,
                NO_PATIENT: int(not self.patient),
                OTHER_VIEW: int(axes != AXES),
                SPIN_ECHO: int(headers.is_spin_echo),
                **dict.fromkeys(headers.notes, 1),
                APART: lesions_apart(labelled.boxes),
                **size_notes(labelled.boxes, [headers.pixel_spacing_mm] * count, headers.files[0].parent),
            },
            draw=draw,
            has_phase=phases is not None,
            scan={key: value for key in SCAN if (value := getattr(headers, key))},
        )


class SliceLookup:
    """Finds the slices of series by UID and by name.

    A labelled image names its slice by `sop_instance_uid`, or else by `file_name` (VOC: `filename`). `file_name` is the
    SOP instance UID, or the name of the DICOM file with or without suffix. Folders before it tell equal names apart.
    """

    def __init__(self, series: Sequence[SeriesHeaders], source: Path) -> None:
        self.series, self.source = series, source
        self.by_uid: dict[str, list[Place]] = defaultdict(list)
        self.by_name: dict[str, list[Place]] = defaultdict(list)
        for number, headers in enumerate(series):
            for index, (uid, file) in enumerate(zip(headers.sop_instance_uids, headers.files, strict=True)):
                self.by_uid[uid].append((number, index))
                self.by_name[_bare(file.name)].append((number, index))

    def of_images(self, labels: Labels, where: Path) -> dict[Any, Place]:
        """Image id -> its slice. Raises `InputError` if an image matches no slice or several, or if its slice belongs
        to another image or has another size."""
        places: dict[Any, Place] = {}
        taken: dict[Place, str] = {}
        for image in labels["images"]:
            name = f"image {image['id']} ({image['file_name']})"
            place = places[image["id"]] = self._of_image(image, f"{where}: {name}")
            if taken.setdefault(place, name) != name:
                raise InputError(f"{where}: {name}: is the slice of {taken[place]} too; keep one")
        return places

    def _of_image(self, image: Mapping[str, Any], said: str) -> Place:
        uid = image.get("sop_instance_uid")
        found = self._named(str(image["file_name"])) if uid is None else self.by_uid.get(str(uid), [])
        what = "this name" if uid is None else f"its UID {uid}"
        if not found:
            raise InputError(f"{said}: no slice of a magnitude series has {what}; correct it, or get the DICOM file")
        if len(found) > 1:
            are_frames = len({self._file(place) for place in found}) < len(found)
            path = f"give the path below {self.source}, or the key sop_instance_uid"
            hint = "export one file per slice" if are_frames else path
            raise InputError(f"{said}: {len(found)} slices have {what}; {hint}")
        headers = self.series[found[0][0]]
        label, ours = f"{image['width']:g} x {image['height']:g}", f"{headers.columns} x {headers.rows}"
        if label != ours:
            raise InputError(f"{said}: {label} px, but the DICOM slice has {ours}; label that slice")
        return found[0]

    def _named(self, name: str) -> list[Place]:
        path = PurePosixPath(name.replace("\\", "/"))
        *folders, last = [part for part in path.parts if part != ANNOTATIONS] or [""]
        bare, depth = _bare(last), len(folders)
        if bare in self.by_uid:
            return self.by_uid[bare]
        found = [
            place
            for place in self.by_name.get(bare, [])
            if list(self._file(place).parent.parts[-depth:] if depth else []) == folders
        ]
        whole = [place for place in found if list(self._file(place).relative_to(self.source).parts[:-1]) == folders]
        return whole if len(whole) == 1 else found

    def _file(self, place: Place) -> Path:
        return self.series[place[0]].files[place[1]]


def _bare(name: str) -> str:
    """A file's name without a known suffix.

    >>> _bare("IM0001"), _bare("1.2.840.17"), _bare("1.2.840.17.png")
    ('IM0001', '1.2.840.17', '1.2.840.17')
    """
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


def find_dicom(inventory: Inventory, labels: Path | None, phase: bool = False, as_magnitude: bool = False) -> Found:
    """Find the magnitude series under a folder, and the boxes of their slices.

    Args:
        inventory: files of the folder. Its mimics.json (COCO), if it exists, labels the mimics.
        labels: COCO file, or folder with COCO or VOC XML; None: annotations.json or VOC XML of the source, if any.
        phase: whether each series needs a phase series.
        as_magnitude: accept series of unclear kind as magnitude.

    Raises:
        InputError: a file that `series_in` refuses, no magnitude series, a missing phase series, invalid labels, an
            image without a matching slice (`SliceLookup`), or a patient in two splits.
    """
    found, asides = series_in(inventory)
    refuse_first(asides)
    magnitude = magnitude_among(found, asides, inventory, as_magnitude)
    labelled, splits, said = _labels_of(magnitude, inventory, labels)
    pairs = list(zip(magnitude, labelled, strict=True))
    known = {headers.patient_id for headers, own in pairs if own}
    # An unlabelled echo or copy shows the same microbleeds: training must not take it as free of microbleeds.
    kept = [(headers, own) for headers, own in pairs if own or headers.patient_id not in known]
    others = [headers for headers, own in pairs if not own and headers.patient_id in known]
    phases = [phase_of(headers, found) if phase else None for headers, _ in kept]
    series = tuple(
        DicomSeries(headers, own, splits.get(headers.patient_id), its_phase)
        for (headers, own), its_phase in zip(kept, phases, strict=True)
    )
    asides += others_of_series(found, list(filter(None, phases)), as_magnitude)
    for headers in others:
        line = (
            f"{headers.files[0]}: a magnitude series that no label names, of a patient that labels name; passed over"
        )
        asides.append(Aside(headers.files, headers.patient_id, headers.series_uid, OTHER_SERIES, line, refused=False))
    return replace(said, series=series, asides=tuple(asides))


def _labels_of(
    series: Sequence[SeriesHeaders], inventory: Inventory, given: Path | None
) -> tuple[list[Labelled | None], Mapping[str, str], Found]:
    """The labels of each series (None without labels), the split of each patient, and the other fields of `Found`."""
    where, labels, read, assumed = _read(inventory, given)
    if labels is None:
        return [None] * len(series), {}, Found(())
    source = inventory.source
    slices = SliceLookup(series, source)
    places = slices.of_images(labels, where)
    category = microbleed_category(labels, where)
    labels, left_out, notes = without_doubles(labels, category)
    boxes = {places[image]: own for image, own in boxes_of_images(labels, {category: ""}).items()}
    mimics, kinds = _mimics(source, slices)
    named = set(places.values())
    pairs = ((series[places[image["id"]][0]].patient_id, image.get("split")) for image in labels["images"])
    splits = split_of_patients(pairs, where)
    labelled = [_labelled(number, len(own.files), named, boxes, mimics) for number, own in enumerate(series)]
    read = (*read, *(file for file in [source / MIMICS_FILE] if file.is_file()))
    return labelled, splits, Found((), left_out, tuple(kinds.values()), read, {**notes, **assumed})


def _read(
    inventory: Inventory, given: Path | None
) -> tuple[Path, Labels | None, tuple[Path, ...], Mapping[str, int]]:
    """Path of the labels, the labels (None if there are none), their files, and notes on assumptions."""
    if given is not None and not given.exists():
        raise InputError(f"{given}: no such file or folder with labels; correct --labels")
    if given is not None and given.is_file():
        return given, read_foreign_labels(given), (given,), {}
    folder = given or inventory.source
    coco = folder / LABELS_FILE
    for file in (coco, folder / MIMICS_FILE):
        if (file.exists() or file.is_symlink()) and not file.is_file():
            raise InputError(f"{file}: is no file, but a folder or a link to nothing; get the labels again")
    xml = [path for path in (take_inventory(given) if given else inventory).named(".xml") if _may_be_voc(path)]
    if xml and coco.is_file():
        raise InputError(f"{folder}: holds {LABELS_FILE} and VOC XML; say which labels to take with --labels")
    if xml:
        voc = read_voc(folder)
        return folder, voc.labels, voc.files, voc.notes
    if given is not None:
        coco = labels_file(given)
    if folder.is_dir() and coco.is_file():
        return coco, read_foreign_labels(coco), (coco,), {}
    return coco, None, (), {}


def _may_be_voc(path: Path) -> bool:
    """Whether an XML file is VOC; True also if it cannot be read."""
    try:
        return next(ET.iterparse(path, events=("start",)))[1].tag == "annotation"
    except (ET.ParseError, OSError, ValueError, LookupError):
        return True


def _mimics(source: Path, slices: SliceLookup) -> tuple[dict[Place, list[Box]], dict[object, str]]:
    """The mimics of each slice, and category id -> kind of mimic."""
    file = source / MIMICS_FILE
    if not file.is_file():
        return {}, {}
    mimics = read_foreign_labels(file)
    kinds = {category["id"]: str(category.get("name", "mimic")) for category in mimics["categories"]}
    places = slices.of_images(mimics, file)
    return {places[image]: own for image, own in boxes_of_images(mimics, kinds).items()}, kinds


def _labelled(number: int, count: int, named: set[Place], *boxes: Mapping[Place, list[Box]]) -> Labelled | None:
    """The labels of the slices of a series; None if no label names a slice. `boxes`: microbleeds, then mimics."""
    unnamed = sum((number, index) not in named for index in range(count))
    if unnamed == count:
        return None
    return Labelled(*(tuple(tuple(of.get((number, index), ())) for index in range(count)) for of in boxes), unnamed)


def affine_of(series: SeriesHeaders) -> np.ndarray:
    """Affine, float64 [4, 4], from (column, row, slice, 1) to DICOM's patient mm. Whole numbers are pixel centres."""
    along_row, along_column = np.reshape(series.orientation, (2, 3))
    row_mm, column_mm = series.pixel_spacing_mm
    positions = np.array(series.positions_mm)
    count = len(positions)
    alone = np.cross(along_row, along_column) * series.slice_spacing_mm
    step = (positions[-1] - positions[0]) / (count - 1) if count > 1 else alone
    affine = np.eye(4)
    affine[:3] = np.column_stack([along_row * column_mm, along_column * row_mm, step, positions[0]])
    return affine
