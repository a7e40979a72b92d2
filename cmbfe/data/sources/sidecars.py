"""What the name of a BIDS file and the sidecars (JSON) of a NIfTI volume say of it."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmbfe.data.dicom.slices import LARGEST_FIELD_T
from cmbfe.errors import InputError
from cmbfe.files import read_json

NAME = re.compile(r"(sub-[A-Za-z0-9]+)((?:_[a-z]+-[A-Za-z0-9]+)*)_([A-Za-z0-9]+)")
TYPES = ("anat", "dwi", "fmap", "func", "perf", "swi")
SCAN = {
    "echo_time_ms": ("EchoTime", 1000.0, 1.0),
    "field_strength_t": ("MagneticFieldStrength", 1.0, LARGEST_FIELD_T),
}
"""What is said of a scan -> key of a sidecar, its unit (s, T) in ours, and the largest value that it can have."""
ODD = "A sidecar's {} is no number above 0 and up to {:g}, as its unit in BIDS would have it: it is not taken."


@dataclass(frozen=True)
class BidsName:
    """What the path of a volume says."""

    root: Path
    """Of the data set: what holds sub-X."""
    patient: str
    """"sub-X"."""
    entities: frozenset[str]
    """Such as "ses-1", "echo-2"."""
    suffix: str


def bids_name(path: Path) -> BidsName | None:
    """None where a file does not lie and is not called as BIDS has it."""
    match = NAME.fullmatch(stem(path))
    if not match or path.parent.name not in TYPES:
        return None
    above = path.parent.parent
    root = above.parent.parent if above.name.startswith("ses-") else above.parent
    if path.relative_to(root).parts[0] != match[1]:
        return None
    return BidsName(root, match[1], frozenset(match[2].split("_")[1:]), match[3])


def stem(path: Path) -> str:
    """The name of a volume without .nii.gz and its like."""
    return re.sub(r"(\.(nii|hdr|img))?(\.gz)?$", "", path.name)


def scan_of(path: Path) -> tuple[dict[str, float], dict[str, int]]:
    """What the sidecars of a volume say of the scan, as `Loaded.scan` has it, and notes. Raises `InputError` as
    `read_sidecars`. Numbers may be text, as MRtrix writes them."""
    known, scan, notes = read_sidecars(path), {}, {}
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


def read_sidecars(path: Path) -> dict[str, Any]:
    """What the sidecars of a volume say: JSON of its name, and for BIDS those of the folders above with no entity that
    it has not; the nearest wins.

    Raises:
        InputError: a sidecar that is not readable, or is no object.
    """
    known: dict[str, Any] = {}
    for file in sidecars(path):
        content = read_json(file)
        if not isinstance(content, dict):
            raise InputError(f"{file}: not an object with keys such as EchoTime; correct or remove it")
        known |= content
    return known


def sidecars(path: Path) -> Iterator[Path]:
    """From the data set's folder down."""
    own = path.with_name(f"{stem(path)}.json")
    if bids := bids_name(path):
        for folder in [*reversed(path.parent.relative_to(bids.root).parents), path.parent.relative_to(bids.root)]:
            for file in sorted((bids.root / folder).glob(f"*{bids.suffix}.json")):
                *entities, suffix = file.stem.split("_")
                if file != own and suffix == bids.suffix and {*entities} <= {bids.patient, *bids.entities}:
                    yield file
    if own.is_file():
        yield own
