"""Import a source as images, labels and report. An import is parallel over patients, atomic, and resumes after a kill.

Each patient is written atomically to a hidden folder beside the output, `.OUT.import.partial`; the output appears when
all are finished. After a kill, an import makes only patients that are missing, or whose files or settings changed.
"""

import hashlib
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe.data.conversion import series_folders
from cmbfe.data.inventory import Aside, Inventory, take_inventory
from cmbfe.data.labelled.labels import (
    LABELS_FILE,
    MIMICS_FILE,
    UNLABELLED_SPLIT,
    Labels,
    read_labels,
    split_of_patients,
    write_labels,
)
from cmbfe.data.labelled.splits import scaled_counts, split_patients
from cmbfe.data.sources.bids import find_bids
from cmbfe.data.sources.dicom import find_dicom
from cmbfe.data.sources.identity import Pseudonyms, kept_salt, read_key, refuse_key_file, write_key
from cmbfe.data.sources.labelled import find_coco
from cmbfe.data.sources.nifti import checked_side, find_nifti
from cmbfe.data.sources.public import find_dou, find_momeni, find_valdo
from cmbfe.data.sources.report import REPORT_FILE, report
from cmbfe.data.sources.series import Found, Series
from cmbfe.data.sources.voc import find_voc
from cmbfe.data.sources.writing import SERIES_FILE, Patient, check_patient, is_made, write_dataset, write_patient
from cmbfe.errors import InputError
from cmbfe.files import read_json, resolved, whole_folder, write_json
from cmbfe.parallel import at_work, check_backend
from cmbfe.params import Images

BOX_MM = 6.0
"""Side of the box around a point: the middle of the size range of microbleeds on T2*-weighted images, 2-10 mm."""
SETTINGS_FILE = "pictures.json"
"""Settings of the images beside it. A new import may replace only a folder with this file. A folder with
annotations.json may hold labelled DICOM series, which must never be replaced."""
IMPORTED = (LABELS_FILE, MIMICS_FILE, SETTINGS_FILE, REPORT_FILE)
SMALLEST_SIDE, LARGEST_SIDE = 32, 4096
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    UNLABELLED_SPLIT: UNLABELLED_SPLIT,
}
"""Names of splits in sources, in lower case -> our name."""
UNLABELLED = "no labels: nobody has looked for microbleeds, and all is for testing"


@dataclass(frozen=True)
class Options:
    """Options of an import."""

    size: int | None = None
    """Side to which all images are scaled, px; None keeps their size."""
    box_mm: float = BOX_MM
    """Side of the boxes around points."""
    keep_ids: bool = False
    key_file: Path | None = None
    """File that maps pseudonyms to ids; if the file exists, its salt is used."""
    labels: Path | None = None
    """Labels for dicom: COCO file, or folder with Pascal VOC XML; None: the labels beside the series."""
    as_magnitude: bool = False
    """Accept series as magnitude even if header or values do not say so."""


KINDS: dict[str, Callable[[Path, Inventory, Options, Images], Found]] = {
    "dicom": lambda source, inventory, options, settings: find_dicom(
        inventory, options.labels, settings.phase, options.as_magnitude
    ),
    "valdo": lambda _, inventory, *__: find_valdo(inventory),
    "momeni": lambda source, _, options, __: find_momeni(source, options.box_mm),
    "dou": lambda source, _, options, __: find_dou(source, options.box_mm),
    "nifti": lambda source, _, options, __: find_nifti(source, options.box_mm),
    "bids": lambda _, inventory, options, settings: find_bids(inventory, settings.phase, options.as_magnitude),
    "coco": lambda source, *_: find_coco(source),
    "voc": lambda source, *_: find_voc(source),
}
"""Kind of source -> function that finds its series."""


def import_source(
    kind: str,
    source: Path,
    out: Path,
    settings: Images,
    seed: int,
    options: Options | None = None,
    jobs: int = -1,
    backend: str = "loky",
    progress: bool = True,
    name: Callable[[Sequence[Aside]], None] | None = None,
) -> dict[str, Any]:
    """Turn a data set into images, annotations.json, mimics.json, series.json and report.json.

    All labels, and all volumes of unfinished patients, are read and checked before the first image is made.

    Args:
        kind: one of `KINDS`.
        source: folder or file, see the module of the format. A single DICOM file is read without the files beside it.
        seed: for drawing the split by patient, if the source gives no split.
        jobs: patients in parallel; -1: one per core. Neither `jobs` nor `backend` changes the output.
        backend: of joblib, "loky" or "threading"; or the address of a dask scheduler ("tcp://host:8786"), whose
            workers see `source` and the folder of `out` under the same paths.
        name: called with the files that are passed over, before the first image is made.

    Returns:
        The content of report.json (`report.report`).

    Raises:
        InputError: impossible options, an `out` with other content than an import, or bad input of any kind. No files
            are left behind then.
    """
    options = options or Options()
    check_backend(backend)
    _check(kind, source, settings, options, out)
    found, asides = _find(kind, source.resolve(), options, settings)
    if name:
        name(asides)
    inputs = [path for path in (source, options.labels) if path]
    with at_work(backend, jobs):
        return import_found(
            kind, replace(found, asides=tuple(asides)), inputs, out, settings, seed, options, progress
        )


def import_found(
    kind: str,
    found: Found,
    sources: Sequence[Path],
    out: Path,
    settings: Images,
    seed: int,
    options: Options,
    progress: bool = True,
) -> dict[str, Any]:
    """Import series already found, like `import_source`. `sources`: paths read; errors begin with the first path."""
    key = read_key(options.key_file)
    splits = _drawn_splits(found.series, seed, sources[0])
    inputs = [*sources, *(file for series in found.series for file in series.files)]
    _tidy(out)
    with whole_folder(out, SETTINGS_FILE, inputs=inputs) as temporary, _work(out) as work:
        salt = bytes.fromhex(key["salt"]) if key else None if options.keep_ids else kept_salt(work / "salt.json")
        names = Pseudonyms(salt)
        patients = _patients(found.series, names, work)
        _make(patients, settings, options, progress)
        used = {"pictures": settings.model_dump(mode="json"), "size": options.size, "box_mm": options.box_mm}
        write_json(temporary / SETTINGS_FILE, {"kind": kind, "seed": seed, **used})
        labels, notes = write_dataset(temporary, patients, names, splits, settings.format, found.mimic_kinds)
        notes.update(found.notes)
        notes[UNLABELLED] = int(not any(series.is_labelled for series in found.series))
        counts = Counter(aside.what for aside in found.asides for _ in aside.files)
        result = {"kind": kind, **report(labels, {**found.left_out, **counts}, notes)}
        write_json(temporary / REPORT_FILE, result)
        if options.key_file:
            write_key(options.key_file, names, [(series.patient, series.name) for series in found.series])
        for patient in patients:  # last, because a resumed import does not find a patient that has moved
            for folder in patient.folders:
                (patient.work / folder).rename(temporary / folder)
    return result


def import_dicom(
    source: Path, out: Path, settings: Images, seed: int, jobs: int = -1, progress: bool = True
) -> Labels:
    """Import simulated patients with their ids and the `info` of their label files; returns the labels. Raises
    `InputError` like `import_source`."""
    import_source("dicom", source, out, settings, seed, Options(keep_ids=True), jobs, progress=progress)
    for file in (file for name in (LABELS_FILE, MIMICS_FILE) if (file := source / name).is_file()):
        if info := read_json(file).get("info"):
            write_labels(out / file.name, {**read_labels(out / file.name), "info": info})
    return read_labels(out / LABELS_FILE)


def _find(kind: str, source: Path, options: Options, settings: Images) -> tuple[Found, list[Aside]]:
    """The content of a source, and the files that are not read."""
    inventory = take_inventory(source.parent if source.is_file() and kind != "dicom" else source)
    found = KINDS[kind](source, inventory, options, settings)
    if options.as_magnitude and kind != "dicom":
        found = replace(found, series=tuple(replace(series, as_magnitude=True) for series in found.series))
    seen = [*found.read, *(file for of in (*found.series, *found.asides) for file in of.files)]
    return found, [*found.asides, *inventory.others(seen)]


def _check(kind: str, source: Path, settings: Images, options: Options, out: Path) -> None:
    if settings.phase and kind not in ("dicom", "bids"):
        raise InputError(f"images.phase is true, and phase is read of dicom and bids, not of {kind}: set it to false")
    if options.labels is not None and kind != "dicom":
        raise InputError(f"--labels {options.labels}: is for dicom; {kind} has labels of its own")
    if options.as_magnitude and kind in ("coco", "voc"):
        raise InputError(f"--as-magnitude: is for DICOM and NIfTI; images of {kind} are taken as they are")
    if options.size is not None and not SMALLEST_SIDE <= options.size <= LARGEST_SIDE:
        raise InputError(f"--size {options.size}: images are {SMALLEST_SIDE} to {LARGEST_SIDE} px wide")
    checked_side(options.box_mm, "--box-mm")
    if options.key_file is not None:
        refuse_key_file(options.key_file, out, options.keep_ids)
    if source.is_dir() and resolved(out).is_relative_to(resolved(source)):
        raise InputError(f"{out}: lies in the source {source}, and would be read as part of it; give another")


def _tidy(out: Path) -> None:
    """Remove the temporary folders beside `out` of an import that was killed in its last step."""
    out = out.resolve()
    for entry in out.parent.iterdir() if out.parent.is_dir() else []:
        if re.fullmatch(rf"\.{re.escape(out.name)}\.\d+\.partial", entry.name):
            shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def _work(out: Path) -> Iterator[Path]:
    """The folder of finished patients, removed at the end of the import. If the import fails, the folder is removed as
    well, unless an earlier import that was killed had left it."""
    out = out.resolve()
    work = out.with_name(f".{out.name}.import.partial")
    is_new = not work.exists()
    work.mkdir(mode=0o700, exist_ok=True)
    try:
        yield work
    except Exception:
        if is_new:
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


def _drawn_splits(all_series: Sequence[Series], seed: int, source: Path) -> dict[str, str]:
    """Patient id in the source -> split: given by the source, or else drawn in Table 1's proportions. The draw does not
    use pseudonyms, which are random and would give another split each time."""
    given = split_of_patients(((series.patient, _split(series, source)) for series in all_series), source)
    patients = {series.patient for series in all_series}
    labelled = {series.patient for series in all_series if series.is_labelled}
    split = sorted(labelled or patients)
    if given:
        if without := sorted(labelled - given.keys()):
            raise InputError(f"{source}: patient {without[0]!r} has labels but no split, others have; give all one")
        splits = {patient: given.get(patient, UNLABELLED_SPLIT) for patient in split}
    elif len(labelled) >= 3:
        splits = split_patients(split, scaled_counts(len(split)), seed)
    else:
        splits = dict.fromkeys(split, "test")
    return dict.fromkeys(patients, UNLABELLED_SPLIT) | splits


def _split(series: Series, source: Path) -> str | None:
    """The split that the source gives a series; raises `InputError` for a word that is none."""
    split = SPLIT_WORDS.get((series.split or "").casefold())
    if series.split is not None and split is None:
        raise InputError(
            f"{source}: split {series.split!r} of {series.patient!r}: expected train, validation or test"
        )
    return split


def _patients(all_series: Sequence[Series], names: Pseudonyms, work: Path) -> list[Patient]:
    """Patients sorted by output name, each with its series sorted by source name, as in `cmbfe detect`."""
    ordered = sorted(all_series, key=lambda series: (names.patient(series.patient), series.name))
    folders = series_folders(names.patient(series.patient) for series in ordered)
    own = defaultdict(list)
    for number, series in enumerate(ordered):
        own[series.patient].append(number)
    own_folders = series_folders(names.patient(patient) for patient in own)
    return [
        Patient(
            name=patient,
            series=tuple(ordered[number] for number in numbers),
            folders=tuple(folders[number] for number in numbers),
            work=work / "patients" / folder,
        )
        for (patient, numbers), folder in zip(own.items(), own_folders, strict=True)
    ]


def _made_of(patient: Patient, settings: Images, options: Options) -> str:
    """Hash of everything that a patient's images depend on; files count by size and modification time."""
    files = []
    for file in (file for series in patient.series for file in series.files):
        try:
            state = file.stat()
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}; get it, or remove what names it") from None
        files.append((str(file), state.st_size, state.st_mtime_ns))
    content = (settings.model_dump(mode="json"), options.size, patient.series, patient.folders, files)
    return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()


def _make(patients: Sequence[Patient], settings: Images, options: Options, progress: bool) -> None:
    """Check all patients that are not finished, then write them."""
    hashes = [_made_of(patient, settings, options) for patient in patients]
    missing = [pair for pair in zip(patients, hashes, strict=True) if not is_made(*pair)]
    steps = {
        "checking": (delayed(check_patient)(patient, options.size) for patient, _ in missing),
        "correcting bias, writing images": (
            delayed(write_patient)(patient, made_of, settings, options.size) for patient, made_of in missing
        ),
    }
    for step, tasks in steps.items():
        made = Parallel(return_as="generator_unordered")(tasks)
        for _ in tqdm(made, total=len(missing), desc=step, unit="patient", delay=1, disable=not progress):
            pass


def take_import(source: Path, out: Path) -> Labels:
    """Copy the folder of an import to `out`, and return its labels. Raises `InputError` if `source` is no import, if
    images differ in size or have no pixel size, or if a split has no microbleed."""
    if missing := [name for name in IMPORTED if not (source / name).is_file()]:
        raise InputError(f"{source}: no {missing[0]}; data.source in params.yaml names a folder of cmbfe import")
    labels = read_labels(source / LABELS_FILE)
    sizes = Counter((image["width"], image["height"]) for image in labels["images"])
    if len(sizes) > 1:
        raise InputError(f"{source}: images of {len(sizes)} sizes; import again with --size, as training needs one")
    if any("pixel_spacing_mm" not in image for image in labels["images"]):
        raise InputError(f"{source / LABELS_FILE}: images without pixel_spacing_mm; figures need sizes in mm")
    split_of = {image["id"]: image["split"] for image in labels["images"]}
    shown = {split_of[box["image_id"]] for box in labels["annotations"]}
    if empty := [split for split in ("train", "validation", "test") if split not in shown]:
        raise InputError(f"{source}: no microbleed in the split {empty[0]}; give other splits, or another seed")
    own = {*IMPORTED, SERIES_FILE, *(Path(image["file_name"]).parts[0] for image in labels["images"])}
    with whole_folder(out, SETTINGS_FILE, inputs=[source]) as temporary:
        for name in own.intersection(entry.name for entry in source.iterdir()):  # a reviewed import has reports too
            copy = shutil.copytree if (source / name).is_dir() else shutil.copy
            copy(source / name, temporary / name)
    return labels
