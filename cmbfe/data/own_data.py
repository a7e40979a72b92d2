"""The pipeline's images from an import of the user's own data, in the place of the phantom's."""

import shutil
from collections import Counter
from pathlib import Path

from cmbfe.data.conversion import SETTINGS_FILE
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, read_labels
from cmbfe.errors import InputError
from cmbfe.files import whole_folder

SPLITS = ("train", "validation", "test")
IMPORTED = (LABELS_FILE, MIMICS_FILE, SETTINGS_FILE, "report.json")


def take_import(source: Path, out: Path) -> Labels:
    """Copy the folder of an import to where the pipeline looks for images; returns its labels.

    Raises:
        InputError: no import, images of several sizes or of unknown pixel size, or a split without a microbleed.
    """
    if missing := [name for name in IMPORTED if not (source / name).is_file()]:
        raise InputError(
            f"{source}: no {missing[0]}; data.source in params.yaml names a folder that cmbfe import made"
        )
    labels = read_labels(source / LABELS_FILE)
    sizes = Counter((image["width"], image["height"]) for image in labels["images"])
    if len(sizes) > 1:
        raise InputError(f"{source}: images of {len(sizes)} sizes; import again with --size, as training needs one")
    if any("pixel_spacing_mm" not in image for image in labels["images"]):
        raise InputError(
            f"{source / LABELS_FILE}: images without pixel_spacing_mm; figures and tables need sizes in mm"
        )
    split_of = {image["id"]: image["split"] for image in labels["images"]}
    shown = {split_of[box["image_id"]] for box in labels["annotations"]}
    if empty := [split for split in SPLITS if split not in shown]:
        raise InputError(f"{source}: no microbleed in the split {empty[0]}; give other splits, or another seed")
    with whole_folder(out, SETTINGS_FILE, inputs=[source]) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
    return labels
