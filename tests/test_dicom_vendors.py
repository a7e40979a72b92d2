"""Susceptibility-weighted series with the headers of GE, Siemens and Philips, classic and multi-frame: positions, order
and spacing are those computed by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from dicom_series import mr_slice, write
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import read_volume

COUNT = 5
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Geometry:
    """Where slices lie, worked out on paper: `step` is the spacing times row direction x column direction."""

    orientation: tuple[float, ...]
    first: Vector
    step: Vector
    spacing: float

    def position(self, index: int) -> list[float]:
        return [round(start + index * step, 4) for start, step in zip(self.first, self.step, strict=True)]


GEOMETRIES = {
    # (1, 0, 0) x (0, 1, 0) = (0, 0, 1)
    "axial": Geometry((1, 0, 0, 0, 1, 0), (-119.5, -110.25, -41.0), (0, 0, 1.5), 1.5),
    # (1, 0, 0) x (0, 0.96, 0.28) = (0, -0.28, 0.96)
    "tilted": Geometry((1, 0, 0, 0, 0.96, 0.28), (-119.5, -98.0, -70.5), (0, -0.42, 1.44), 1.5),
    # (0.96, 0.28, 0) x (0, 0, -1) = (-0.28, 0.96, 0)
    "coronal, turned": Geometry((0.96, 0.28, 0, 0, 0, -1), (-100.0, -80.0, 90.0), (-0.56, 1.92, 0), 2.0),
}
Y_TILTED, Z_TILTED = (-98.0, -98.42, -98.84, -99.26, -99.68), (-70.5, -69.06, -67.62, -66.18, -64.74)
X_TURNED, Y_TURNED = (-100.0, -100.56, -101.12, -101.68, -102.24), (-80.0, -78.08, -76.16, -74.24, -72.32)
POSITIONS = {
    "axial": [(-119.5, -110.25, z) for z in (-41.0, -39.5, -38.0, -36.5, -35.0)],
    "tilted": [(-119.5, y, z) for y, z in zip(Y_TILTED, Z_TILTED, strict=True)],
    "coronal, turned": [(x, y, 90.0) for x, y in zip(X_TURNED, Y_TURNED, strict=True)],
}
CLASSIC = {
    "GE SWAN": {
        "Manufacturer": "GE MEDICAL SYSTEMS",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "SeriesDescription": "Ax SWAN",
        "EchoNumbers": 1,
        "PixelPaddingValue": 0,
        "ge": 0,
    },
    "Siemens SWI": {
        "Manufacturer": "SIEMENS",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI", "NORM", "DIS3D"],
        "SeriesDescription": "SWI_Images",
        "EchoNumbers": 1,
        "AcquisitionNumber": 1,
        "SpacingBetweenSlices": None,
    },
    "Philips SWIp": {
        "Manufacturer": "Philips Medical Systems",
        "ImageType": ["ORIGINAL", "PRIMARY", "SW_M_FFE", "SW_M", "FFE"],
        "SeriesDescription": "SWIp",
        "EchoNumbers": 1,
        "TemporalPositionIdentifier": 1,
        "RescaleSlope": "2",
        "RescaleIntercept": "0",
        "RescaleType": "normalized",
    },
}
FILTERED_PHASE = {
    "GE SWAN": {"ge": 1, "SeriesDescription": "FILT_PHA: Ax SWAN"},
    "Siemens SWI": {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]},
    "Philips SWIp": {"ImageType": ["ORIGINAL", "PRIMARY", "SW_P_FFE", "SW_P", "FFE"]},
}
FRAME_TYPE = {
    "GE SWAN": ["ORIGINAL", "PRIMARY", "OTHER", "NONE"],
    "Siemens SWI": ["ORIGINAL", "PRIMARY", "T2_STAR", "NONE"],
    "Philips SWIp": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"],
}
WRITTEN = {"GE SWAN": (0, 1, 2, 3, 4), "Siemens SWI": (4, 3, 2, 1, 0), "Philips SWIp": (3, 0, 4, 1, 2)}
"""The order of slices in the files: from the feet, from the head, in no order."""


def pixels(index: int) -> np.ndarray:
    """Values that tell slices apart, unequal to the padding."""
    return np.full((8, 6), 10 * (index + 1), np.uint16) + np.arange(6, dtype=np.uint16)


def one_slice(attributes: dict[str, object], geometry: Geometry, index: int) -> Dataset:
    own = {"SpacingBetweenSlices": geometry.spacing, **attributes, "SliceThickness": geometry.spacing}
    raw_data_type = own.pop("ge", None)
    image = mr_slice(
        pixels(index),
        geometry.position(index),
        ImageOrientationPatient=list(geometry.orientation),
        InstanceNumber=index + 1,
        **own,
    )
    if raw_data_type is not None:
        image.private_block(0x43, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", raw_data_type)
    return image


def classic(vendor: str, geometry: Geometry) -> list[Dataset]:
    """Magnitude and filtered phase, a file each slice, of one series UID."""
    both = (CLASSIC[vendor], CLASSIC[vendor] | FILTERED_PHASE[vendor])
    return [one_slice(attributes, geometry, index) for attributes in both for index in WRITTEN[vendor]]


def sequence(**attributes: object) -> list[Dataset]:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]


def multi_frame(vendor: str, geometry: Geometry) -> list[Dataset]:
    """One file with magnitude and phase: of Philips in turn, of others one after the other; GE shares the geometry."""
    order = [(index, kind) for kind in ("MAGNITUDE", "PHASE") for index in WRITTEN[vendor]]
    if vendor == "Philips SWIp":
        order = [(index, kind) for index in WRITTEN[vendor] for kind in ("MAGNITUDE", "PHASE")]
    planes = {
        "PlaneOrientationSequence": sequence(ImageOrientationPatient=list(geometry.orientation)),
        "PixelMeasuresSequence": sequence(
            PixelSpacing=[0.5, 0.75], SliceThickness=geometry.spacing, SpacingBetweenSlices=geometry.spacing
        ),
    }
    are_shared = vendor == "GE SWAN"
    frames = [
        sequence(
            PlanePositionSequence=sequence(ImagePositionPatient=geometry.position(index)),
            MRImageFrameTypeSequence=sequence(FrameType=frame_type(vendor, kind), ComplexImageComponent=kind),
            MREchoSequence=sequence(EffectiveEchoTime=45.0),
            PixelValueTransformationSequence=sequence(RescaleSlope="2", RescaleIntercept="0", RescaleType="US"),
            **({} if are_shared else planes),
        )[0]
        for index, kind in order
    ]
    image = mr_slice(
        np.stack([pixels(index) for index, _ in order]),
        SOPClassUID=EnhancedMRImageStorage,
        NumberOfFrames=len(order),
        ImageType=[*FRAME_TYPE[vendor][:3], "MIXED"],
        ComplexImageComponent="MIXED",
        **dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")),
    )
    image.SharedFunctionalGroupsSequence = sequence(**(planes if are_shared else {}))
    image.PerFrameFunctionalGroupsSequence = frames
    return [image]


def frame_type(vendor: str, kind: str) -> list[str]:
    is_philips_phase = kind == "PHASE" and vendor == "Philips SWIp"
    return ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"] if is_philips_phase else FRAME_TYPE[vendor]


@pytest.mark.parametrize("place", GEOMETRIES)
@pytest.mark.parametrize("made", [classic, multi_frame])
@pytest.mark.parametrize("vendor", CLASSIC)
def test_positions_order_and_spacing_are_those_computed_by_hand(tmp_path, vendor, made, place):
    geometry = GEOMETRIES[place]
    images: Sequence[Dataset] = made(vendor, geometry)
    write(tmp_path, images)
    magnitude, phase = find_series(tmp_path)
    assert (magnitude.kind, phase.kind) == ("magnitude", "phase")
    for series in (magnitude, phase):
        np.testing.assert_allclose(series.positions_mm, POSITIONS[place], atol=1e-9)
        assert series.slice_spacing_mm == pytest.approx(geometry.spacing, abs=1e-9)
        assert series.orientation == geometry.orientation
        assert (series.pixel_spacing_mm, series.echo_time_ms, series.notes) == ((0.5, 0.75), 45.0, ())
    slope = 2 if made is multi_frame or vendor == "Philips SWIp" else 1
    np.testing.assert_array_equal(read_volume(magnitude), slope * np.stack([pixels(index) for index in range(COUNT)]))


def test_the_real_series_of_the_three_vendors_are_read_as_magnitude():
    real = Path(__file__).resolve().parents[2] / "shared" / "real"
    if not real.exists():
        pytest.skip("the real series do not lie beside the project")
    kinds = {
        folder: [one.kind for one in find_series(real / folder)] for folder in ("ge_signa_pd", "philips_swi_headers")
    }
    assert kinds == {"ge_signa_pd": ["magnitude"], "philips_swi_headers": ["magnitude", "phase"]}
