"""Susceptibility-weighted series with the headers of GE, Siemens and Philips, classic and multi-frame: positions, order
and spacing are those computed by hand."""

from typing import NamedTuple

import numpy as np
import pytest
from dicom_series import item, mr_slice, multi_frame, write
from pydicom.dataset import Dataset

from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import read_volume


class Geometry(NamedTuple):
    """Where slices lie, worked out on paper: each a spacing times row direction x column direction from the last."""

    orientation: tuple[float, ...]
    positions: list[tuple[float, float, float]]
    spacing: float


Y_TILTED, Z_TILTED = (-98.0, -98.42, -98.84, -99.26, -99.68), (-70.5, -69.06, -67.62, -66.18, -64.74)
X_TURNED, Y_TURNED = (-100.0, -100.56, -101.12, -101.68, -102.24), (-80.0, -78.08, -76.16, -74.24, -72.32)
AXIAL = [(-119.5, -110.25, z) for z in (-41.0, -39.5, -38.0, -36.5, -35.0)]
TILTED = [(-119.5, y, z) for y, z in zip(Y_TILTED, Z_TILTED, strict=True)]
TURNED = [(x, y, 90.0) for x, y in zip(X_TURNED, Y_TURNED, strict=True)]
GEOMETRIES = {
    # (1, 0, 0) x (0, 1, 0) = (0, 0, 1)
    "axial": Geometry((1, 0, 0, 0, 1, 0), AXIAL, 1.5),
    # (1, 0, 0) x (0, 0.96, 0.28) = (0, -0.28, 0.96)
    "tilted": Geometry((1, 0, 0, 0, 0.96, 0.28), TILTED, 1.5),
    # (0.96, 0.28, 0) x (0, 0, -1) = (-0.28, 0.96, 0)
    "coronal, turned": Geometry((0.96, 0.28, 0, 0, 0, -1), TURNED, 2.0),
}
CLASSIC = {
    "GE SWAN": {
        **{"Manufacturer": "GE MEDICAL SYSTEMS", "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"], "ge": 0},
        **{"SeriesDescription": "Ax SWAN", "EchoNumbers": 1, "PixelPaddingValue": 0},
    },
    "Siemens SWI": {
        **{"Manufacturer": "SIEMENS", "ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI", "NORM", "DIS3D"]},
        **{"SeriesDescription": "SWI_Images", "EchoNumbers": 1, "AcquisitionNumber": 1, "SpacingBetweenSlices": None},
    },
    "Philips SWIp": {
        **{"Manufacturer": "Philips Medical Systems", "SeriesDescription": "SWIp", "EchoNumbers": 1},
        **{"ImageType": ["ORIGINAL", "PRIMARY", "SW_M_FFE", "SW_M", "FFE"], "TemporalPositionIdentifier": 1},
        **{"RescaleSlope": "2", "RescaleIntercept": "0", "RescaleType": "normalized"},
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
    own |= {"ImageOrientationPatient": list(geometry.orientation), "InstanceNumber": index + 1}
    return mr_slice(pixels(index), geometry.positions[index], **own)


def classic(vendor: str, geometry: Geometry) -> list[Dataset]:
    """Magnitude and filtered phase, a file each slice, of one series UID."""
    both = (CLASSIC[vendor], CLASSIC[vendor] | FILTERED_PHASE[vendor])
    return [one_slice(attributes, geometry, index) for attributes in both for index in WRITTEN[vendor]]


def enhanced(vendor: str, geometry: Geometry) -> list[Dataset]:
    """One file with magnitude and phase: of Philips in turn, of others one after the other; GE shares the geometry."""
    order = [(index, kind) for kind in ("MAGNITUDE", "PHASE") for index in WRITTEN[vendor]]
    if vendor == "Philips SWIp":
        order = [(index, kind) for index in WRITTEN[vendor] for kind in ("MAGNITUDE", "PHASE")]
    spacing = {"SliceThickness": geometry.spacing, "SpacingBetweenSlices": geometry.spacing}
    planes = {
        "PlaneOrientationSequence": [item(ImageOrientationPatient=list(geometry.orientation))],
        "PixelMeasuresSequence": [item(PixelSpacing=[0.5, 0.75], **spacing)],
    }
    are_shared = vendor == "GE SWAN"
    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=list(geometry.positions[index]))],
            MRImageFrameTypeSequence=[item(FrameType=frame_type(vendor, kind), ComplexImageComponent=kind)],
            MREchoSequence=[item(EffectiveEchoTime=45.0)],
            PixelValueTransformationSequence=[item(RescaleSlope="2", RescaleIntercept="0", RescaleType="US")],
            **({} if are_shared else planes),
        )
        for index, kind in order
    ]
    mixed = {"ImageType": [*FRAME_TYPE[vendor][:3], "MIXED"], "ComplexImageComponent": "MIXED"}
    volume = np.stack([pixels(index) for index, _ in order])
    return [multi_frame(volume, frames, item(**(planes if are_shared else {})), **mixed)]


def frame_type(vendor: str, kind: str) -> list[str]:
    is_philips_phase = kind == "PHASE" and vendor == "Philips SWIp"
    return ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"] if is_philips_phase else FRAME_TYPE[vendor]


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("made", [classic, enhanced])
@pytest.mark.parametrize("vendor", CLASSIC)
def test_positions_order_and_spacing_are_those_computed_by_hand(tmp_path, vendor, made, geometry):
    write(tmp_path, made(vendor, geometry))
    magnitude, phase = find_series(tmp_path)
    assert (magnitude.kind, phase.kind) == ("magnitude", "phase")
    for series in (magnitude, phase):
        np.testing.assert_allclose(series.positions_mm, geometry.positions, atol=1e-9)
        assert series.slice_spacing_mm == pytest.approx(geometry.spacing, abs=1e-9)
        assert series.orientation == geometry.orientation
        assert (series.pixel_spacing_mm, series.echo_time_ms, series.notes) == ((0.5, 0.75), 45.0, ())
    slope = 2 if made is enhanced or vendor == "Philips SWIp" else 1
    np.testing.assert_array_equal(read_volume(magnitude), slope * np.stack([pixels(index) for index in range(5)]))
