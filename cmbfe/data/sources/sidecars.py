"""Read information on a NIfTI volume from its BIDS file name and its sidecars (JSON)."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmbfe.data.dicom.kinds import MAGNITUDE, SUSCEPTIBILITY, by_description, kinds_of
from cmbfe.data.dicom.slices import LARGEST_FIELD_T
from cmbfe.data.magnitude import magnitude_by_name
from cmbfe.errors import InputError
from cmbfe.files import read_json

NAME = re.compile(r"(sub-[A-Za-z0-9]+)((?:_[a-z]+-[A-Za-z0-9]+)*)_([A-Za-z0-9]+)")
TYPES = ("anat", "dwi", "fmap", "func", "perf", "swi")
SCAN = {
    "echo_time_ms": ("EchoTime", 1000.0, 1.0),
    "field_strength_t": ("MagneticFieldStrength", 1.0, LARGEST_FIELD_T),
}
"""Scan parameter -> key in a sidecar, factor from the unit there (s, T) to ms or T, and largest plausible value."""
ODD = "A sidecar's {} is no number above 0 and up to {:g}, as its unit in BIDS would have it: it is not taken."
UNUSABLE = "A sidecar is no JSON object with keys such as EchoTime: nothing is taken of it."
CONTRAST = re.compile(r"(T1|T2|PD)W?|FLAIR|DWI|DTI")
HARDLY = "on which microbleeds hardly show: give a susceptibility- or T2*-weighted series"
SPIN_ECHO = f"spin echo, {HARDLY}"


@dataclass(frozen=True)
class BidsName:
    """Parts of the BIDS path of a volume."""

    root: Path
    """Folder of the data set, which contains sub-X."""
    patient: str
    """"sub-X"."""
    entities: frozenset[str]
    """Entities of the name, such as "ses-1" and "echo-2"."""
    suffix: str


def bids_name(path: Path) -> BidsName | None:
    """Parts of the path of a volume; None if folder or name do not follow BIDS."""
    match = NAME.fullmatch(stem(path))
    if not match or path.parent.name not in TYPES:
        return None
    above = path.parent.parent
    root = above.parent.parent if above.name.startswith("ses-") else above.parent
    if path.relative_to(root).parts[0] != match[1]:
        return None
    return BidsName(root, match[1], frozenset(match[2].split("_")[1:]), match[3])


def stem(path: Path) -> str:
    """The name of a volume without .nii.gz or a similar suffix."""
    return re.sub(r"(\.(nii|hdr|img))?(\.gz)?$", "", path.name)


def scan_of(path: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Scan parameters in the sidecars of a volume (see `Loaded.scan`), and notes. Numbers may be text, as MRtrix writes
    them."""
    (known, unusable), scan = read_sidecars(path), {}
    contrast, sequences = contrast_by_name(path), _texts(known, "ScanningSequence", r"[\\_]")
    notes = {UNUSABLE: unusable} if unusable else {}
    notes |= {f"{contrast} by its name, {HARDLY}": 1} if contrast else {}
    notes |= {SPIN_ECHO: 1} if "SE" in sequences and "GR" not in sequences else {}
    for name, (key, unit, largest) in SCAN.items():
        if known.get(key) is None:
            continue
        try:
            value = float(known[key])
        except (TypeError, ValueError):
            value = math.nan
        if 0 < value <= largest:
            scan[name] = round(value * unit, 6)
        else:
            notes[ODD.format(key, largest)] = 1
    return scan, notes


def contrast_by_name(path: Path) -> str:
    """Contrast in a volume's name, such as "T1"; "" if there is none, or if susceptibility is mentioned too."""
    words = re.split(r"[_ .]+", stem(path).upper())
    is_other = not SUSCEPTIBILITY.search(" ".join(words))  # in such a name, T1 is a visit
    return next((word for word in words if is_other and CONTRAST.fullmatch(word)), "")


def why_no_magnitude(path: Path) -> str:
    """The reason in name or sidecar why a volume is no magnitude, or "". Phase is ignored: dcm2niix may misname it."""
    if why := magnitude_by_name(path):
        return why
    known, _ = read_sidecars(path)
    image_type = _texts(known, "ImageType", r"\\")
    kinds = {kind for value in image_type[2:] for kind in kinds_of(value)}
    description = str(known.get("SeriesDescription", "")).upper()
    kinds.add(by_description(description, MAGNITUDE in kinds, "DERIVED" in image_type[:1]))
    return next((f"a {kind}, by its sidecar" for kind in ("projection", "map") if kind in kinds), "")


def _texts(known: dict[str, Any], key: str, between: str) -> list[str]:
    """The values of a key in a sidecar, in upper case. The sidecar holds a list, or a text that `between` splits."""
    said = known.get(key)
    return [str(value).upper() for value in (said if isinstance(said, list) else re.split(between, str(said or "")))]


def read_sidecars(path: Path) -> tuple[dict[str, Any], int]:
    """Merged content of the sidecars of a volume, and the number of unusable sidecars. In BIDS, sidecars of higher
    folders apply if the volume has all their entities; the nearest sidecar has priority."""
    known, unusable = {}, 0
    for file in sidecars(path):
        try:
            content = read_json(file, errors="replace")  # hospital names may be in Latin-1
        except InputError:
            content = None
        known |= content if isinstance(content, dict) else {}
        unusable += not isinstance(content, dict)
    return known, unusable


def sidecars(path: Path) -> Iterator[Path]:
    """The sidecars of a volume, from the folder of the data set down to the volume."""
    own = path.with_name(f"{stem(path)}.json")
    if bids := bids_name(path):
        for folder in [*reversed(path.parent.relative_to(bids.root).parents), path.parent.relative_to(bids.root)]:
            for file in sorted((bids.root / folder).glob(f"*{bids.suffix}.json")):
                *entities, suffix = file.stem.split("_")
                if file != own and suffix == bids.suffix and {*entities} <= {bids.patient, *bids.entities}:
                    yield file
    if own.is_file():
        yield own
