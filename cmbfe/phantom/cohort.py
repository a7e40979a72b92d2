"""A cohort of simulated patients as DICOM series, with labels of their microbleeds and of their mimics."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from joblib import Parallel, delayed, effective_n_jobs
from tqdm import tqdm

from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE, Labels, with_margin, write_labels
from cmbfe.errors import InputError
from cmbfe.files import is_partial, read_json, whole_folder, write_json
from cmbfe.parallel import at_work
from cmbfe.params import Phantom
from cmbfe.phantom.dicom import write_series
from cmbfe.phantom.lesions import Finding
from cmbfe.phantom.looks import darkest_share
from cmbfe.phantom.plan import patient_plan, request_of
from cmbfe.phantom.readers import as_read
from cmbfe.phantom.simulate import SimulatedPatient, simulate_patient

MIMIC_KINDS = ("vein", "calcification", "iron", "flow void")
MIMIC_CATEGORIES = [{"id": number + 1, "name": kind} for number, kind in enumerate(MIMIC_KINDS)]
PATIENT_FILE = "patient.json"


def simulate(plan: Mapping, workers: int = 1) -> SimulatedPatient:
    """Simulate the patient of a plan. The number of `workers` (threads) does not change the result."""
    return simulate_patient(plan["seed"], workers=workers, **request_of(plan))


def _known(finding: Finding, patient: SimulatedPatient) -> dict:
    """A finding for patient.json, with tight boxes [x, y, w, h] px and the contrast on its darkest slice."""
    boxes = {number: [x, y, right - x, end - y] for number, (x, y, right, end) in finding.boxes.items()}
    darkest = min(
        darkest_share(patient.magnitude[number], box, patient.pixel_spacing_mm) for number, box in boxes.items()
    )
    return {**vars(finding), "contrast": 1 - darkest, "boxes": {str(number): box for number, box in boxes.items()}}


def _write_patient(folder: Path, patient_id: str, plan: Mapping, workers: int = 1) -> None:
    """Write one patient's series and patient.json atomically."""
    patient = simulate(plan, workers)
    with whole_folder(folder, PATIENT_FILE) as temporary:
        series_uid, sop_uids = write_series(temporary, patient, patient_id, plan["seed"][0])
        known = {
            "plan": dict(plan),
            "series_uid": series_uid,
            "sop_instance_uids": sop_uids,
            "pixel_spacing_mm": patient.pixel_spacing_mm,
            "findings": [_known(finding, patient) for finding in patient.findings],
        }
        write_json(temporary / PATIENT_FILE, known)


def _is_made(folder: Path, plan: Mapping) -> bool:
    """Whether the folder holds the complete patient of this plan, so that a resumed run can skip it."""
    known = read_json(folder / PATIENT_FILE) if (folder / PATIENT_FILE).is_file() else None
    return isinstance(known, dict) and known.get("plan") == dict(plan)


def _images(patient_id: str, patient: Mapping, first_id: int) -> list[dict]:
    plan = patient["plan"]
    return [
        {
            "id": first_id + index,
            "file_name": f"{patient_id}/slice{index + 1:04d}.dcm",
            "width": plan["matrix_px"],
            "height": plan["matrix_px"],
            "patient_id": patient_id,
            "series_uid": patient["series_uid"],
            "sop_instance_uid": sop_uid,
            "slice_index": index,
            "pixel_spacing_mm": [patient["pixel_spacing_mm"]] * 2,
            "split": plan["split"],
        }
        for index, sop_uid in enumerate(patient["sop_instance_uids"])
    ]


def _annotations(
    patient_id: str, patient: Mapping, images: list[dict], category_ids: Mapping[str, int], margin_mm: float
) -> list[dict]:
    return [
        {
            "image_id": images[int(index)]["id"],
            "category_id": category_ids[finding["kind"]],
            "bbox": (drawn := with_margin(box, margin_mm, images[int(index)])),
            "tight_bbox": box,
            "area": drawn[2] * drawn[3],
            "iscrowd": 0,
            "lesion_id": f"{patient_id}/{finding['finding_id']}",
            "location": finding["location"],
            "true_diameter_mm": finding["true_diameter_mm"],
            "visible_diameter_mm": finding["visible_diameter_mm"],
            "contrast": finding["contrast"],
        }
        for finding in patient["findings"]
        if finding["kind"] in category_ids
        for index, box in sorted(finding["boxes"].items(), key=lambda item: int(item[0]))
    ]


def _labels(patients: Mapping[str, Mapping], categories: list[dict], info: dict) -> Labels:
    category_ids = {category["name"]: category["id"] for category in categories}
    images: list[dict] = []
    annotations: list[dict] = []
    for patient_id, patient in patients.items():
        own = _images(patient_id, patient, len(images) + 1)
        images += own
        annotations += _annotations(patient_id, patient, own, category_ids, info["box_margin_mm"])
    numbered = [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)]
    return {"info": info, "images": images, "annotations": numbered, "categories": categories}


def _is_ours(entry: Path) -> bool:
    is_patient = re.fullmatch(r"P\d{4,}", entry.name) and (entry / PATIENT_FILE).is_file()
    return entry.name in (LABELS_FILE, MIMICS_FILE, ".gitignore") or bool(is_patient) or is_partial(entry)


def missing_patients(out: Path, plans: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """The plans whose patients are not in `out` yet. Nothing is written.

    Raises:
        InputError: `out` is a file, or holds something other than phantom patients.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder")
    foreign = [entry.name for entry in out.iterdir() if not _is_ours(entry)] if out.is_dir() else []
    if foreign:
        raise InputError(f"{out}: holds {min(foreign)!r}, which is no phantom patient; give an empty folder")
    return {name: plan for name, plan in plans.items() if not _is_made(out / name, plan)}


def _make(out: Path, missing: Mapping[str, Mapping], progress: bool) -> None:
    """Simulate patients in parallel. In a small cohort, several threads simulate each patient."""
    workers = max(effective_n_jobs() // max(len(missing), 1), 1)
    tasks = (delayed(_write_patient)(out / name, name, plan, workers) for name, plan in missing.items())
    made = Parallel(return_as="generator_unordered")(tasks)
    for _ in tqdm(made, total=len(missing), desc="simulating patients", unit="patient", disable=not progress):
        pass


def write_cohort(
    out: Path, settings: Phantom, seed: int, jobs: int = -1, progress: bool = True, backend: str = "loky"
) -> Labels:
    """Write a cohort: a folder per patient with its DICOM series, annotations.json and mimics.json.

    A resumed run skips complete patients. Patients made with other settings are simulated again or removed.

    Args:
        jobs: patients simulated at a time; -1: one per core. Neither `jobs` nor `backend` changes the bytes written.
        backend: joblib's "loky" (processes) or "threading", or the address of a dask scheduler, such as
            "tcp://host:8786". Dask workers must see `out` under the same path.

    Returns:
        COCO labels of the microbleeds. `info` holds the margin of the boxes and, with simulated readers, the record of
        `as_read`. Readers do not change mimics.json.

    Raises:
        InputError: `out` is a file or holds something other than phantom patients, or the backend does not exist.
    """
    plans = patient_plan(settings, seed)
    missing = missing_patients(out, plans)
    with at_work(backend, jobs):
        out.mkdir(parents=True, exist_ok=True)
        for entry in out.iterdir():
            if entry.is_dir() and entry.name not in plans:
                shutil.rmtree(entry)
            elif is_partial(entry):
                entry.unlink()
        _make(out.resolve(), missing, progress)
    patients = {name: read_json(out / name / PATIENT_FILE) for name in plans}
    info: dict = {"box_margin_mm": settings.box_margin_mm}
    write_labels(out / MIMICS_FILE, _labels(patients, MIMIC_CATEGORIES, info))
    if settings.readers is not None:
        patients, info["readers"] = as_read(patients, settings.readers, seed)
    labels = _labels(patients, CATEGORIES, info)
    write_labels(out / LABELS_FILE, labels)
    return labels
