"""DICOM series to 8-bit images with labels: bias correction, one window per series, one file per slice."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe.data.dicom.finding import magnitude_among, refuse_first, series_in
from cmbfe.data.dicom.lookup import SliceLookup
from cmbfe.data.dicom.series import SeriesHeaders, read_volume
from cmbfe.data.inventory import take_inventory
from cmbfe.data.labelled.images import phase_entry, save_image
from cmbfe.data.labelled.labels import (
    CATEGORIES,
    LABELS_FILE,
    MIMICS_FILE,
    UNLABELLED_SPLIT,
    Labels,
    read_labels,
    split_of_patients,
    write_labels,
)
from cmbfe.data.labelled.splits import scaled_counts, split_patients
from cmbfe.data.n4 import correct_bias
from cmbfe.data.phase import phase_images, phase_of
from cmbfe.errors import InputError
from cmbfe.files import whole_folder, write_json
from cmbfe.params import Images

NOTHING_SEEN = "no microbleed could be seen; check slope, padding and data type, or export it again"
FIRST_GREY, LEAST_GREY = 5, 0.02
"""What is darker looks black; the share of what is above 0 that must lie between black and white (255)."""
MOST_CLIPPED, FEWEST_VOXELS = 0.25, 1000
"""Share of the voxels above the lowest that may have the largest value, in volumes of so many voxels."""
SETTINGS_FILE = "pictures.json"
"""How the images beside it were made. Also what an earlier import is recognised by: a folder of labelled DICOM
series holds an annotations.json too, and must never be replaced."""


def to_8_bit(volume: np.ndarray, window_percentiles: Sequence[float]) -> np.ndarray:
    """Map a volume to uint8 by one robust window: the percentiles become 0 and 255 (A17).

    One window for the whole series keeps the slices comparable; percentiles, unlike extremes, do not depend on
    a single bright vessel.

    Raises:
        InputError: a volume without contrast, in which nothing could be seen: of one value, or with nearly all values
            at the two ends of the window. Begin it with the name of the file.
    """
    low, high = np.percentile(volume, window_percentiles)
    if high <= low:
        raise InputError(f"no contrast: {NOTHING_SEEN}")
    images = np.empty(volume.shape, np.uint8)
    counts = np.zeros(256, np.int64)
    for number, values in enumerate(volume):  # by slices: temporaries of a whole volume take twice as long
        images[number] = np.rint((values.clip(low, high) - low) * (255 / (high - low)))
        counts += np.bincount(images[number].ravel(), minlength=256)
    if counts[FIRST_GREY:255].sum() < LEAST_GREY * counts[1:].sum():
        raise InputError(f"no contrast, nearly all is black or white: {NOTHING_SEEN}")
    return images


def refuse_flat(voxels: np.ndarray, file: Path) -> None:
    """Raise `InputError` for a volume of one value, or of which much was clipped to its largest value."""
    low, high = voxels.min(), voxels.max()
    if low == high:
        raise InputError(f"{file}: no contrast: {NOTHING_SEEN}")
    clipped = np.count_nonzero(voxels == high) / np.count_nonzero(voxels > low)
    if clipped > MOST_CLIPPED and voxels.size >= FEWEST_VOXELS:
        what = f"no contrast, {clipped:.0%} of what is not darkest has the largest value"
        raise InputError(f"{file}: {what}: {NOTHING_SEEN}")


def volume_images(voxels: np.ndarray, spacing_mm: Sequence[float], settings: Images, file: Path) -> np.ndarray:
    """A volume as uint8 images: N4, then one window.

    Args:
        voxels: float32 [slices, rows, columns], 0 and above.
        spacing_mm: between slices, rows and columns.
        file: begins the text of errors.

    Raises:
        InputError: as `refuse_flat` and `to_8_bit`.
    """
    refuse_flat(voxels, file)
    corrected = correct_bias(voxels, spacing_mm, **settings.bias_correction.model_dump())
    try:
        return to_8_bit(corrected, settings.window_percentiles)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def series_images(series: SeriesHeaders, settings: Images, phase: SeriesHeaders | None = None) -> np.ndarray:
    """Return a series as the images to label, train on and detect in: uint8 [slices, rows, columns].

    With the series of its phase, uint8 [slices, rows, columns, 2]: magnitude, which is the same, and phase.
    """
    spacing_mm = (series.slice_spacing_mm, *series.pixel_spacing_mm)
    images = volume_images(read_volume(series), spacing_mm, settings, series.files[0])
    return images if phase is None else np.stack([images, phase_images(phase)], axis=-1)


def series_folders(patient_ids: Iterable[str]) -> list[str]:
    """A folder name per series, given its patient's id: that, numbered where several series would have it.

    No two are alike, as those that differ in case only are on some file systems.
    """
    safe = ["".join(c if c.isalnum() or c in "-_" else "_" for c in patient) for patient in patient_ids]
    wanted = [name or "unknown" for name in safe]
    series_with = Counter(name.casefold() for name in wanted)
    taken, numbers = set(series_with), defaultdict(count)
    names = []
    for name in wanted:
        if series_with[own := name.casefold()] > 1:
            name = next(numbered for n in numbers[own] if (numbered := f"{name}-{n + 1}").casefold() not in taken)
            taken.add(name.casefold())
        names.append(name)
    return names


def _write_series(
    out: Path, folder: str, series: SeriesHeaders, phase: SeriesHeaders | None, settings: Images
) -> None:
    for index, image in enumerate(series_images(series, settings, phase)):
        save_image(out / folder / f"{index:03d}.{settings.format}", image, settings.jpeg_quality)


def image_entries(all_series: Sequence[SeriesHeaders], suffix: str, phase: bool = False) -> list[dict]:
    """COCO `images` entries of every slice, numbered from 1 in the order of series and slices."""
    folders = series_folders(series.patient_id for series in all_series)
    slices = [
        (series, folder, index, sop_uid)
        for series, folder in zip(all_series, folders, strict=True)
        for index, sop_uid in enumerate(series.sop_instance_uids)
    ]
    return [
        {
            "id": number,
            "file_name": f"{folder}/{index:03d}.{suffix}",
            "width": series.columns,
            "height": series.rows,
            "patient_id": series.patient_id,
            "series_uid": series.series_uid,
            "sop_instance_uid": sop_uid,
            "slice_index": index,
            "pixel_spacing_mm": list(series.pixel_spacing_mm),
            **phase_entry(f"{folder}/{index:03d}.{suffix}", phase),
        }
        for number, (series, folder, index, sop_uid) in enumerate(slices, 1)
    ]


def splits_of(patients: Sequence[str], given: Mapping[str, str], is_labelled: bool, seed: int) -> dict[str, str]:
    """The labels' own split where they have one, else one drawn by patient in Table 1's proportions."""
    if given:
        return {patient: given.get(patient, UNLABELLED_SPLIT) for patient in patients}
    if not is_labelled or len(patients) < 3:
        return dict.fromkeys(patients, "test")
    return split_patients(patients, scaled_counts(len(patients)), seed)


def _labels_to_write(
    source: Path, all_series: Sequence[SeriesHeaders], settings: Images, seed: int
) -> dict[str, Labels]:
    """File name -> labels of the images: annotations.json always, mimics.json where `source` has one."""
    given = {name: read_labels(source / name) for name in (LABELS_FILE, MIMICS_FILE) if (source / name).exists()}
    images = image_entries(all_series, settings.format, settings.phase)
    lookup, first = SliceLookup(all_series, source), np.cumsum([0, *(len(series.files) for series in all_series)])
    pixels = {
        name: {
            image: images[first[number] + index]
            for image, (number, index) in lookup.of_images(labels, source / name).items()
        }
        for name, labels in given.items()
    }
    is_labelled = LABELS_FILE in given
    slices = given[LABELS_FILE]["images"] if is_labelled else []
    pairs = ((pixels[LABELS_FILE][image["id"]]["patient_id"], image.get("split")) for image in slices)
    known = split_of_patients(pairs, source / LABELS_FILE)
    splits = splits_of(sorted({image["patient_id"] for image in images}), known, is_labelled, seed)
    for image in images:
        image["split"] = splits[image["patient_id"]]
    moved = {LABELS_FILE: {"images": images, "annotations": [], "categories": CATEGORIES}}
    for name, labels in given.items():
        boxes = [{**box, "image_id": pixels[name][box["image_id"]]["id"]} for box in labels["annotations"]]
        known = {"info": labels["info"]} if "info" in labels else {}
        moved[name] = {**known, "images": images, "annotations": boxes, "categories": labels["categories"]}
    return moved


def import_dicom(
    source: Path, out: Path, settings: Images, seed: int, jobs: int = -1, progress: bool = True
) -> Labels:
    """Turn the DICOM series of a folder into images and labels, `out`/annotations.json.

    Labels come from annotations.json in `source` where there is one (COCO; slices as in `SliceLookup`), and mimics from
    mimics.json; both are moved to the images. All is checked before the first image is made; `out` is atomic.

    Raises:
        InputError: bad DICOM, no phase where `settings` ask for it, bad labels, labels of slices that are not there,
            or an `out` that holds something else than an earlier import.
    """
    inventory = take_inventory(source)
    found, asides = series_in(inventory, progress)
    refuse_first(asides)
    all_series = magnitude_among(found, inventory)
    phases = [phase_of(series, found) if settings.phase else None for series in all_series]
    folders = series_folders(series.patient_id for series in all_series)
    to_write = _labels_to_write(source, all_series, settings, seed)
    with whole_folder(out, SETTINGS_FILE, inputs=[source]) as temporary:
        tasks = (
            delayed(_write_series)(temporary, folder, series, phase, settings)
            for folder, series, phase in zip(folders, all_series, phases, strict=True)
        )
        made = Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)
        step = "correcting bias, writing images"
        for _ in tqdm(made, total=len(folders), desc=step, unit="series", disable=not progress):
            pass
        for name, labels in to_write.items():
            write_labels(temporary / name, labels)
        write_json(temporary / SETTINGS_FILE, {"seed": seed, "pictures": settings.model_dump(mode="json")})
    return read_labels(out / LABELS_FILE)
