"""The files of an evaluation: COCO labels, mimics and results of any tool."""

from pathlib import Path

import numpy as np

from cmbfe.data.foreign_labels import LARGEST_PX, read_foreign_labels, refuse_half_characters
from cmbfe.data.labelled.detections import detections_of
from cmbfe.data.labelled.labels import Detections, Labels
from cmbfe.errors import InputError
from cmbfe.files import within_python

NO_MIMIC = "none"
"""Row of the false positives on no mimic, see `subgroups.false_positives_by_mimic`."""


def evaluated_mimics(path: Path | str) -> Labels:
    """Read COCO labels of mimics, whose categories are their kinds.

    Raises:
        InputError: as `read_foreign_labels`; a category without a name, or with that of the row of those on no mimic.
    """
    mimics = read_foreign_labels(path)
    for category in mimics["categories"]:
        name, what = category.get("name"), f"{path}: category {category['id']}: its name"
        if not isinstance(name, str):
            raise InputError(f"{what} {name!r} is not text; name the kind of mimic")
        refuse_half_characters(name, what)
        if name == NO_MIMIC:
            raise InputError(f"{what} {NO_MIMIC!r} means on no mimic; rename the kind")
    return mimics


def evaluated_detections(path: Path | str, labels: Labels) -> Detections:
    """Read COCO results of every image of the labels, as `detections_of` does.

    Raises:
        InputError: as there; or a box beyond `LARGEST_PX`.
    """
    with within_python(path):
        found = detections_of(path, labels, all_looked_at=True)
    boxes = np.array([one["bbox"] for one in found], float).reshape(-1, 4)
    if len(beyond := np.flatnonzero(np.abs(boxes).max(axis=1, initial=0) > LARGEST_PX)):
        box = found[beyond[0]]["bbox"]
        raise InputError(f"{path}: the box {box} lies beyond {LARGEST_PX:g} px, where no image is")
    return found
