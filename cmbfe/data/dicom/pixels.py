"""Check and decode the pixel data of one DICOM file."""

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.encaps import parse_fragments
from pydicom.filereader import read_partial
from pydicom.pixels import apply_modality_lut, get_decoder, iter_pixels
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cmbfe.errors import InputError

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float Pixel Data, Double Float Pixel Data, Pixel Data."""
UNDEFINED_LENGTH = 0xFFFFFFFF
FRAME_MACROS = (
    *("MRImageFrameTypeSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    *("PixelValueTransformationSequence", "MREchoSequence", "MRTimingAndRelatedParametersSequence"),
    *("MRDiffusionSequence", "FrameContentSequence", "RealWorldValueMappingSequence"),
)
"""Functional groups of multi-frame MR (DICOM PS3.3 C.7.6.16) that describe a single frame."""
ATTRIBUTE = "BurnedInAnnotation"
StopWhen = Callable[[BaseTag, str | None, int], bool]
_ONE_THREAD = threading.RLock()
"""Lock for the warning filters, which all threads of the process share."""


@contextmanager
def input_errors(path: Path, what: str) -> Iterator[None]:
    """Turn a library's exception about a broken file into an `InputError` of one line, which names `path` and says what
    failed. Warnings within the block are dropped."""
    try:
        with _ONE_THREAD, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or one_line(error)}; make it readable") from None
    # pydicom and its decoders raise nearly every built-in exception on damaged bytes.
    except Exception as error:
        raise InputError(f"{path}: {what}: {one_line(error)}; get it again") from None


def one_line(error: Exception) -> str:
    """The text of an exception in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def parse(file: BinaryIO, stop_when: StopWhen, tags: Sequence[int] | None = None) -> FileDataset:
    """Parse the header of an open file, with or without preamble; sets the transfer syntax if it is absent."""
    header = read_partial(file, stop_when=stop_when, force=True, specific_tags=list(tags) if tags else None)
    if "TransferSyntaxUID" not in header.file_meta:
        is_implicit, is_little_endian = header.original_encoding
        explicit = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    return header


def check_all_there(path: Path, file: BinaryIO, header: Dataset, offset: int, length: int) -> None:
    """Raise `InputError` if `length` bytes of pixel data at `offset` are cut off, too few, or not decodable here.
    Uncompressed data must fit the size of the matrix; the last fragment of compressed data must end in the file."""
    syntax = UID(header.file_meta.TransferSyntaxUID)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise InputError(f"{path}: unknown transfer syntax {syntax}; export it again, uncompressed")
    if not _is_decodable(syntax):
        raise InputError(f"{path}: compressed as {syntax.name}, which cannot be decoded here; export it uncompressed")
    size = os.fstat(file.fileno()).st_size
    there = size - offset
    if length == UNDEFINED_LENGTH and syntax.is_encapsulated:
        _check_fragments(path, file, offset, size)
        return
    # Inside a deflated file offsets are meaningless; zlib itself detects a truncated file.
    if syntax != DeflatedExplicitVRLittleEndian and length > there:
        raise InputError(f"{path}: truncated: {there} of {length} bytes of pixel data are there; copy it again")
    frames = number_of_frames(header)
    expected = ceil(header.Rows * header.Columns * frames * header.BitsAllocated / 8)
    if not syntax.is_encapsulated and length < expected:
        raise InputError(f"{path}: pixel data too short: {length} bytes, of {expected} for its matrix; copy it again")


def number_of_frames(header: Dataset) -> int:
    """Number of frames in the header; 1 if the header says 0 or gives no number."""
    return int(header.get("NumberOfFrames") or 1)


def _is_decodable(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _check_fragments(path: Path, file: BinaryIO, offset: int, size: int) -> None:
    file.seek(offset)
    _, starts = parse_fragments(file)
    if len(starts) < 2:  # the first item is the table of offsets
        raise InputError(f"{path}: truncated: no compressed pixel data; copy it again")
    file.seek(starts[-1] + 4)
    beyond = starts[-1] + 8 + int.from_bytes(file.read(4), "little") - size
    if beyond > 0:
        raise InputError(f"{path}: truncated: compressed pixel data end {beyond} bytes after the file; copy it again")


def frame_header(header: Dataset, frame: int) -> Dataset:
    """Attributes of one frame as a flat dataset: from the file, and from its shared and per-frame functional groups."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        return header
    flat = Dataset()
    flat.update({element.tag: element for element in header if element.VR != "SQ"})
    flat.set_original_encoding(*header.original_encoding)
    own = header.PerFrameFunctionalGroupsSequence[frame]
    for groups in (*header.get("SharedFunctionalGroupsSequence", []), own):
        for macro in FRAME_MACROS:
            flat.update(groups[macro].value[0] if groups.get(macro) else {})
    return flat


def read_frames(path: Path, frames: Sequence[int]) -> np.ndarray:
    """Decode `frames` (0-based) of a greyscale file as float32 [frames, rows, columns], modality LUT applied, NaN for
    padding. Raises `InputError` if the file cannot be decoded or holds values that are not finite."""
    with input_errors(path, "pixel data cannot be decoded"):
        with path.open("rb") as file:
            header = parse(file, _after_pixels())
        _refuse_more_bits(path, header, frames)
        decoded = zip(iter_pixels(header, indices=frames), frames, strict=True)
        pairs = [
            (_modality_values(image, frame_header(header, frame)), _is_padding(image, header))
            for image, frame in decoded
        ]
        images, padding = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    if not np.isfinite(images).all():
        raise InputError(f"{path}: pixel values are not finite after the modality LUT; check RescaleSlope")
    images[padding] = np.nan
    return images


def _refuse_more_bits(path: Path, header: FileDataset, frames: Sequence[int]) -> None:
    """Raise `InputError` if uncompressed unsigned values use more bits than BitsStored: pydicom drops such bits, and
    bright becomes dark. Extra bits are allowed if they are constant or hold overlays."""
    stored = header.get("BitsStored") or header.BitsAllocated
    if (
        stored == header.BitsAllocated
        or header.PixelRepresentation
        or header.file_meta.TransferSyntaxUID.is_encapsulated
    ):
        return
    overlays = (header.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2))  # OverlayBitPosition
    words = iter_pixels(header, indices=frames, raw=True, correct_unused_bits=False)
    if not any(bit and bit.value for bit in overlays) and any(np.ptp(image >> stored) > 0 for image in words):
        raise InputError(f"{path}: pixel values have more bits than the {stored} of BitsStored; correct the header")


def _is_padding(stored: np.ndarray, header: Dataset) -> np.ndarray:
    """Mask of the stored values that are PixelPaddingValue, or between PixelPaddingValue and PixelPaddingRangeLimit."""
    value = header.get("PixelPaddingValue")
    if value is None or stored.dtype.kind not in "iu":
        return np.zeros(stored.shape, bool)
    limit = header.get("PixelPaddingRangeLimit")
    limits = np.array([value, value if limit is None else limit], np.int64)
    if stored.itemsize > 1:  # many headers give 63536 for -2000, which has the same bits
        limits = limits.astype(stored.dtype)
    low, high = sorted(limits.tolist())
    return (stored >= low) & (stored <= high)


def _after_pixels() -> StopWhen:
    """Condition that stops the parser after the pixel data, so that trailing bytes are never parsed."""
    seen: list[int] = []

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        stop_here = bool(seen)
        seen.extend(PIXEL_TAGS & {tag})
        return stop_here

    return stop


def _modality_values(image: np.ndarray, header: Dataset) -> np.ndarray:
    # pydicom rescales only if both are present, but some files omit a slope of 1 or an intercept of 0.
    if "RescaleSlope" in header or "RescaleIntercept" in header:
        header.setdefault("RescaleSlope", 1)
        header.setdefault("RescaleIntercept", 0)
    return apply_modality_lut(image, header).astype(np.float32)


class BurnedInAnnotation(InputError):
    """Error for an image whose header declares burned-in text: a patient's name in it would reach every output."""


def refuse_burned_in(files: Iterable[Path]) -> None:
    """Raise `BurnedInAnnotation` if (0028,0301) in a header declares burned-in text, which may name the patient."""
    for path in files:
        with input_errors(path, "damaged DICOM header"), path.open("rb") as file:
            said = str(parse(file, lambda tag, *_: tag in PIXEL_TAGS, [int(Tag(ATTRIBUTE))]).get(ATTRIBUTE) or "")
        if said.strip().upper() == "YES":
            what = f"{ATTRIBUTE} (0028,0301) is YES: text in the image may name the patient"
            raise BurnedInAnnotation(f"{path}: {what}; leave it out, or blank the text and set NO")
