"""Images with COCO labels: a folder with annotations.json (or one other .json), or that file itself.

File names are relative to the file's folder. `patient_id` says whose an image is; without it, its folder does.
"""

from pathlib import Path

from cmbfe.data.folders import resolved
from cmbfe.data.foreign_labels import read_foreign_labels
from cmbfe.data.labelled.labels import LABELS_FILE
from cmbfe.data.sources.labelled import found_in_labels
from cmbfe.data.sources.series import Found
from cmbfe.errors import InputError


def find_coco(source: Path) -> Found:
    """Find the images that a COCO file names.

    Raises:
        InputError: no COCO file or several, unsound labels (`labels.check_labels`), a name that leads elsewhere, or
            whatever `found_in_labels` refuses.
    """
    file = labels_file(source) if source.is_dir() else source
    root = file.parent.resolve()

    def image_file(name: str) -> Path:
        path = resolved(root / name)
        if not path.is_relative_to(root):
            raise InputError(f"{file}: {name} leads out of the folder; file names must be relative to it")
        return path

    return found_in_labels(read_foreign_labels(file), file, image_file)


def labels_file(folder: Path) -> Path:
    """The COCO file of a folder: annotations.json, or the only .json; raises `InputError` where there is neither."""
    if (folder / LABELS_FILE).is_file():
        return folder / LABELS_FILE
    files = sorted(folder.glob("*.json"))
    if len(files) != 1:
        found = f"{len(files)} other files *.json" if files else "no other *.json"
        raise InputError(f"{folder}: no {LABELS_FILE}, and {found}; give the COCO file itself")
    return files[0]
