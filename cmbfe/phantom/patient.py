"""What a simulated patient is: images as the scanner would show them, and what is known to be in them."""

from dataclasses import dataclass, field

import numpy as np

Box = tuple[float, float, float, float]
"""Corners x_min, y_min, x_max, y_max in px; pixel (row i, column j) covers [j, j + 1] x [i, i + 1]."""


@dataclass(frozen=True)
class Finding:
    """A dark spot that is known: a microbleed (`kind` "cmb") or one of its mimics."""

    finding_id: str
    """Unique within the patient; the `lesion_id` of the labels."""
    kind: str
    """"cmb", or the mimic's kind: "vein", "calcification", "iron", "flow void"."""
    location: str
    """"lobar", "deep" or "infratentorial"."""
    true_diameter_mm: float
    visible_diameter_mm: float
    """Diameter of what is dark in the image; larger than the true one where the signal blooms."""
    boxes: dict[int, Box] = field(default_factory=dict)
    """Slice index -> box px around what is dark on that slice."""


@dataclass(frozen=True)
class SimulatedPatient:
    """One patient's series in scan geometry: slices from feet to head, rows from front to back."""

    magnitude: np.ndarray
    """uint16 [slices, rows, columns], arbitrary units as on a scanner."""
    findings: tuple[Finding, ...]
    pixel_spacing_mm: float
    slice_thickness_mm: float
    phase: np.ndarray | None = None
    """int16 [slices, rows, columns], filtered phase in mrad; None where the simulation has no phase."""
    slice_spacing_mm: float | None = None
    """Distance between slice centres; None where it is the thickness. Half the thickness where slices overlap."""
    orientation: tuple[float, float, float, float, float, float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    """Directions of rows and columns in the patient (DICOM ImageOrientationPatient): a few degrees off axial."""
    invisible_microbleeds: int = 0
    """Microbleeds that are in the simulation, but not dark enough anywhere to be labelled."""
