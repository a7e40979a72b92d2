"""Detections as `cmbfe detect` leaves them, joined to the pictures of some labels."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cmbfe.data.labels import Detections, Labels, check_detections, read_detections, read_labels
from cmbfe.errors import InputError

IMAGES_FILE = "images.json"
"""Beside detections: the COCO `images` that they belong to. Also what an earlier result is recognised by: other folders
too hold a detections.json."""


def images_file(given: Path | str | Detections) -> Path | None:
    """The images.json that `cmbfe detect` writes beside detections."""
    beside = None if isinstance(given, list) else Path(given).with_name(IMAGES_FILE)
    return beside if beside is not None and beside.is_file() else None


def detections_of(given: Path | str | Detections, counted: Labels, all_looked_at: bool = False) -> Detections:
    """Detections with the image ids of the labels; of a file's further pictures nothing is kept.

    Pictures are the same that have one SOP instance UID or one path, whatever its suffix, in the labels and in the
    images.json of `cmbfe detect` beside the file; without that, those that have one id.

    Args:
        all_looked_at: refuse detections that are not of every picture of the labels.

    Raises:
        InputError: files that cannot be read, or none of the pictures is in the labels.
    """
    if isinstance(given, list):
        return check_detections(given, counted, "detections")
    if (beside := images_file(given)) is None:
        return read_detections(given, counted)
    theirs = read_labels(beside)
    ids = {key: image["id"] for image in counted["images"] for key in _keys(image)}
    ours = {image["id"]: next((ids[key] for key in _keys(image) if key in ids), None) for image in theirs["images"]}
    if not any(one is not None for one in ours.values()):
        raise InputError(f"{beside}: names none of the pictures of the labels; detect in these, or keep ids in both")
    lacking = [image for image in counted["images"] if image["id"] not in ours.values()]
    if all_looked_at and lacking:
        raise InputError(
            f"{beside}: {len(lacking)} pictures of the labels are not in it, {lacking[0]['file_name']} first"
        )
    read = read_detections(given, theirs)
    return [{**one, "image_id": ours[one["image_id"]]} for one in read if ours[one["image_id"]] is not None]


def _keys(image: Mapping[str, Any]) -> list[str]:
    """SOP instance UID, if known, and path without its suffix: a picture may be a PNG here and a JPG there."""
    path = PurePosixPath(image["file_name"]).with_suffix("").as_posix()
    return [*([image["sop_instance_uid"]] if "sop_instance_uid" in image else []), path]
