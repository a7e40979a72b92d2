"""Images with Pascal VOC XML: the XML beside each image, or in Annotations with the images in JPEGImages."""

from pathlib import Path

from cmbfe.data.sources.labelled import found_in_labels
from cmbfe.data.sources.series import Found
from cmbfe.data.voc import read_voc
from cmbfe.errors import InputError

ANNOTATIONS, IMAGES = "Annotations", "JPEGImages"


def find_voc(source: Path) -> Found:
    """Find the images of all VOC files (*.xml) under a folder; `patient_id` as for COCO.

    Raises:
        InputError: no VOC file or an unsound one (`voc.read_voc`), an image that is not there, or whatever
            `found_in_labels` refuses.
    """
    labels = read_voc(source)

    def image_file(name: str) -> Path:
        beside = source / name
        parts = [IMAGES if part == ANNOTATIONS else part for part in Path(name).parts]
        candidates = [beside, source / Path(*parts), source.parent / IMAGES / name]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise InputError(f"{beside}: no such image, beside its XML or in {IMAGES}; get it, or remove the XML")
        return found

    images = [{**image, "file_name": _without_annotations(image["file_name"])} for image in labels["images"]]
    paths = {new["file_name"]: old["file_name"] for new, old in zip(images, labels["images"], strict=True)}
    return found_in_labels({**labels, "images": images}, source, lambda name: image_file(paths[name]))


def _without_annotations(name: str) -> str:
    """The folder Annotations is nobody's name: without it, an image in it lies in no patient's folder."""
    return Path(*(part for part in Path(name).parts if part != ANNOTATIONS)).as_posix()
