"""Read detections of the pipeline (results/) or of `cmbfe detect`, and assign them to the images of given labels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmbfe import paths
from cmbfe.data.labelled.labels import (
    CATEGORIES,
    Detections,
    Labels,
    check_detections,
    plain_path,
    read_detections,
    read_labels,
)
from cmbfe.errors import InputError
from cmbfe.files import read_json
from cmbfe.metrics.matching import Matches, match

DETECTIONS_FILE = "detections.json.gz"
"""Detections in the test images, in results/<variant>/."""
VALIDATION_FILE = "validation_detections.json.gz"
"""Detections in the validation images, in results/<variant>/."""
IMAGES_FILE = "images.json"
"""COCO `images` of the detections in its folder. The file also marks a folder as a result of `cmbfe detect`."""


def match_results(
    labels: Labels, variants: Iterable[str], iou: float, file: str = DETECTIONS_FILE
) -> dict[str, Matches]:
    """Match the detections of each variant in results/ to the labels (A14). Raises `InputError` if a variant has no
    detections there, or if they belong to other images."""
    return {
        variant: match(labels, read_detections(paths.result(variant) / file, labels), iou=iou) for variant in variants
    }


def images_file(given: Path | str | Detections) -> Path | None:
    """The images.json (images without boxes) that `cmbfe detect` wrote beside the detections, or None."""
    beside = None if isinstance(given, list) else Path(given).with_name(IMAGES_FILE)
    content = read_json(beside) if beside is not None and beside.is_file() else None
    own = {"images": [], "annotations": [], "categories": CATEGORIES}
    return beside if isinstance(content, dict) and {**content, "images": []} == own else None


def detections_of(given: Path | str | Detections, counted: Labels, all_looked_at: bool = False) -> Detections:
    """Detections in the images of the labels, with the image ids of the labels. Other images are left out.

    With an images.json of `cmbfe detect` beside the file, images are matched by unique SOP instance UID, by unique
    path with or without suffix, or by series and slice; not by path if the files share series UIDs and theirs differ.
    Without images.json, the image ids must be those of the labels.

    Raises:
        InputError: invalid files, two images that match the same labelled image, an image of another size than in
            the labels, a patient with another number of series, none of them named as in the labels, no match at
            all, or, with `all_looked_at`, a labelled image without a match.
    """
    if isinstance(given, list):
        return check_detections(given, counted, "detections")
    if (beside := images_file(given)) is None:
        return read_detections(given, counted)
    theirs = read_labels(beside)
    ours = _same_images(theirs["images"], counted["images"], beside)
    if not ours:
        raise InputError(f"{beside}: names none of the images of the labels; detect in these, or keep ids in both")
    looked_at = set(ours.values())
    lacking = [image for image in counted["images"] if image["id"] not in looked_at]
    if all_looked_at and lacking:
        raise InputError(
            f"{beside}: lacks {len(lacking)} images of the labels, as {lacking[0]['file_name']}; detect in all"
        )
    read = read_detections(given, theirs)
    return [
        {**detection, "image_id": ours[detection["image_id"]]} for detection in read if detection["image_id"] in ours
    ]


def _same_images(
    theirs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]], beside: Path
) -> dict[Any, Any]:
    """Image id in images.json -> image id in the labels, for images in both."""
    known, own = _by_key(ours, "the labels"), _by_key(theirs, str(beside))
    of_ours = {image["id"]: image for image in ours}
    series = [{(image.get("patient_id"), image.get("series_uid")) for image in images} for images in (ours, theirs)]
    have_common = bool(set.intersection(*({uid for _, uid in each if uid} for each in series)))
    in_labels, in_detection = (Counter(patient for patient, _ in each) for each in series)

    def agree(key: tuple, image: Mapping[str, Any]) -> bool:
        """Whether the series allow a match by this key. Each run numbers the folders of a patient, so the same path
        may be of another series."""
        other = of_ours[known[key]]
        uids = {image.get("series_uid"), other.get("series_uid")}
        if key[0] in ("uid", "slice") or len(uids) == 1 or not all(uids):  # images outside DICOM and NIfTI have ""
            return True
        if have_common:
            return False
        # Import may name series otherwise than detection does. Only as many series have the same numbers.
        patient = other.get("patient_id")
        same_patient = patient is not None and patient == image.get("patient_id")
        if same_patient and (found := in_detection[patient]) != (wanted := in_labels[patient]):
            what = f"{beside}: patient {patient} has {found} series, but {wanted} of other names in the labels"
            raise InputError(f"{what}; detect in the images of the labels, or only in their series")
        return True

    joined: dict[Any, Any] = {}
    for image in theirs:
        keys = (key for key in _keys(image) if key in known and key in own)
        if (same := next((key for key in keys if agree(key, image)), None)) is not None:
            joined[image["id"]] = known[same]
    if several := [image for image, times in Counter(joined.values()).items() if times > 1]:
        raise InputError(f"{beside}: two images by UID or name are image {several[0]} of the labels; keep one")
    sizes = {image["id"]: f"{image['width']} x {image['height']} px" for image in ours}
    for image in theirs:
        size = f"{image['width']} x {image['height']} px"
        if (wanted := sizes.get(joined.get(image["id"]), size)) != size:
            what = f"{beside}: {image['file_name']} has {size}, but {wanted} in the labels"
            raise InputError(f"{what}; detect in the images of the labels")
    return joined


def _by_key(images: Sequence[Mapping[str, Any]], where: str) -> dict[tuple, Any]:
    """Key -> image id, without keys that several images share, such as the UID of a multi-frame file."""
    for image in images:
        name = image["file_name"]
        if not (isinstance(name, str) and plain_path(name).name):
            raise InputError(f"{where}: image {image['id']}: file_name {name!r} is no name of a file; correct it")
    times = Counter(key for image in images for key in _keys(image))
    return {key: image["id"] for image in images for key in _keys(image) if times[key] == 1}


def _keys(image: Mapping[str, Any]) -> list[tuple]:
    """Keys of an image in the order of trial: UID, path, path without suffix (the number in `IM.0001` is no suffix),
    and slice of a series."""
    path, uid = plain_path(image["file_name"]), image.get("sop_instance_uid")
    stem = path.with_suffix("") if path.suffix[1:].isalpha() else path
    own = [("uid", str(uid))] if uid is not None else []
    place = image.get("series_uid"), image.get("slice_index")
    return [*own, ("path", str(path)), ("stem", str(stem)), *([("slice", *place)] if None not in place else [])]
