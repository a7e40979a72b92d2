"""Geometry of a simulated SWAN scan: the kept slices, and the finer grid on which physics is simulated.

Scan coordinates are millimetres in the axis order of the arrays: from feet to head (slice normal), from front to back
(column), and from the patient's right to left (row). The origin is the template's origin, the anterior commissure.
"""

from dataclasses import dataclass

import numpy as np

from cmbfe.errors import InputError

FINEST_NEEDED_MM = 0.95
"""Largest in-plane spacing of the grid for physics. Coarser images are cropped in k-space from a finer grid."""
MARGIN_SLICES = 4  # fine slices simulated beyond each end of the slab, so that nothing wraps around into it
BRAIN_HEIGHT_MM = 150.0
Axes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Increasing coordinates mm of a grid's voxel centres along z (up), y (back), x (left)."""
Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Scan:
    """Size and position of a scan; lengths in mm."""

    matrix: int
    slices: int
    field_of_view_mm: float
    thickness_mm: float
    spacing_mm: float  # distance between slice centres
    lowest_mm: float  # scan coordinate of the first slice's centre
    row_centre_mm: float
    """Scan coordinate of the middle row, above 0 because the middle of the head lies behind the anterior commissure."""
    tilt_degrees: float
    """Rotation of the slab about the left-right axis; positive tips the slices' front towards the feet."""
    rows: tuple[int, int] = (0, 0)
    """First row to simulate, and the row after the last; (0, 0) means all rows."""
    columns: tuple[int, int] = (0, 0)

    @property
    def pixel_mm(self) -> float:
        return self.field_of_view_mm / self.matrix

    @property
    def oversampling(self) -> int:
        """Fine pixels per pixel along a row or column."""
        return int(np.ceil(self.pixel_mm / FINEST_NEEDED_MM))

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Size of the voxels that the scan measures."""
        return (self.thickness_mm, self.pixel_mm, self.pixel_mm)

    @property
    def fine_spacing_mm(self) -> tuple[float, float, float]:
        in_plane = self.pixel_mm / self.oversampling
        return (self.thickness_mm / 2, in_plane, in_plane)

    @property
    def slice_step(self) -> int:
        """Number of fine slices from a kept slice to the next."""
        return round(2 * self.spacing_mm / self.thickness_mm)

    @property
    def measured_window(self) -> Window:
        """Kept pixels [slices, rows, columns] that are simulated; the others hold noise only."""
        rows, columns = (slice(*part) if part[1] else slice(0, self.matrix) for part in (self.rows, self.columns))
        return (slice(0, self.slices), rows, columns)

    @property
    def fine_axes_mm(self) -> Axes:
        """Axes of the fine grid over the measured window. Every kept pixel shares its centre with a fine voxel."""
        count = (self.slices - 1) * self.slice_step + 1 + 2 * MARGIN_SLICES
        count += count % 2  # an even number halves exactly in k-space
        z = self.lowest_mm + (np.arange(count) - MARGIN_SLICES) * self.fine_spacing_mm[0]
        finer = self.oversampling
        across = (np.arange(self.matrix * finer) / finer - (self.matrix - 1) / 2) * self.pixel_mm
        _, rows, columns = (slice(w.start * finer, w.stop * finer) for w in self.measured_window)
        return z, across[rows] + self.row_centre_mm, across[columns]

    @property
    def kept(self) -> Window:
        """Index of the kept pixels in the fine grid."""
        stop = MARGIN_SLICES + (self.slices - 1) * self.slice_step + 1
        return (slice(MARGIN_SLICES, stop, self.slice_step), *(slice(None, None, self.oversampling),) * 2)

    @property
    def field_direction(self) -> np.ndarray:
        """Unit vector of the static field in scan coordinates."""
        tilt = np.deg2rad(self.tilt_degrees)
        return np.array([np.cos(tilt), np.sin(tilt), 0.0])


def slab_spacing(slices: int, thickness_mm: float) -> float:
    """Distance in mm between slice centres: the thickness, or half of it if the slab would otherwise exceed the brain.

    A scan of 6613 / 58 = 114 slices of 2 mm would measure 228 mm without overlap, far more than a brain. GE's
    scanners interpolate 3-D scans to twice as many slices ("ZIP2"), 2 mm thick and 1 mm apart: 114 mm in all.
    """
    return thickness_mm / 2 if slices * thickness_mm > BRAIN_HEIGHT_MM else thickness_mm


def draw_scan(
    rng: np.random.Generator, matrix: int, slices: int, field_of_view_mm: float, slice_thickness_mm: float
) -> Scan:
    """Place a slab: near the brain's centre if the slab covers most of the brain, otherwise anywhere inside the brain.

    Raises:
        InputError: sizes out of range.
    """
    if matrix < 32 or slices < 1:
        raise InputError(f"a scan of {slices} slices of {matrix} x {matrix} px: give at least 1 slice and 32 px")
    if not (150 <= field_of_view_mm <= 400 and 0.5 <= slice_thickness_mm <= 8):
        raise InputError(
            f"field of view {field_of_view_mm} mm, slices of {slice_thickness_mm} mm: give 150-400 mm and 0.5-8 mm"
        )
    spacing = slab_spacing(slices, slice_thickness_mm)
    height = (slices - 1) * spacing
    lowest, highest = -46.0, 66.0  # an adult's brain: from the foramen magnum to 5 mm below the vertex
    room = max((highest - lowest - height) / 2, 3.0)
    centre = (lowest + highest) / 2 + rng.uniform(-room, room)
    return Scan(
        matrix,
        slices,
        field_of_view_mm,
        slice_thickness_mm,
        spacing,
        lowest_mm=centre - height / 2,
        row_centre_mm=16.0 + rng.normal(0, 2),
        tilt_degrees=float(np.clip(rng.normal(4, 5), -10, 15)),
    )
