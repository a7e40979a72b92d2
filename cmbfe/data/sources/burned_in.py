"""Text that a scanner or a workstation has drawn into an image, where no pseudonym reaches it."""

from collections.abc import Iterable
from pathlib import Path

from pydicom.tag import BaseTag, Tag

from cmbfe.data.dicom.pixels import PIXEL_TAGS, input_errors, parse
from cmbfe.errors import InputError

ATTRIBUTE = "BurnedInAnnotation"


class BurnedInAnnotation(InputError):
    """The header says that text is part of the image: a patient's name would reach every output."""


def refuse_burned_in(files: Iterable[Path]) -> None:
    """Read the headers of DICOM files for text that is part of the image, where no pseudonym reaches it.

    Raises:
        BurnedInAnnotation: (0028,0301) is YES in one of them.
    """

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        return tag in PIXEL_TAGS

    for path in files:
        with input_errors(path, "damaged DICOM header"), path.open("rb") as file:
            said = str(parse(file, at_pixels, [int(Tag(ATTRIBUTE))]).get(ATTRIBUTE) or "")
        if said.strip().upper() == "YES":
            raise BurnedInAnnotation(
                f"{path}: {ATTRIBUTE} (0028,0301) is YES: its image holds text, which may name the patient; "
                "leave the file out, or blank the text and set the attribute to NO"
            )
