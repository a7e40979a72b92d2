"""`cmbfe detect`: detects in the series of a source, several at a time, and writes one folder atomically. Each series
writes its part of every file below `.parts`. The parts are joined at the end, so any number of series is possible."""

import json
import secrets
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate, count
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe.data.conversion import series_folders
from cmbfe.data.dicom.finding import UNREADABLE
from cmbfe.data.dicom.pixels import BurnedInAnnotation
from cmbfe.data.inventory import DICOM, IMAGE, Aside
from cmbfe.data.labelled.detections import IMAGES_FILE
from cmbfe.data.labelled.labels import CATEGORIES
from cmbfe.data.sources.dicom import DicomSeries
from cmbfe.data.sources.identity import SALT_BYTES, Pseudonyms, read_key, refuse_key_file, write_key
from cmbfe.data.sources.series import Series
from cmbfe.data.sources.writing import SERIES_FILE
from cmbfe.errors import InputError
from cmbfe.files import read_json, resolved, whole_file, whole_folder, write_json
from cmbfe.findings.analysis import IMAGES, OVERLAYS, Findings, Task, analyse
from cmbfe.findings.bids import refuse_shared, write_description, write_series
from cmbfe.findings.dicom_objects import SEGMENTATION_FOLDER, SR_FOLDER, NoObject, write_report, write_segmentation
from cmbfe.findings.lesions import (
    REVIEWED_FILE,
    Lesion,
    as_json,
    detections_table,
    lesions_table,
    pattern,
    region_counts,
    regions_table,
)
from cmbfe.findings.model import Detector
from cmbfe.findings.page import feature_maps_png, section, write_page
from cmbfe.findings.search import Search, find
from cmbfe.parallel import at_work, check_backend
from cmbfe.params import Images

DETECTIONS_FILE = "detections.json"
TABLE_FILE, LESIONS_FILE, SUMMARY_FILE = "detections.csv", "lesions.csv", "summary.json"
REGIONS_FILE = "regions.csv"
BURNED_IN = "burned-in annotation is flagged in the header"
WITHOUT_ID = "These series have no PatientID: they may be of several people."
PAGES, FEATURE_MAPS = "pages", "feature_maps"
PARTS, PAGE_FILE = ".parts", "page.html"


@dataclass(frozen=True)
class Options:
    """Options of a detection."""

    threshold: float = 0.5
    """Detections of at least this score are drawn and form lesions; detections.json and .csv hold all detections."""
    threshold_from: str = "given"
    sr: bool = False
    segmentation: bool = False
    explain: bool = False
    """Draw the feature maps of slices with detections."""
    keep_ids: bool = False
    key_file: Path | None = None
    """File that maps pseudonyms to ids; if it already exists, its salt is used."""
    as_magnitude: bool = False
    """Also accept series as magnitude if their header, name or values do not say so."""
    by_anatomy: bool = False
    """Strike out lesions that lie outside the brain or run along a vein."""
    bids: bool = False
    """Write a BIDS derivative data set."""


@dataclass(frozen=True)
class Done:
    """The row of a series in summary.json."""

    patient: str
    series: str
    folder: str
    images: int
    detections: int
    shown: int
    """Number of detections that reach the threshold."""
    lesions: int | None
    """Number of lesions that are not struck out."""
    struck_out: dict[str, int]
    """Rule of anatomy -> number of lesions that break it."""
    regions: dict[str, dict[str, int]] | None
    """Region -> side -> number of lesions."""
    pattern: str | None
    scan: dict[str, float]
    """Echo time and field strength, as in `Loaded`."""
    notes: tuple[str, ...]
    """Assumptions about the series, one sentence each."""


class Result(NamedTuple):
    """The results of all series."""

    done: list[Done]
    left_out: list[Aside]
    """All other series and files in the source, with the reason."""


def detect_files(
    source: Path,
    open_detector: Callable[[], Detector],
    out: Path,
    settings: Images,
    options: Options | None = None,
    jobs: int = 1,
    backend: str = "loky",
    inputs: Sequence[Path] = (),
) -> Result:
    """Detect microbleeds in DICOM, NIfTI or images. docs/detect.md lists the files that are written.

    Unreadable DICOM and NIfTI series are left out and named in the result. An unreadable image is an error.

    Args:
        open_detector: returns the detector; called once here and once per series, see `model.load_detector`.
        settings: how DICOM and NIfTI become images, as in the detector's training.
        jobs: number of series at a time; -1 means one per core.
        backend: joblib's "loky" or "threading", or the address of a dask scheduler whose workers see `source` and the
            folder of `out` under the same paths.
        inputs: the files of the detector; like `source`, they must not lie in `out`.

    Raises:
        InputError: no readable series, options that do not fit the source, or an `out` that is neither empty nor an
            earlier result. In these cases nothing is written.
    """
    options = options or Options()
    check_backend(backend)
    inputs = [source, *inputs]
    for path in (out, *inputs):  # refuses a link to itself before anything else
        resolved(path)
    if options.key_file:
        refuse_key_file(options.key_file, out, options.keep_ids)
    key = read_key(options.key_file)
    detector = open_detector().name  # a faulty model is refused before any scan is read
    with at_work(backend, jobs), whole_folder(out, IMAGES_FILE, inputs) as temporary:
        found = find(source, out, settings.phase, options.as_magnitude)
        left_out = found.asides
        _check(found.kind, options)
        salt = bytes.fromhex(key["salt"]) if key else secrets.token_bytes(SALT_BYTES)
        names = Pseudonyms(None if found.kind == IMAGE or options.keep_ids else salt)
        tasks = _tasks(found, names, options)
        if options.bids:
            refuse_shared([task.patient for task in tasks])
        common = (found.kind, open_detector, settings, options, temporary.resolve())
        results = Parallel(return_as="generator")(delayed(_work_on)(task, *common) for task in tasks)
        done: list[Done] = []
        for result in tqdm(results, total=len(tasks), desc=f"detecting in {source.name}", unit="series", delay=1):
            (left_out if isinstance(result, Aside) else done).append(result)
        if not done:
            lines = [aside.line for aside in left_out if aside.refused]
            more = f" (and {len(lines) - 1} more left out)" if len(lines) > 1 else ""
            raise InputError(lines[0] + more)
        made = {"detector": detector, "threshold": options.threshold, "threshold_from": options.threshold_from}
        made["pictures"] = settings.model_dump(mode="json")
        _join(temporary, found.kind, done, left_out, names, made)
        if options.bids:
            write_description(temporary, [series.patient for series in done], [series.lesions for series in done])
        if options.key_file:
            known = [(each.patient, each.name) for each in found.series]
            known += [(aside.patient_id, aside.series_uid) for aside in left_out]
            write_key(options.key_file, names, [pair for pair in dict.fromkeys(known) if any(pair)])
    return Result(done, left_out)


def in_a_line(result: Result, threshold: float) -> str:
    """The result of all series in one line for the terminal."""
    detections, shown = (sum(getattr(series, name) for series in result.done) for name in ("detections", "shown"))
    lesions = [series.lesions for series in result.done if series.lesions is not None]
    as_lesions = f", which make {sum(lesions)} lesions" if lesions else ""
    refused = sum(aside.refused for aside in result.left_out)
    left_out = f"; {refused} series or files refused" if refused else ""
    of_them = f"{shown} of them with a score of at least {threshold:.4g}"
    return f"{detections} detections, {of_them}{as_lesions}{left_out}"


def _check(kind: str, options: Options) -> None:
    """Raise `InputError` for options that do not fit the kind of source."""
    if options.bids and kind == IMAGE:
        raise InputError("--bids writes where lesions lie: images do not say where they do; leave it out")
    for name, is_wanted in {"--sr": options.sr, "--segmentation": options.segmentation}.items():
        if is_wanted and kind != DICOM:
            raise InputError(f"{name} names the DICOM images of a finding by UID: {kind} have none; leave it out")
    if options.key_file and kind == IMAGE:
        raise InputError("--key-file is for DICOM and NIfTI: images are called by their folders, which are kept")


def _tasks(found: Search, names: Pseudonyms, options: Options) -> list[Task]:
    patients = [names.patient(series.patient) for series in found.series]
    first_ids = accumulate(found.counts, initial=1)
    numbers = defaultdict(partial(count, 1))
    runs = [next(numbers[patient]) for patient in patients]
    each = enumerate(zip(found.series, first_ids, series_folders(patients), patients, runs, strict=False))
    return [
        Task(
            *(series, number, first_id, folder, patient),
            *(names.series(series.patient, series.name), options.keep_ids, run),
        )
        for number, (series, first_id, folder, patient, run) in each
    ]


def _work_on(
    task: Task, kind: str, open_detector: Callable[[], Detector], settings: Images, options: Options, out: Path
) -> Done | Aside:
    """Detect in one series, and write its parts of the results."""
    detector = open_detector()
    try:
        findings = analyse(task, detector, settings, options.threshold, out, options.by_anatomy)
    except InputError as error:
        if kind == IMAGE:
            raise
        for folder in (OVERLAYS, IMAGES):
            shutil.rmtree(out / folder / task.folder, ignore_errors=True)
        what = BURNED_IN if isinstance(error, BurnedInAnnotation) else UNREADABLE
        files = tuple(task.series.files)
        return Aside(files, task.series.patient, task.series.name, what, str(error), refused=True)
    written = write_objects(task.series, task.folder, findings.counted, detector.name, options, out)
    notes = (*findings.notes, *written)
    maps = _draw_maps(findings, detector, out) if options.explain else {}
    if options.bids:
        write_series(out, findings, detector.name)
    _write_parts(out / PARTS / str(task.number), findings, notes, maps)
    lesions = findings.lesions
    return Done(
        patient=task.patient,
        series=task.name,
        folder=task.folder,
        images=len(findings.images),
        detections=len(findings.detections),
        shown=sum(detection["score"] >= options.threshold for detection in findings.detections),
        lesions=None if lesions is None else len(findings.counted),
        struck_out=dict(Counter(lesion.struck_out for lesion in lesions or () if lesion.struck_out)),
        regions=None if lesions is None else region_counts(findings.counted),
        pattern=None if lesions is None else pattern(lesion.region for lesion in findings.counted),
        scan=findings.scan,
        notes=notes,
    )


def write_objects(
    series: Series,
    folder: str,
    lesions: Sequence[Lesion],
    detector: str,
    options: Options,
    out: Path,
    readers: Sequence[str] = (),
) -> list[str]:
    """Write the requested DICOM objects of a series. Returns a note per object that its headers do not allow.
    `readers`: names of the readers who reviewed the lesions."""
    if not isinstance(series, DicomSeries):
        return []
    notes: list[str] = []
    common, file = (series.headers, lesions, detector), f"{folder}.dcm"
    writers = {
        "structured report": partial(write_report, out / SR_FOLDER / file, *common, options.threshold, readers),
        "segmentation": partial(write_segmentation, out / SEGMENTATION_FOLDER / file, *common, readers),
    }
    for (name, write), is_wanted in zip(writers.items(), (options.sr, options.segmentation), strict=True):
        try:
            if is_wanted:
                write()
        except InputError as error:
            why = error.what if isinstance(error, NoObject) else "the headers of its images do not allow one"
            notes.append(f"It has no DICOM {name}: {why}.")
    return notes


def _draw_maps(findings: Findings, detector: Detector, out: Path) -> dict[int, bytes]:
    """Draw the feature maps of each lesion's best slice, or of all shown images of a folder: image id -> PNG."""
    best_slices = {lesion.best_slice for lesion in findings.lesions or []}
    maps = {}
    for image in findings.images:
        is_best = findings.lesions is None or image["slice_index"] in best_slices
        if is_best and image["id"] in findings.shown:
            png = feature_maps_png(detector, *findings.shown[image["id"]])
            with whole_file((out / FEATURE_MAPS / image["file_name"]).with_suffix(".png")) as file:
                file.write_bytes(png)
            maps[image["id"]] = png
    return maps


def _write_parts(folder: Path, findings: Findings, notes: Sequence[str], maps: dict[int, bytes]) -> None:
    folder.mkdir(parents=True)
    lines = (json.dumps(detection, sort_keys=True) for detection in findings.detections)
    (folder / DETECTIONS_FILE).write_text(",\n".join(lines), encoding="utf-8")
    write_json(folder / IMAGES_FILE, findings.images)
    detections_table(findings.images, findings.detections).to_csv(folder / TABLE_FILE, index=False, header=False)
    if findings.lesions is not None:
        lesions_table(findings.images, findings.lesions).to_csv(folder / LESIONS_FILE, index=False, header=False)
        write_json(folder / REVIEWED_FILE, [as_json(findings.task.name, lesion) for lesion in findings.lesions])
        regions_table(findings.images[0], findings.counted).to_csv(folder / REGIONS_FILE, index=False, header=False)
        place = {
            "patient_id": findings.task.patient,
            "folder": findings.task.folder,
            **findings.place,
            **findings.scan,
        }
        write_json(folder / SERIES_FILE, {findings.task.name: place})
    page = section(findings, notes, maps, folder.parent.parent / IMAGES)
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")


def _join(
    out: Path, kind: str, done: Sequence[Done], left_out: Sequence[Aside], names: Pseudonyms, made: dict[str, Any]
) -> None:
    """Join the parts into the results, and remove the parts."""
    parts = sorted((out / PARTS).iterdir(), key=lambda folder: int(folder.name))
    with whole_file(out / DETECTIONS_FILE) as temporary, temporary.open("w", encoding="utf-8") as file:
        before = "[\n"  # as `write_json` writes a list: a line per detection
        for part in parts:
            if text := (part / DETECTIONS_FILE).read_text(encoding="utf-8"):
                file.write(before + text)
                before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")
    images = [image for part in parts for image in read_json(part / IMAGES_FILE)]
    write_json(out / IMAGES_FILE, {"images": images, "annotations": [], "categories": CATEGORIES})
    _join_tables(out / TABLE_FILE, parts, detections_table([], []))
    if kind != IMAGE:
        _join_tables(out / LESIONS_FILE, parts, lesions_table([], []))
        write_json(out / REVIEWED_FILE, [lesion for part in parts for lesion in read_json(part / REVIEWED_FILE)])
        write_json(out / SERIES_FILE, {k: v for part in parts for k, v in read_json(part / SERIES_FILE).items()})
        _join_tables(out / REGIONS_FILE, parts, regions_table(None, []))
    missing = [  # without paths, which may name patients
        {
            "patient": names.patient(aside.patient_id) if aside.patient_id else "",
            "series": names.series(aside.patient_id, aside.series_uid) if aside.series_uid else "",
            "why": aside.what,
            "files": len(set(aside.files)),
            "refused": aside.refused,
        }
        for aside in left_out
    ]
    of_patient = defaultdict(list)
    for series, part in zip(done, parts, strict=True):
        of_patient[series.patient].append(part)
    _write_pages(out / PAGES, of_patient, missing, names.patient(""), made)
    rows = [asdict(series) for series in done]
    for row in rows:
        row["pictures"] = row.pop("images")  # key of the file format
    write_json(out / SUMMARY_FILE, {**made, "series": rows, "left_out": missing})
    shutil.rmtree(out / PARTS)


def _join_tables(path: Path, parts: Sequence[Path], empty: pd.DataFrame) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        empty.to_csv(file, index=False)
        for part in parts:
            file.write((part / path.name).read_text(encoding="utf-8"))


def _write_pages(
    folder: Path, parts: dict[str, list[Path]], left_out: list[dict[str, Any]], without_id: str, made: dict[str, Any]
) -> None:
    """Write a page per patient of `parts`. `without_id`: the patient's name in the outputs if there is no PatientID."""
    of_patient = defaultdict(list)
    for entry in left_out:
        of_patient[(entry["patient"] or without_id) if entry["series"] else None].append(entry)
    unknown = of_patient.pop(None, [])
    on_all = [f"Left out, of no known patient: {_counted(entry)}." for entry in unknown]
    if others := sum(len(entries) for patient, entries in of_patient.items() if patient not in parts):
        on_all.append(f"Left out, of other patients: {others} series, see {SUMMARY_FILE}.")
    for (patient, own), file in zip(parts.items(), series_folders(parts), strict=True):
        notes = [WITHOUT_ID] if patient == without_id else []
        notes += [f"Left out: {_counted(entry)}." for entry in of_patient[patient]]
        sections = ((part / PAGE_FILE).read_text(encoding="utf-8") for part in own)
        write_page(folder / f"{file}.html", patient, sections, notes + on_all, **made)


def _counted(entry: dict[str, Any]) -> str:
    return f"{entry['why']} ({entry['files']} file{'s' if entry['files'] != 1 else ''})"
