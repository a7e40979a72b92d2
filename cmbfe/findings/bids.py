"""Findings as a BIDS derivative data set: a label map of the lesions of each series, and a table that describes them.

    bids/sub-X/[ses-Y/]anat/sub-X_[ses-Y_]run-1_desc-microbleeds_dseg.nii.gz    .json and .tsv beside it

A subject has the same name as in the other results. With --keep-ids, sessions of a BIDS source keep their names.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from cmbfe import __version__
from cmbfe.data.sources.series import VolumeSeries
from cmbfe.data.sources.sidecars import bids_name
from cmbfe.data.sources.volumes import RAS_TO_LPS
from cmbfe.errors import InputError
from cmbfe.files import write_json
from cmbfe.findings.analysis import Findings, Task
from cmbfe.findings.lesions import label_map

BIDS_FOLDER = "bids"
BIDS_VERSION = "1.10.0"
README = """# Cerebral microbleeds

Found by cmbfe. A detector gives boxes and no outlines: marked is the ellipse inside each box. For research and teaching
only: not a medical device, never for diagnosis.
"""
COLUMNS = {  # BIDS defines the first two: value in the label map, and name
    "index": "",
    "name": "",
    "score": "of the detector, 0 to 1",
    "x_mm": "to the patient's left (DICOM, LPS)",
    "y_mm": "to the back",
    "z_mm": "to the head",
    "size_mm": "square root of the area of its best box",
    "region": "lobar, deep or infratentorial (BOMBS), or unknown",
    "side": "left or right, or unknown",
}
PARTICIPANT_COLUMNS = {
    "participant_id": "subject",
    "series": "how many were looked at",
    "microbleeds": "lesions of all series; one that two series show counts twice",
}


def write_series(out: Path, findings: Findings, detector: str) -> None:
    """Write the label map, sidecar and table of a series whose position in the patient is known."""
    task, image, lesions = findings.task, findings.images[0], findings.counted
    file = out / BIDS_FOLDER / _name(task)
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(findings.images), image["height"], image["width"])
    labels = label_map(lesions, shape, {index: index for index in range(shape[0])})
    volume = nib.Nifti1Image(labels.transpose(2, 1, 0), RAS_TO_LPS @ np.array(findings.place["affine"]))
    volume.header.set_xyzt_units("mm")
    volume.set_qform(volume.affine, "scanner")
    nib.save(volume, f"{file}.nii.gz")
    rows = [
        [
            *(number, f"Microbleed {lesion.number}", round(lesion.score, 4)),
            *(round(length, 2) for length in (*lesion.centre_mm, lesion.size_mm)),
            *(lesion.region, lesion.side),
        ]
        for number, lesion in enumerate(lesions, 1)
    ]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(f"{file}.tsv", sep="\t", index=False)
    said = {"Description": "Cerebral microbleeds as detected", "Manual": False, "SourceSeries": task.name}
    columns = {name: {"Description": text} for name, text in COLUMNS.items() if text}
    write_json(f"{file}.json", {**said, "Detector": detector, "Threshold": findings.threshold, **columns})


def refuse_shared(patients: Sequence[str]) -> None:
    """Raise `InputError` if two patients have the same subject label, because their files would have the same names."""
    of_subject: dict[str, str] = {}
    for patient in patients:
        if (other := of_subject.setdefault(_subject(patient), patient)) != patient:
            both = f"patients {other!r} and {patient!r} would both be {_subject(patient)}"
            raise InputError(f"--bids: {both}; rename one, or leave out --keep-ids")


def _subject(patient: str) -> str:
    """The BIDS label of a patient, which has only ASCII letters and digits."""
    return "sub-" + (re.sub("[^A-Za-z0-9]", "", patient.removeprefix("sub-")) or "unknown")


def _name(task: Task) -> Path:
    """Path of the files of a series below the data set, without suffix."""
    subject, series = _subject(task.patient), task.series
    bids = bids_name(series.image) if task.keep_uids and isinstance(series, VolumeSeries) else None
    session = [entity for entity in bids.entities if entity.startswith("ses-")] if bids else []
    stem = "_".join([subject, *session, f"run-{task.run}", "desc-microbleeds", "dseg"])
    return Path(subject, *session, "anat", stem)


def write_description(out: Path, patients: Sequence[str], lesions: Sequence[int | None]) -> None:
    """Write the description, README and participants of the data set. `patients`, `lesions`: one entry per series."""
    folder = out / BIDS_FOLDER
    description: dict[str, Any] = {"Name": "Cerebral microbleeds", "BIDSVersion": BIDS_VERSION}
    description |= {"DatasetType": "derivative", "GeneratedBy": [{"Name": "cmbfe", "Version": __version__}]}
    write_json(folder / "dataset_description.json", description)
    (folder / "README.md").write_text(README, encoding="utf-8")
    of_subject = defaultdict(list)
    for patient, count in zip(patients, lesions, strict=True):
        of_subject[_subject(patient)].append(count or 0)
    rows = [[subject, len(counts), sum(counts)] for subject, counts in of_subject.items()]
    table = pd.DataFrame(rows, columns=list(PARTICIPANT_COLUMNS))
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    write_json(
        folder / "participants.json", {name: {"Description": text} for name, text in PARTICIPANT_COLUMNS.items()}
    )
