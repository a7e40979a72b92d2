"""Findings as DICOM objects for a PACS: a structured report (TID 1500) and a segmentation, made with highdicom. Both
hold the patient's name, id and dates, so they are written on request only. A lesion has the same UID in both."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from highdicom import sr
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from cmbfe import __version__
from cmbfe.data.dicom.pixels import input_errors
from cmbfe.data.dicom.series import SeriesHeaders
from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.findings.lesions import UNKNOWN, Lesion, label_map

MICROBLEED = sr.CodedConcept("cmb", "99CMBFE", "Cerebral microbleed")
"""A private code, because DICOM's context groups have no SNOMED CT code for microbleeds. Viewers show its meaning."""
ABNORMALITY = codes.SCT.MorphologicallyAbnormalStructure
SR_FOLDER, SEGMENTATION_FOLDER = "sr", "segmentation"
MAKER = "cmbfe"
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Type 2 attributes: the standard requires them in a header, but they may be empty."""
REPORT_NUMBER, SEGMENTATION_NUMBER = 9001, 9002
"""Series numbers far above those of scanners."""


class NoObject(InputError):
    """Raised if the headers do not allow a DICOM object. `what` gives the reason without patient names."""

    def __init__(self, headers: SeriesHeaders, what: str) -> None:
        super().__init__(f"{headers.files[0]}: {what}")
        self.what = what


def write_report(
    path: Path,
    headers: SeriesHeaders,
    lesions: Sequence[Lesion],
    detector: str,
    threshold: float,
    readers: Sequence[str] = (),
) -> None:
    """Write the lesions of a series as a DICOM SR (TID 1500), with a TID 1411 group per lesion.

    Boxes are closed polylines; 0 px is the upper left corner of the first pixel. The first group (TID 1501) gives the
    number of lesions, so a series without microbleeds also has a report. `readers` have reviewed the lesions.

    Raises:
        InputError: the series' headers do not allow a report (no StudyInstanceUID, malformed names, …).
    """
    with input_errors(headers.files[0], "no DICOM SR can be made from its header"):
        images = _images(headers, ["StudyInstanceUID"])
        settings = [f"detector={detector}", f"threshold={threshold:g}", *(f"reviewed by {name}" for name in readers)]
        algorithm = sr.AlgorithmIdentification(MAKER, __version__, settings)
        uid = generate_uid(entropy_srcs=[MAKER])
        device = sr.DeviceObserverIdentifyingAttributes(uid, MAKER, model_name=detector)
        observer = sr.ObserverContext(codes.DCM.Device, device)
        count = sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(hd.UID(), "Microbleeds of the series"),
            finding_type=MICROBLEED,
            finding_category=ABNORMALITY,
            algorithm_id=algorithm,
            measurements=[sr.Measurement(codes.SCT.NumberOfLesions, len(lesions), codes.UCUM.NoUnits)],
            source_images=[sr.SourceImageForMeasurementGroup.from_source_image(image) for image in _distinct(images)],
        )
        report = sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer),
            procedure_reported=codes.LN.MRIUnspecifiedBodyRegion,
            imaging_measurements=[count, *(_group(lesion, images, headers.frames, algorithm) for lesion in lesions)],
            title=codes.DCM.ImagingMeasurementReport,
        )
        document = sr.ComprehensiveSR(
            evidence=_distinct(images),
            content=report,
            series_number=REPORT_NUMBER,
            is_complete=True,
            is_final=False,
            **_identity(f"Microbleeds, {'reviewed' if readers else 'detected'}"),
        )
        with whole_file(path) as temporary:
            document.save_as(temporary, enforce_file_format=True)


def write_segmentation(
    path: Path, headers: SeriesHeaders, lesions: Sequence[Lesion], detector: str, readers: Sequence[str] = ()
) -> None:
    """Write the lesions of a series as a binary DICOM segmentation, one segment per lesion: the ellipses in its boxes.

    The segmentation holds only slices with a lesion. Without lesions no file is written, as DICOM has no empty
    segmentation. Lesions that `readers` have reviewed are marked semi-automatic.

    Raises:
        InputError: the series' headers do not allow a segmentation (no FrameOfReferenceUID, …).
    """
    if not lesions:
        return
    with input_errors(headers.files[0], "no DICOM segmentation can be made from its header"):
        sources, frame_of, frames = _segmented(headers, lesions)
        types = hd.seg.SegmentAlgorithmTypeValues
        algorithm = hd.AlgorithmIdentificationSequence(
            name=MAKER, family=codes.DCM.ArtificialIntelligence, version=__version__, source=MAKER
        )
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=label_map(lesions, (frames, headers.rows, headers.columns), frame_of),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                hd.seg.SegmentDescription(
                    segment_number=number,
                    segment_label=_label(lesion),
                    segmented_property_category=ABNORMALITY,
                    segmented_property_type=MICROBLEED,
                    algorithm_type=types.SEMIAUTOMATIC if readers else types.AUTOMATIC,
                    algorithm_identification=algorithm,
                    tracking_uid=lesion.uid,
                    tracking_id=_label(lesion),
                )
                for number, lesion in enumerate(lesions, 1)
            ],
            series_number=SEGMENTATION_NUMBER,
            manufacturer_model_name=detector,
            device_serial_number="0",
            software_versions=__version__,
            content_label="MICROBLEEDS",
            **_identity(f"Microbleeds, ellipses in {'reviewed' if readers else 'detected'} boxes"),
        )
        with whole_file(path) as temporary:
            segmentation.save_as(temporary, enforce_file_format=True)


def _identity(description: str) -> dict[str, Any]:
    new = {"series_instance_uid": hd.UID(), "sop_instance_uid": hd.UID(), "instance_number": 1}
    return {**new, "manufacturer": MAKER, "series_description": description}


def _images(headers: SeriesHeaders, needed: Sequence[str]) -> list[Dataset]:
    """The header of each slice's file, without pixels; slices of a multi-frame file share a header. Raises `NoObject`
    if a `needed` attribute is missing, empty or differs between files, or if two files have the same SOPInstanceUID."""
    by_path = {path: dcmread(path, stop_before_pixels=True, force=True) for path in dict.fromkeys(headers.files)}
    for image in by_path.values():
        _as_highdicom_reads(image)
        if missing := [keyword for keyword in needed if keyword not in image]:
            raise NoObject(headers, f"the headers have no {missing[0]}")
    for keyword in ("PatientID", *needed):
        if len({image[keyword].value for image in by_path.values()}) > 1:
            raise NoObject(headers, f"its images differ in {keyword}")
    if len(_distinct(by_path.values())) < len(by_path):
        raise NoObject(headers, "its files share a SOPInstanceUID, so that none could be named by it")
    return [by_path[path] for path in headers.files]


def _as_highdicom_reads(image: Dataset) -> None:
    """Bring headers into a form that highdicom accepts."""
    is_multi_frame = "PerFrameFunctionalGroupsSequence" in image
    for keyword in (*MAY_BE_EMPTY, *(() if is_multi_frame else ("SliceThickness",))):  # older files leave them out
        image.setdefault(keyword, None)
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not image.get(keyword, "some"):
            del image[keyword]  # an empty value counts as missing, and is refused
    if not is_multi_frame and int(image.get("NumberOfFrames") or 1) == 1:
        image.pop("NumberOfFrames", None)
    charset = image.get("SpecificCharacterSet", "ISO_IR 100")
    if not charset or (not isinstance(charset, str) and "" in charset):  # an empty first value means ASCII
        image.decode()
        image.SpecificCharacterSet = "ISO_IR 192"


def _distinct(images: Iterable[Dataset]) -> list[Dataset]:
    return list({image.SOPInstanceUID: image for image in images}.values())


def _label(lesion: Lesion) -> str:
    return f"Microbleed {lesion.number}"


def _group(
    lesion: Lesion, images: Sequence[Dataset], frames: Sequence[int], algorithm: sr.AlgorithmIdentification
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """The TID 1411 group of a lesion: its boxes, size and, if known, score in percent (CAD certainty, DCM 111012)."""
    scores = [] if lesion.score is None else [round(100 * lesion.score, 2)]
    certainty = [sr.Measurement(codes.DCM.CertaintyOfFinding, score, codes.UCUM.Percent) for score in scores]
    diameter = sr.Measurement(codes.SCT.Diameter, round(lesion.size_mm, 2), codes.UCUM.Millimeter)
    regions = []
    for index, ((x, y, width, height), _) in sorted(lesion.boxes.items()):
        corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]])
        frame = [frames[index] + 1] if "NumberOfFrames" in images[index] else None
        source = sr.SourceImageForRegion.from_source_image(images[index], referenced_frame_numbers=frame)
        regions.append(sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, corners, source))
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(lesion.uid, _label(lesion)),
        referenced_regions=regions,
        finding_type=MICROBLEED,
        finding_category=ABNORMALITY,
        finding_sites=[_site(lesion)],
        algorithm_id=algorithm,
        measurements=[*certainty, diameter],
    )


def _site(lesion: Lesion) -> sr.FindingSite:
    """The brain as finding site, with region and side if known."""
    if lesion.region == UNKNOWN:
        return sr.FindingSite(codes.SCT.Brain)
    side = codes.SCT.Left if lesion.side == "left" else codes.SCT.Right
    region = sr.CodedConcept(lesion.region, "99CMBFE", f"{lesion.region.capitalize()} (BOMBS)")
    return sr.FindingSite(codes.SCT.Brain, laterality=side, topographical_modifier=region)


def _segmented(headers: SeriesHeaders, lesions: Sequence[Lesion]) -> tuple[list[Dataset], dict[int, int], int]:
    """Returns the source images of a segmentation, a map from slice index to its frame, and the number of frames. A
    multi-frame file contributes all of its frames in file order, which may differ from the slice order."""
    images = _images(headers, ["StudyInstanceUID", "FrameOfReferenceUID"])
    slices = sorted({index for lesion in lesions for index in lesion.boxes})
    if "NumberOfFrames" not in images[0]:
        return [images[index] for index in slices], {index: frame for frame, index in enumerate(slices)}, len(slices)
    if len(_distinct(images)) > 1:
        raise NoObject(headers, "a series of several multi-frame files cannot be segmented")
    return [images[0]], {index: headers.frames[index] for index in slices}, int(images[0].NumberOfFrames)
