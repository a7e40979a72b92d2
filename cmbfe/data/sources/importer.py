"""From a source to pictures, labels and report: patients in parallel, a killed import goes on, all or nothing to see.

Patients are made in a hidden folder beside the output, `.OUT.import.partial`, each whole or not at all. Only when all
are there does the output appear, and the hidden folder goes. A kill leaves it, and the same command goes on from it. A
patient whose files or settings have changed since is made anew.
"""

import hashlib
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe.data.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE, Labels, write_labels
from cmbfe.data.picture_files import save_picture
from cmbfe.data.pictures import SETTINGS_FILE, _folders, _splits
from cmbfe.data.sources.coco import find_coco
from cmbfe.data.sources.dou import find_dou
from cmbfe.data.sources.identity import Pseudonyms, kept_salt, read_key, refuse_key_file, write_key
from cmbfe.data.sources.momeni import find_momeni
from cmbfe.data.sources.nifti import find_nifti
from cmbfe.data.sources.report import REPORT_FILE, report
from cmbfe.data.sources.series import Found, Series
from cmbfe.data.sources.valdo import find_valdo
from cmbfe.data.sources.voc import find_voc
from cmbfe.data.sources.volumes import AXES
from cmbfe.errors import InputError
from cmbfe.files import read_json, whole_folder, write_json
from cmbfe.parallel import at_work
from cmbfe.params import Pictures

SERIES_FILE = "series.json"
"""Series of the output -> patient, folder, axes, affine and slice spacing: the way from a picture to patient mm."""
PATIENT_FILE = "patient.json"
BOX_MM = 6.0
"""Side of the box around a point: the middle of 2-10 mm, which microbleeds measure on T2*-weighted pictures."""
SMALLEST_SIDE, LARGEST_SIDE = 32, 4096

KINDS: dict[str, Callable[[Path, float], Found]] = {
    "valdo": lambda source, _: find_valdo(source),
    "momeni": find_momeni,
    "dou": find_dou,
    "nifti": find_nifti,
    "coco": lambda source, _: find_coco(source),
    "voc": lambda source, _: find_voc(source),
}
"""What can be imported -> what finds its series in a folder (the second argument: side of the boxes of points, mm)."""


@dataclass(frozen=True)
class Options:
    """What the one who imports may choose."""

    size: int | None = None
    """Side that all pictures are brought to, px; None leaves them as they are. Training takes pictures of one size."""
    box_mm: float = BOX_MM
    """Side of the boxes around points."""
    keep_ids: bool = False
    """Keep the names of patients and series, instead of pseudonyms."""
    key_file: Path | None = None
    """Where to write which pseudonym is whose; its salt is used if it is there already."""


@dataclass(frozen=True)
class Patient:
    """Series of one patient, and where they are made."""

    name: str
    series: tuple[Series, ...]
    folders: tuple[str, ...]
    """A folder of the output for each series."""
    work: Path
    """Folder that holds the finished patient."""


def import_source(
    kind: str,
    source: Path,
    out: Path,
    settings: Pictures,
    seed: int,
    options: Options | None = None,
    jobs: int = -1,
    backend: str = "loky",
    progress: bool = True,
) -> dict[str, Any]:
    """Turn a data set into pictures, annotations.json, series.json, report.json and an empty mimics.json.

    No format names mimics; commands that ask for the file find that there are none.

    All labels and volumes of patients that are not made yet are read and checked before the first picture is made.

    Args:
        kind: one of `KINDS`.
        source: folder or file; what the format's module says.
        seed: of the split by patient, where the source gives none.
        jobs: patients at a time; -1: one per core. They change the time, not the bytes, as does `backend`.
        backend: of joblib, "loky" (processes) or "threading"; or the address of a dask scheduler, such as
            "tcp://host:8786", whose workers see `source` and the folder of `out` under the same paths.

    Returns:
        The content of report.json (`report.report`).

    Raises:
        InputError: impossible options, an `out` that holds something else than an earlier import, bad input of any
            kind; then nothing is left behind.
    """
    options = options or Options()
    _check(options, out)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise InputError(
            f"{out}: lies in the source {source}, and would be read as part of it; give a folder elsewhere"
        )
    key = read_key(options.key_file)
    found = KINDS[kind](source.resolve(), options.box_mm)
    splits = _drawn_splits(found.series, seed)
    inputs = [source, *(file for one in found.series for file in one.files)]
    _tidy(out)
    with at_work(backend, jobs), whole_folder(out, SETTINGS_FILE, inputs=inputs) as temporary, _work(out) as work:
        salt = bytes.fromhex(key["salt"]) if key else None if options.keep_ids else kept_salt(work / "salt.json")
        names = Pseudonyms(salt)
        patients = _patients(found.series, names, work)
        _make(patients, settings, options, progress)
        used = {"pictures": settings.model_dump(mode="json"), "size": options.size, "box_mm": options.box_mm}
        write_json(temporary / SETTINGS_FILE, {"kind": kind, "seed": seed, **used})
        labels, notes = _write_labels(temporary, patients, names, splits, settings.format)
        result = {"kind": kind, **report(labels, found.left_out, notes)}
        write_json(temporary / REPORT_FILE, result)
        if options.key_file:
            write_key(options.key_file, names, [(one.patient, one.name) for one in found.series])
        for patient in patients:  # last, as a patient that has moved is no longer there to go on from
            for folder in patient.folders:
                (patient.work / folder).rename(temporary / folder)
    return result


def _check(options: Options, out: Path) -> None:
    if options.size is not None and not SMALLEST_SIDE <= options.size <= LARGEST_SIDE:
        raise InputError(f"--size {options.size}: pictures are {SMALLEST_SIDE} to {LARGEST_SIDE} px wide")
    if not 0 < options.box_mm <= 100:
        raise InputError(f"--box-mm {options.box_mm}: boxes around points are above 0 and up to 100 mm wide")
    if options.key_file is not None:
        refuse_key_file(options.key_file, out, options.keep_ids)


def _tidy(out: Path) -> None:
    """Remove what a kill during the last step of an earlier import has left beside `out`."""
    out = out.resolve()
    for entry in out.parent.iterdir() if out.parent.is_dir() else []:
        if re.fullmatch(rf"\.{re.escape(out.name)}\.\d+\.partial", entry.name):
            shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def _work(out: Path) -> Iterator[Path]:
    """The folder in which patients wait for the others; it goes when all is done.

    Bad input leaves nothing behind, but for what a killed import had made before.
    """
    out = out.resolve()
    work = out.with_name(f".{out.name}.import.partial")
    is_new = not work.exists()
    work.mkdir(mode=0o700, exist_ok=True)
    try:
        yield work
    except InputError:
        if is_new:
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


def _drawn_splits(all_series: Sequence[Series], seed: int) -> dict[str, str]:
    """Patient, as the source names it -> split: the source's own, else one drawn by patient.

    It is drawn from the source's names: pseudonyms are random, and would give another split each time.
    """
    given: dict[str, str] = {}
    for one in all_series:
        if one.split and given.setdefault(one.patient, one.split) != one.split:
            raise InputError(
                f"patient {one.patient!r} is in the splits {given[one.patient]} and {one.split}; keep one"
            )
    is_labelled = any(one.is_labelled for one in all_series)
    return _splits(sorted({one.patient for one in all_series}), given, is_labelled, seed)


def _patients(all_series: Sequence[Series], names: Pseudonyms, work: Path) -> list[Patient]:
    """Patients by their names in the outputs."""
    by_patient = defaultdict(list)
    for series in all_series:
        by_patient[series.patient].append(series)
    ordered = sorted(by_patient, key=names.patient)
    flat = [
        (patient, series)
        for patient in ordered
        for series in sorted(by_patient[patient], key=lambda one: names.series(patient, one.name))
    ]
    folders = _folders([SimpleNamespace(patient_id=names.patient(patient)) for patient, _ in flat])
    own = _folders([SimpleNamespace(patient_id=names.patient(patient)) for patient in ordered])
    return [
        Patient(
            name=patient,
            series=tuple(series for whose, series in flat if whose == patient),
            folders=tuple(made_in for made_in, (whose, _) in zip(folders, flat, strict=True) if whose == patient),
            work=work / "patients" / folder,
        )
        for patient, folder in zip(ordered, own, strict=True)
    ]


def _made_of(patient: Patient, settings: Pictures, options: Options) -> str:
    """Hash of everything that a patient's pictures depend on."""
    files = [(str(file), *_state(file)) for series in patient.series for file in series.files]
    content = (settings.model_dump(mode="json"), options.size, patient.series, patient.folders, files)
    return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()


def _state(file: Path) -> tuple[int, int]:
    """Size and time of the last change."""
    try:
        state = file.stat()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; get it, or remove what names it") from None
    return state.st_size, state.st_mtime_ns


def _make(patients: Sequence[Patient], settings: Pictures, options: Options, progress: bool) -> None:
    """Check, then write, every patient that is not there yet."""
    hashes = [_made_of(patient, settings, options) for patient in patients]
    missing = [one for one in zip(patients, hashes, strict=True) if not _is_made(*one)]
    steps = {
        "checking": (delayed(_check_patient)(patient, options.size) for patient, _ in missing),
        "correcting bias, writing pictures": (
            delayed(_write_patient)(patient, made_of, settings, options.size) for patient, made_of in missing
        ),
    }
    for step, tasks in steps.items():
        made = Parallel(return_as="generator_unordered")(tasks)
        for _ in tqdm(made, total=len(missing), desc=step, unit="patient", delay=1, disable=not progress):
            pass


def _is_made(patient: Patient, made_of: str) -> bool:
    file = patient.work / PATIENT_FILE
    is_whole = file.exists() and all((patient.work / folder).is_dir() for folder in patient.folders)
    return is_whole and read_json(file)["made_of"] == made_of


def _check_patient(patient: Patient, size: int | None) -> None:
    for series in patient.series:
        series.load(size)


def _write_patient(patient: Patient, made_of: str, settings: Pictures, size: int | None) -> None:
    with whole_folder(patient.work, PATIENT_FILE) as temporary:
        pairs = zip(patient.series, patient.folders, strict=True)
        records = [_write_series(series, temporary / folder, settings, size) for series, folder in pairs]
        write_json(temporary / PATIENT_FILE, {"made_of": made_of, "series": records})


def _write_series(series: Series, out: Path, settings: Pictures, size: int | None) -> dict[str, Any]:
    """Write one series' pictures; its volume is in memory no longer than this takes."""
    loaded = series.load(size)
    names = _picture_names(len(loaded.images), settings.format)
    for name, picture in zip(names, loaded.draw(settings), strict=True):
        save_picture(out / name, picture, settings.jpeg_quality)
    return loaded.record()


def _picture_names(count: int, suffix: str) -> list[str]:
    """Names whose alphabetical order is that of the slices."""
    digits = max(3, len(str(count - 1)))
    return [f"{index:0{digits}d}.{suffix}" for index in range(count)]


def _write_labels(
    out: Path, patients: Sequence[Patient], names: Pseudonyms, splits: Mapping[str, str], suffix: str
) -> tuple[Labels, Counter[str]]:
    """Write labels and places of finished patients; returns the labels, and the notes on all series together."""
    notes: Counter[str] = Counter()
    places: dict[str, dict[str, Any]] = {}
    images, annotations = [], []
    for patient in patients:
        records = read_json(patient.work / PATIENT_FILE)["series"]
        whose = {"patient_id": names.patient(patient.name), "split": splits[patient.name]}
        for series, folder, record in zip(patient.series, patient.folders, records, strict=True):
            uid = names.series(patient.name, series.name)
            notes.update(record["notes"])
            places[uid] = {"patient_id": whose["patient_id"], "folder": folder, "axes": AXES, **record["place"]}
            own = _images(record, folder, suffix, {**whose, "series_uid": uid})
            images += own
            annotations += _annotations(record, folder, own)
    labels = _numbered(images, annotations)
    write_labels(out / LABELS_FILE, labels)
    write_labels(out / MIMICS_FILE, {"images": labels["images"], "annotations": [], "categories": []})
    write_json(out / SERIES_FILE, places)
    return labels, notes


def _images(record: dict[str, Any], folder: str, suffix: str, whose: dict[str, str]) -> list[dict[str, Any]]:
    file_names = _picture_names(len(record["images"]), suffix)
    pairs = zip(file_names, record["images"], strict=True)
    return [{"file_name": f"{folder}/{name}", **whose, **image} for name, image in pairs]


def _annotations(record: dict[str, Any], folder: str, images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "file_name": images[box["picture"]]["file_name"],
            "category_id": CATEGORIES[0]["id"],
            "bbox": box["bbox"],
            "area": box["bbox"][2] * box["bbox"][3],
            "iscrowd": 0,
            "lesion_id": f"{folder}/{box['lesion']}",
            **({"ignore": 1} if box.get("ignore") else {}),
        }
        for box in record["boxes"]
    ]


def _numbered(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Labels:
    """Labels whose pictures are numbered in the order of their paths, as `cmbfe detect` numbers a folder of pictures.

    The detections of a whole import thereby belong to its annotations.json.
    """
    images = sorted(images, key=lambda image: Path(image["file_name"]))
    number = {image["file_name"]: index for index, image in enumerate(images, 1)}
    annotations = sorted(annotations, key=lambda box: number[box["file_name"]])
    return {
        "images": [{"id": index, **image} for index, image in enumerate(images, 1)],
        "annotations": [
            {"id": index, "image_id": number[box.pop("file_name")], **box} for index, box in enumerate(annotations, 1)
        ],
        "categories": CATEGORIES,
    }
