"""Find the magnitude volumes (NIfTI) below a folder, in BIDS or in any other layout.

A BIDS volume is sub-X/[ses-Y/]TYPE/sub-X_[…_]SUFFIX.nii.gz. Of these, the magnitudes of T2*-weighted scans are read:

    anat/…_T2starw    anat/…_echo-1_part-mag_MEGRE    swi/…_swi    swi/…_echo-1_part-mag_GRE    (each echo a series)

The phase, if needed, is read from the volume of the same name with part-phase. Splits are read from the column `split`
of participants.tsv beside sub-X, if it exists. For NIfTI volumes outside BIDS, the first folder is the patient.
"""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

from cmbfe.data.inventory import NIFTI, Aside, Inventory
from cmbfe.data.labelled.labels import split_of_patients
from cmbfe.data.magnitude import ANYWAY
from cmbfe.data.sources.opening import files_of
from cmbfe.data.sources.series import Found, VolumeSeries
from cmbfe.data.sources.sidecars import bids_name, stem, why_no_magnitude
from cmbfe.errors import InputError

MAGNITUDES = ("t2starw", "t2star", "megre", "swi", "swan", "gre")
"""Suffixes in lower case. Older data sets use T2star and SWI."""
PARTICIPANTS_FILE = "participants.tsv"
NO_PHASE = "the detector sees the phase as well, and there is none of BIDS (part-phase) beside it"
NO_RAW = {"derivatives", "sourcedata", "code"}
"""Folders of a BIDS data set that may contain copies of its volumes."""
DERIVATIVE = "volumes of BIDS derivatives, source data or code"
TWICE = "its folder holds another volume of this name, with another suffix"


def find_volumes(inventory: Inventory, phase: bool, as_magnitude: bool) -> tuple[list[VolumeSeries], list[Aside]]:
    """The volumes to read, and the files that are not read. `phase`: whether each volume needs its phase."""
    series, asides = [], []
    times = Counter(file.parent / stem(file) for file in {files_of(file)[0] for file in inventory.of(NIFTI)})
    for file in inventory.of(NIFTI):
        first = files_of(file)[0]
        if first != file and first in inventory.kinds:
            continue
        patient, name, its_phase = patient_of(file, inventory), inventory.name(file), _phase_of(file)
        if why := _why_not(file, inventory, as_magnitude):
            what_to_do = "give that folder itself to read them" if why == DERIVATIVE else ANYWAY
            line, is_refused = f"{file}: {why}; {what_to_do}", file == inventory.source
        elif times[file.parent / stem(file)] > 1:
            why, line, is_refused = TWICE, f"{file}: {TWICE}; keep one", True
        elif phase and its_phase is None:
            why, is_refused = NO_PHASE, True
            line = f"{file}: {why}; get it, or give a detector without phase"
        else:
            used = its_phase if phase else None
            series.append(VolumeSeries(patient, name, file, as_magnitude=as_magnitude, phase=used))
            continue
        asides.append(Aside(tuple(files_of(file)), patient, name, why, line, refused=is_refused))
    used_phases = {each.phase for each in series}
    return series, [aside for aside in asides if not used_phases.intersection(aside.files)]


def _why_not(file: Path, inventory: Inventory, as_magnitude: bool) -> str:
    """The reason why a volume is not read; "" if it is read."""
    bids = bids_name(file)
    if bids and NO_RAW.intersection(Path(inventory.name(file)).parts):
        return DERIVATIVE
    if as_magnitude:
        return ""
    if bids and bids.suffix.lower() not in MAGNITUDES:
        return f"{bids.suffix}, by its name in BIDS"
    return why_no_magnitude(file)


def _phase_of(file: Path) -> Path | None:
    phase = file.with_name(file.name.replace("_part-mag_", "_part-phase_"))
    return phase if phase != file and phase.is_file() and bids_name(file) else None


def patient_of(file: Path, inventory: Inventory) -> str:
    """Patient of a volume: sub-X in BIDS, else the first folder below the source, else the file name."""
    if bids := bids_name(file):
        return bids.patient
    path = Path(inventory.name(file))
    return path.parts[0] if len(path.parts) > 1 else stem(path)


def find_bids(inventory: Inventory, phase: bool, as_magnitude: bool) -> Found:
    """Find the volumes of a BIDS data set, which are unlabelled, and the splits in participants.tsv, if any.

    Raises:
        InputError: no volume with a BIDS name, or an invalid participants.tsv.
    """
    found, asides = find_volumes(inventory, phase, as_magnitude)
    series = [each for each in found if bids_name(each.image)]
    if not series:
        refused = [aside.line for aside in asides if aside.refused]
        wanted = "BIDS volume (sub-X/anat/sub-X_T2starw.nii.gz, sub-X/swi/…)"
        raise InputError(refused[0]) if refused else inventory.nothing(wanted)
    table = bids_name(series[0].image).root / PARTICIPANTS_FILE
    splits = _splits(table) if table.is_file() else {}
    missing = len(splits.keys() - {each.patient for each in series})
    split = tuple(replace(each, split=splits.get(each.patient)) for each in series)
    read = (table,) if table.is_file() else ()
    return Found(
        split, read=read, notes={"participants without a volume that is read": missing}, asides=tuple(asides)
    )


def _splits(table: Path) -> dict[str, str | None]:
    """Participant -> split; None for participants without a split."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{table}: not readable as a table: {error}; save it anew with tabs, in UTF-8") from None
    splits: dict[str, str | None] = {}
    for number, row in enumerate(rows, 2):
        split = row.get("split") or None
        if not row.get("participant_id"):
            raise InputError(f"{table}: row {number}: participant_id is missing; add it")
        splits[row["participant_id"]] = None if split == "n/a" else split
    split_of_patients(splits.items(), table)
    return splits
