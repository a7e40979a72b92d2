"""Kind of a DICOM image by its header, such as magnitude, phase or map.

An image is a magnitude if its header says so or names no other kind. The kind is "unclear", and the user decides, if
the third or a later value of ImageType is unknown, or if a derived image does not say what it shows.
"""

import re

import numpy as np
from pydicom import Dataset

MAGNITUDE, UNCLEAR, LOCALIZER, MOSAIC, OTHER = "magnitude", "unclear", "localizer", "mosaic", "other"
GE_RAW_DATA_TYPE = (0x0043, "GEMS_PARM_01", 0x2F)
SLICES_IN_MOSAIC = (0x0019, "SIEMENS MR HEADER", 0x0A)
GE_COMPONENTS = {"0": "MAGNITUDE", "1": "PHASE", "2": "REAL", "3": "IMAGINARY"}
WORDS = {
    MAGNITUDE: ("M", "MAG", "MAGNITUDE", "SWI", "SWAN", "SWIP"),
    "phase": ("P", "PHASE", "PHA", "PHASE MAP", "PHASEMAP"),
    "real": ("R", "REAL"),
    "imaginary": ("I", "IMAGINARY"),
    "projection": ("MIP", "MNIP", "MINIP", "MIN_IP", "MAX_IP", "MIN IP", "MAX IP", "PROJECTION", "PROJECTION IMAGE"),
    MOSAIC: ("MOSAIC",),
    "map": (
        *("MAP", "MAPS", "QMAP", "QSM", "CHI", "SUSCEPTIBILITY", "R1", "R2", "R2S", "R2*", "R2STAR", "B0", "B1"),
        *("FIELD", "ADC", "EADC", "FA", "TRACE", "TRACEW", "ISODWI", "TENSOR", "CBF", "RCBF", "RELCBF", "CBV"),
        *("RCBV", "RELCBV", "MTT", "RELMTT", "TTP", "TMAX", "PBP", "GBP", "OEF", "FF", "PDFF", "VELOCITY"),
        *("TEMPERATURE", "QUANTITY", "SUB", "SUBTRACTION", "TTEST", "STDDEV", "STD_DEVIATION", "DIVISION"),
        *("MULTIPLICATION", "ERROR", "MASK"),
    ),
}
"""Kind -> its words in ImageType and similar attributes: whole values, or parts between "_" (Philips: SW_P_FFE)."""
KIND_OF_WORD = {word: kind for kind, words in WORDS.items() for word in words}
SAYS_NOTHING = {
    *("OTHER", "NONE", "UNSPECIFIED", "ND", "NORM", "DIS2D", "DIS3D", "DFC", "MFSPLIT", "MOCO", "ORIG", "NOT"),
    *("FFE", "TFE", "SE", "TSE", "IR", "GR", "GRE", "GE", "EPI", "SW", "PCA", "T1", "T2", "T2*", "STAR"),
    *("T2STAR", "PROTON", "DENSITY", "VOLUME", "STATIC", "MULTIECHO", "PARALLEL", "TOF", "ADDITION", "MEAN"),
    *("SUM", "MSUM", "RESAMPLED", "COMBINED", "COMPOSED", "AXIAL", "TRA", "SAG", "COR", "FILTERED", "WATER"),
    *("SQR", "DRB", "DRS"),
}
"""Words about acquisition, filters and corrections; they do not tell whether an image is a magnitude."""
FILTER = re.compile(r"(FIL|FM|FS|SH|TE|E|ECHO)?\d*")
"""Siemens filters (FM3_2 has the parts FM3 and 2) and echo numbers."""
OF_DESCRIPTIONS = {
    *("PHASE", "PHA", "PHASEMAP", "MAP", "QMAP", "QSM", "R2*", "R2STAR", "FIELDMAP"),
    *("B0MAP", "ADC", "EADC", "TRACE", "TRACEW", "CBF", "CBV", "MTT", "TTP", "TMAX"),
    *("T2MAP", "T2*MAP", "T2STARMAP"),
}
"""Words of a SeriesDescription that name a kind. FA is not listed, because it may be the flip angle."""
OF_DERIVED = {"R2", "R2S", "MASK"}
"""Words that name a kind only for a derived image; otherwise R2 may be an acceleration factor."""
PROJECTION = re.compile(
    r"(?P<beside>([+&,]|\b(AND|WITH|W/)) *)?((MN?|M(IN|AX)[ _-]?)IPS?(?![A-Z])|INTENSITY[ _-]PROJ)"
)
"""SeriesDescription of a projection. If `beside` matches ("+ MIP"), it may also be the scan itself."""
SCOUTS = {"LOCALIZER", "LOCALISER", "SCOUT", "SURVEY"}
SUSCEPTIBILITY = re.compile(r"\b(E?SWAN|SWI\w*|T2\*|T2_?STAR|VEN_?BOLD|GRE|HEMO\w*|FFE|MEDIC|MERGE)(?![A-Z])")
"""Names of susceptibility-weighted magnitudes in a SeriesDescription."""
NO_UNITS = re.compile(r"|1|US|\{.*|.*(UNITLESS|NO UNITS|NORMALI[SZ]ED|SIGNAL|INTENSITY|ARB).*")
"""Values of RescaleType and unit codes that mean no unit, as in a magnitude."""


def kind_of(header: Dataset, image_type: tuple[str, ...]) -> str:
    """Kind of one frame by its header and its FrameType or ImageType in capitals; see `SeriesHeaders.kind`."""
    if "LOCALIZER" in image_type:
        return LOCALIZER
    if (modality := _text(header, "Modality")) != "MR":
        return modality or OTHER
    if _private(header, SLICES_IN_MOSAIC) not in ("", "None", "0", "1"):
        return MOSAIC
    said = [_text(header, "ComplexImageComponent"), *image_type[2:]]
    said.append(_text(header, "VolumeBasedCalculationTechnique"))
    said.append(GE_COMPONENTS.get(_private(header, GE_RAW_DATA_TYPE), ""))
    kinds = {kind for value in said if value for kind in kinds_of(value)}
    against = kinds - {MAGNITUDE, UNCLEAR}
    if against:
        return against.pop() if len(against) == 1 else OTHER
    is_unclear = UNCLEAR in kinds and MAGNITUDE not in kinds  # M means magnitude, despite other words
    if is_unclear or not all(map(NO_UNITS.fullmatch, _units(header))):
        return UNCLEAR
    is_derived = "DERIVED" in image_type[:1]
    if is_derived and "MPR" in image_type:  # a reformatted image may be a mean over many slices
        return UNCLEAR
    return by_description(_text(header, "SeriesDescription"), MAGNITUDE in kinds, is_derived)


def kinds_of(value: str) -> set[str]:
    """Kinds named by one value of ImageType; if the whole value is unknown, the kinds named by its parts."""
    if value in KIND_OF_WORD:
        return {KIND_OF_WORD[value]}
    kinds = set()
    for part in re.split(r"[_ ]+", value):
        known = part in SAYS_NOTHING or part == "MPR" or FILTER.fullmatch(part)
        is_map = part.endswith("MAP")
        kinds |= set() if known else {KIND_OF_WORD.get(part, "map" if is_map else UNCLEAR)}
    return kinds


def by_description(description: str, says_magnitude: bool, is_derived: bool) -> str:
    """Kind by SeriesDescription, if the header names no kind other than magnitude. The description of original images
    may name the purpose of the scan (QSM), so the other header fields count more for them."""
    words = re.findall(r"[A-Z0-9*]+", description)
    if SCOUTS.intersection(words):
        return LOCALIZER
    projection = PROJECTION.search(description)
    if projection and (is_derived or not (says_magnitude and projection["beside"])):
        return "projection"  # made from magnitudes, so ImageType may still say M
    counted = OF_DESCRIPTIONS | OF_DERIVED if is_derived and not says_magnitude else OF_DESCRIPTIONS
    against = next((KIND_OF_WORD.get(word, "map") for word in words if word in counted), None)
    if against and not says_magnitude:
        return UNCLEAR if against == "map" and not is_derived else against
    if is_derived and (against or not (says_magnitude or SUSCEPTIBILITY.search(description))):
        return UNCLEAR
    return MAGNITUDE


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip().upper()


def _units(header: Dataset) -> list[str]:
    mapping = (header.get("RealWorldValueMappingSequence") or [header])[0]  # `frame_header` merged its items
    codes = mapping.get("MeasurementUnitsCodeSequence") or []
    return [_text(header, "RescaleType"), *(_text(code, "CodeValue") for code in codes)]


def _private(header: Dataset, tag: tuple[int, str, int]) -> str:
    """The first value of a private element as text; "" if the header has no such element."""
    group, creator, element = tag
    if creator not in header.private_creators(group) or element not in (
        block := header.private_block(group, creator)
    ):
        return ""
    return str(np.ravel(block[element].value)[0])
