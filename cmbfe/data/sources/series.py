"""Common interface of all formats: series that can be checked, and then written as images with boxes."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from cmbfe.data.conversion import phase_images, refuse_flat, volume_images
from cmbfe.data.inventory import Aside
from cmbfe.data.labelled.images import ZERO_PHASE
from cmbfe.data.sources.lesions import (
    REPEATED_POINTS,
    Boxes,
    lesions_of_mask,
    lesions_of_points,
    odd_sizes,
    without_repeated,
)
from cmbfe.data.sources.opening import files_of
from cmbfe.data.sources.sidecars import read_sidecars, scan_of, sidecars
from cmbfe.data.sources.volumes import (
    AXES,
    RAS_TO_LPS,
    Volume,
    apply,
    read_mask,
    read_volume,
    refuse_lines,
)
from cmbfe.errors import InputError
from cmbfe.params import Images

Coordinates = Literal["voxel-0", "voxel-1", "ras-mm", "lps-mm"]
"""Coordinates of points: voxel indices from 0 or from 1, or mm towards right-front-head or left-back-head."""


@dataclass(frozen=True)
class Frame:
    """Scale an image and centre it on a black square of `size` px; None leaves the image unchanged.

    The longer side in mm fills the square. Pixels become square, except that the shorter side is rounded to whole px.
    """

    rows: int
    columns: int
    row_mm: float
    column_mm: float
    size: int | None

    @property
    def inner(self) -> tuple[int, int]:
        """Rows and columns of the scaled image without the black border, px."""
        if self.size is None:
            return self.rows, self.columns
        sides_mm = self.rows * self.row_mm, self.columns * self.column_mm
        rows, columns = (max(1, round(self.size * side / max(sides_mm))) for side in sides_mm)
        return rows, columns

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the result, px."""
        return (self.rows, self.columns) if self.size is None else (self.size, self.size)

    @property
    def scale(self) -> tuple[float, float]:
        """New px per old px, along columns (x) and rows (y)."""
        return self.inner[1] / self.columns, self.inner[0] / self.rows

    @property
    def offset(self) -> tuple[int, int]:
        """Black columns to the left of the image, and black rows above it, px."""
        return (self.shape[1] - self.inner[1]) // 2, (self.shape[0] - self.inner[0]) // 2

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Row and column spacing of the result."""
        return self.row_mm / self.scale[1], self.column_mm / self.scale[0]

    @property
    def entry(self) -> dict[str, Any]:
        """COCO keys of the result: `width`, `height`, `pixel_spacing_mm`."""
        return {"width": self.shape[1], "height": self.shape[0], "pixel_spacing_mm": list(self.spacing_mm)}

    def image(self, image: np.ndarray, around: int = 0) -> np.ndarray:
        """Scale a uint8 image [rows, columns] (bilinear, with antialiasing if it shrinks) and centre it."""
        if self.inner == self.shape == image.shape:
            return image
        framed = np.full(self.shape, around, np.uint8)
        (rows, columns), (left, top) = self.inner, self.offset
        scaled = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
        framed[top : top + rows, left : left + columns] = scaled
        return framed

    def box(self, box: list[float]) -> list[float]:
        """Scale and move a box x, y, w, h px like the image."""
        (x_scale, y_scale), (left, top) = self.scale, self.offset
        x, y, width, height = box
        return [x * x_scale + left, y * y_scale + top, width * x_scale, height * y_scale]

    def affine(self, affine: np.ndarray) -> np.ndarray:
        """The affine of the result, from the affine of the image ([4, 4]). Whole numbers are pixel centres."""
        back = np.eye(4)
        for axis in (0, 1):
            back[axis, axis] = 1 / self.scale[axis]
            back[axis, 3] = (0.5 - self.offset[axis]) / self.scale[axis] - 0.5
        return affine @ back


@dataclass(frozen=True)
class Loaded:
    """A series that was read and checked."""

    images: list[dict[str, Any]]
    """`width`, `height`, `slice_index` and, where known, `pixel_spacing_mm` of each image."""
    boxes: list[dict[str, Any]]
    """`image` (0-based), `bbox` px and `lesion` (number within the series); also `ignore`, if the source sets it."""
    draw: Callable[[Images], Iterator[np.ndarray]]
    """Yields the uint8 images, one after another."""
    place: dict[str, Any] = field(default_factory=dict)
    """`affine` ([4][4], see `volumes`), its `axes` (such as LPS), and `slice_spacing_mm`; empty if unknown."""
    notes: dict[str, int] = field(default_factory=dict)
    """Notes for the report -> how often; notes with 0 are omitted."""
    mimics: list[dict[str, Any]] = field(default_factory=list)
    """Boxes of mimics, like `boxes` and with `kind`."""
    has_phase: bool = False
    """Whether `draw` makes images with phase, [rows, columns, 2]."""
    scan: dict[str, float] = field(default_factory=dict)
    """`echo_time_ms` and `field_strength_t`, if header or sidecar give them."""

    def record(self) -> dict[str, Any]:
        """All fields except `draw`, as JSON."""
        names = ("images", "boxes", "mimics", "place", "notes", "has_phase", "scan")
        return {name: getattr(self, name) for name in names}


class Series(Protocol):
    """A series of one patient in a source. It is frozen and small, and its `repr` shows its complete content."""

    patient: str
    name: str
    """Unique within the source."""
    split: str | None

    @property
    def files(self) -> Sequence[Path]:
        """All files of the series."""

    @property
    def is_labelled(self) -> bool:
        """Whether the series is labelled. A labelled series may have no microbleeds."""

    def load(self, size: int | None) -> Loaded:
        """Read and check the series; raises `InputError`. `size`: side of the images, px; None keeps their size."""


@dataclass(frozen=True)
class Found:
    """Content of a source: its series, and the number of items left out, by reason."""

    series: tuple[Series, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    mimic_kinds: tuple[str, ...] = ()
    """Kinds of mimics that are labelled."""
    read: tuple[Path, ...] = ()
    """Files that were read besides those of the series: labels, descriptions, tables."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Assumptions and changes in the labels -> how often, as in `Loaded`."""
    asides: tuple[Aside, ...] = ()
    """Files that are not read, and why. The import later adds all files that no field lists."""


def number_in(text: str, where: str) -> float:
    """The finite number in a cell of a table; raises `InputError` if there is none."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: holds {text!r}, which is no number; correct or remove it")
    return number


@dataclass(frozen=True)
class Points:
    """Centres of microbleeds."""

    places: tuple[tuple[float, float, float], ...]
    coordinates: Coordinates
    diameters_mm: tuple[float, ...]
    file: Path
    """File of the points; error texts count its rows from 1."""

    def on(self, volume: Volume) -> np.ndarray:
        """The points as [N, 3] column, row, slice of a volume."""
        places = np.array(self.places, dtype=np.float64).reshape(-1, 3)
        if self.coordinates == "voxel-0":
            return apply(volume.from_file, places)
        if self.coordinates == "voxel-1":
            return apply(volume.from_file, places - 1)
        lps = apply(RAS_TO_LPS, places) if self.coordinates == "ras-mm" else places
        return apply(np.linalg.inv(volume.affine), lps)


@dataclass(frozen=True)
class VolumeSeries:
    """A NIfTI volume with a mask, with points, or without a label."""

    patient: str
    name: str
    image: Path
    mask: Path | None = None
    points: Points | None = None
    split: str | None = None
    as_magnitude: bool = False
    """Whether to accept a volume that does not look like a magnitude, see `read_volume`."""
    phase: Path | None = None
    """The phase volume, if images have phase."""

    @property
    def files(self) -> Sequence[Path]:
        others = [file for path in (self.mask, self.phase) if path for file in files_of(path)]
        points = [self.points.file] if self.points else []
        return [*files_of(self.image), *others, *points, *sidecars(self.image)]

    @property
    def is_labelled(self) -> bool:
        return self.mask is not None or self.points is not None

    def load(self, size: int | None) -> Loaded:
        """See `Series`. The volume stays in memory as long as the result does."""
        volume = read_volume(self.image, as_magnitude=self.as_magnitude)
        slices, rows, columns = volume.voxels.shape
        refuse_lines(self.image, rows, columns)
        refuse_flat(volume.voxels, self.image)
        slice_mm, *sides_mm = volume.spacing_mm
        notes = Counter(volume.notes)
        lesions = self._lesions(volume, notes)
        scan, said = scan_of(self.image)
        notes.update(said)
        frame = Frame(rows, columns, *sides_mm, size)
        phases = self.phase and [frame.image(image, ZERO_PHASE) for image in self._phases(volume)]

        def draw(settings: Images) -> Iterator[np.ndarray]:
            images = map(frame.image, volume_images(volume.voxels, volume.spacing_mm, settings, self.image))
            return images if phases is None else (np.stack(pair, -1) for pair in zip(images, phases, strict=True))

        return Loaded(
            images=[{**frame.entry, "slice_index": index} for index in range(slices)],
            boxes=[
                {"image": index, "bbox": frame.box(box), "lesion": number}
                for number, boxes in enumerate(lesions, 1)
                for index, box in sorted(boxes.items())
            ],
            place={"axes": AXES, "affine": frame.affine(volume.affine).tolist(), "slice_spacing_mm": slice_mm},
            notes=dict(notes),
            draw=draw,
            has_phase=phases is not None,
            scan=scan,
        )

    def _phases(self, volume: Volume) -> np.ndarray:
        """The phase volume as images; its sidecar must give the unit rad."""
        unit = read_sidecars(self.phase)[0].get("Units")
        if unit != "rad":
            raise InputError(f"{self.phase}: Units in its sidecar is {unit!r}; phase must be in 'rad': convert it")
        return phase_images(1000 * read_mask(self.phase, volume, self.image).voxels, self.phase)

    def _lesions(self, volume: Volume, notes: Counter[str]) -> list[Boxes]:
        if self.mask is not None:
            mask = read_mask(self.mask, volume, self.image)
            lesions, of_mask = lesions_of_mask(mask.voxels, volume.spacing_mm, self.mask)
            notes.update(mask.notes)
            notes.update(of_mask)
            return lesions
        if self.points is None:
            return []
        where = f"{self.points.file}: {self.image.name}"
        places, sizes = self.points.on(volume), self.points.diameters_mm
        found = lesions_of_points(places, sizes, volume.voxels.shape, volume.spacing_mm, where)
        kept = without_repeated(places, sizes)
        notes.update({REPEATED_POINTS: len(places) - len(kept), **odd_sizes([sizes[number] for number in kept])})
        return [found[number] for number in kept]
