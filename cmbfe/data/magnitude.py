"""Decide by file name and values whether a volume is a magnitude; other volumes are refused, never clipped at 0.

A few small values below 0 come from interpolation and are clipped to 0. A normalised volume (z-scores, or -1 … 1) is
shifted up. Other volumes with values below 0 (phase, field map, wrapped integers, negative slope) are not magnitudes.
"""

import re
from pathlib import Path

import numpy as np

from cmbfe.errors import InputError

TAKEN = "By name, header or values it is no magnitude, and is taken as one because --as-magnitude says so."
CUT_OFF = "A few small values below 0, as interpolation leaves them, are cut off at 0."
MOVED_UP = "Values below 0 occur: all are moved up, so that the lowest is 0."
MOVED_UP_IN_MASK = "Values below 0 occur: all but the background, which has one value, are moved up; the lowest is 0."
PADDING = "The background has one value below 0, and is set to 0."
ANYWAY = "give the magnitude, or take it as one with --as-magnitude"
NAMES = {
    r"phase(diff|map|unwrapped|\d*)|pha|phs|unwrapped": "phase",
    r"real|imag|imaginary": "one part of a complex image",
    r"\w*qsm\w*|\w*map|chi|(local|total)?field|r2star\w*|r2s?|adc|fa|trace|cb[fv]|[tz]stat\d*": "a computed map",
    r"\w*mask|[dp]?seg|segmentation|probseg|labels?|aparc|aseg|rois?|pveseg": "a label",
}
"""Lower-case word of a file name (BIDS, dcm2niix or common usage) -> the kind of volume that it stands for."""
SAY_MAGNITUDE = (["swi"], ["swan"], ["t2starw"], ["t2star"], ["magnitude1"], ["magnitude2"], ["applied"])
"""Last words of a name that mean a magnitude (mask_applied, phase2_swi), unless the name has a word of `MAPS`."""
PROJECTION = re.compile(r"(?<![a-z0-9])(min[ _-]?ip|mips?|mnip)\d*(mm)?(?![a-z0-9])")
"""Names of projections. They are made from magnitudes, so their names may also contain mag or SWI."""
MAPS = re.compile(r"\w*qsm\w*|r2star\w*")
HALF_TURNS = (np.pi, 180.0, 2048.0, 1000 * np.pi, 4096.0)
"""Possible limits of phase values: phase runs from minus to plus one of these numbers."""
SAME_LIMIT = 0.005
"""Relative tolerance when a limit is compared with `HALF_TURNS`: 4095 counts as 4096."""
SAMPLE = 1_000_000
"""Number of evenly spaced voxels that suffice for a histogram."""
BINS, LEAST_BIN, LARGEST_BIN = 16, 0.025, 0.19
"""Number of histogram bins, and range of the share of every bin if values are spread evenly (not a magnitude)."""
FEWEST_VALUES = 1000
"""Fewest voxels for which the spread of values is tested."""
SMALL, SMALL_AND_FEW, FEW = 0.02, 0.35, 0.03
"""Limits of negative values from interpolation: 2 % of the 99th percentile, or 35 % in at most 3 % of the voxels."""
BACKGROUND_SHARE, OUTSTANDING = 0.05, 5
"""A value is a background set on purpose if at least this share of the voxels has it, and if it is at least this many
times as frequent as the next most frequent value."""
LARGEST_GAP = 1.0
"""Largest gap between a normalised background and the values above it, as a multiple of their range."""
LARGEST_MEAN, Z_DEVIATION = 0.2, (0.8, 1.25)
"""Limits of mean and standard deviation of z-scores, which may be clipped at either end."""
LABEL_VALUES, EVEN_SHARE = 16, 0.75
"""Whole numbers are a label if at most 16 are different, or if over 75 % of neighbours in the foreground are equal."""
INVERTED_SHARE = 0.5
"""Bright and dark count as swapped if edges are brighter than the middle by this share of the value range."""


def magnitude_by_name(path: Path) -> str:
    """Why a file name rules out a magnitude, such as "phase, by its name"; "" if it does not."""
    stem = path.name.lower().removesuffix(".gz")
    stem = stem.rsplit(".", 1)[0] if "." in stem else stem
    parts = [part for part in re.split(r"[_ .]+", stem) if not part.startswith(("sub-", "ses-", "task-"))]
    if PROJECTION.search("_".join(parts)):
        return "a projection over slices, by its name"
    parts = [part for part in parts if part.startswith("part-")] or parts  # BIDS names the kind here
    words = [part.rsplit("-", 1)[-1] for part in parts]
    if {"mag", "magnitude"}.intersection(words):
        return ""
    words = list(filter(MAPS.fullmatch, parts)) if words[-1:] in SAY_MAGNITUDE else words
    found = [what for word in words for pattern, what in NAMES.items() if re.fullmatch(pattern, word)]
    found += ["phase"] if words[-1:] == ["ph"] else []
    return f"{found[0]}, by its name" if found else ""


def to_magnitude(voxels: np.ndarray, file: Path, as_magnitude: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert a volume to a magnitude, and return notes on what was changed.

    Args:
        voxels: float32 [slices, rows, columns]; NaN is background.
        file: path to put at the start of error messages.
        as_magnitude: take it as a magnitude without looking at its values.

    Returns:
        The magnitude, 0 and above (unchanged if no value was below 0; NaN becomes 0), and the notes.

    Raises:
        InputError: the volume looks like a label, or not like a magnitude.
    """
    known = voxels[np.isfinite(voxels)]
    background = _background(known)
    own = known[known != background]
    own = own if len(own) else known
    why = _why_none(voxels, own, background)
    if why and not as_magnitude:
        raise InputError(f"{file}: {why}; {ANYWAY}")
    notes = (TAKEN,) if why else ()
    low, whole = own.min(), voxels if known.size == voxels.size else np.nan_to_num(voxels)
    if known.min() >= 0:
        return whole, notes
    if low >= 0 or _is_cut_off(own):
        return whole.clip(min=0), (*notes, PADDING if low >= 0 else CUT_OFF)
    moved = np.where(np.isfinite(voxels) & (voxels != background), voxels - low, np.float32(0))
    return moved, (*notes, MOVED_UP if np.isnan(background) else MOVED_UP_IN_MASK)


def _background(values: np.ndarray) -> float:
    """The value of the background outside the head; NaN if no value stands out."""
    few = _few(values)
    found, counts = np.unique(few, return_counts=True)
    largest = np.sort(counts)[-2:]
    is_alone = len(found) > 1 and largest[-1] >= OUTSTANDING * largest[0]
    return float(found[counts.argmax()]) if is_alone and largest[-1] >= BACKGROUND_SHARE * len(few) else float("nan")


def _few(values: np.ndarray) -> np.ndarray:
    """A sample: every n-th value, where n is an odd number, so that the sample reaches every row and column."""
    return values[:: max(1, values.size // SAMPLE) | 1]


def _why_none(voxels: np.ndarray, own: np.ndarray, background: float) -> str:
    """Why a volume with the foreground values `own` is not a magnitude; "" if it can be converted to a magnitude."""
    low, high, few = float(own.min()), float(own.max()), _few(own)
    values = f"values from {low + 0.0:.6g} to {high + 0.0:.6g}"  # + 0.0: no -0
    if np.ptp(voxels[np.isfinite(voxels)]) > 0 and _is_label(voxels):
        return "whole numbers, the same over whole areas: it looks like a label, not like an image"
    if any(max(abs(high - turn), abs(low + turn)) <= SAME_LIMIT * turn for turn in HALF_TURNS) or _is_even(few):
        return f"{values}, spread as those of phase: it looks like no magnitude"
    is_below = low < 0 and not _is_cut_off(own)
    if is_below and high <= 0:
        return f"{values}, none above 0 (are scl_slope and scl_inter in the header right?)"
    if is_below and (few == np.rint(few)).all():
        return f"{values}, whole numbers below 0: phase, or a wrapped magnitude (uint16 kept as int16?)"
    if np.isnan(background) and _is_inverted(voxels, few):
        return f"{values}, its edges brighter than its middle: bright and dark look swapped (scl_slope below 0?)"
    is_bottom = background < low <= background + LARGEST_GAP * (np.percentile(few, 99) - low)
    if is_below and not is_bottom and not _is_normalised(few):
        return f"{values}, on both sides of 0, and no z-scores: it looks like no magnitude"
    return ""


def _is_label(voxels: np.ndarray) -> bool:
    """Whether a volume looks like a label; some of its slices are tested first."""
    some = voxels[:: max(1, voxels.size // SAMPLE)]
    return _has_even_areas(some) and (len(some) == len(voxels) or _has_even_areas(voxels))


def _has_even_areas(voxels: np.ndarray) -> bool:
    known = voxels[np.isfinite(voxels)]
    if (known != np.rint(known)).any():
        return False
    values, counts = np.unique(known, return_counts=True)
    if len(values) <= LABEL_VALUES:
        return True
    foreground = voxels != values[counts.argmax()]
    pairs = foreground[:, :, 1:] & foreground[:, :, :-1]
    same = voxels[:, :, 1:] == voxels[:, :, :-1]
    return np.count_nonzero(pairs & same) > EVEN_SHARE * np.count_nonzero(pairs)


def _is_even(values: np.ndarray) -> bool:
    """Whether values are spread evenly over their range, like phase in air."""
    if len(values) < FEWEST_VALUES or values.min() == values.max():
        return False
    low, high = float(values.min()), float(values.max())
    shares = np.histogram((values - low) / (high - low), BINS, (0, 1))[0] / len(values)
    return shares.min() >= LEAST_BIN and shares.max() <= LARGEST_BIN


def _is_inverted(voxels: np.ndarray, values: np.ndarray) -> bool:
    """Whether the edges of slices (air) are brighter than the middle."""
    if min(voxels.shape[1:]) < 8:
        return False
    rows, columns = (size // 4 for size in voxels.shape[1:])
    middle = voxels[:, rows:-rows, columns:-columns]
    edges = np.concatenate([voxels[:, [0, -1]].ravel(), voxels[:, :, [0, -1]].ravel()])
    middle, edges = middle[np.isfinite(middle)], edges[np.isfinite(edges)]
    if not len(middle) or not len(edges):
        return False
    low, high = np.percentile(values, (1, 99))
    return bool(np.median(edges) - np.median(middle) > INVERTED_SHARE * (high - low))


def _is_cut_off(values: np.ndarray) -> bool:
    """Whether the values below 0 are few and small enough to be clipped to 0."""
    low, high = float(values.min()), float(np.percentile(values, 99))
    is_few = np.mean(values < -SMALL * high) <= FEW
    return low >= -SMALL * high or bool(is_few and low >= -SMALL_AND_FEW * high)


def _is_normalised(values: np.ndarray) -> bool:
    """Whether a magnitude was normalised: z-scores, or air at the lower end of its values."""
    if abs(values.mean()) <= LARGEST_MEAN and Z_DEVIATION[0] <= values.std() <= Z_DEVIATION[1]:
        return True
    low, high = np.percentile(values, (1, 99))
    at_bottom = np.mean(values < low + 0.1 * (high - low))
    return bool(at_bottom >= 0.1 and values.min() >= low - 0.25 * (high - low))
