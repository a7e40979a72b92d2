"""Which slice an image of some labels is."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cmbfe.data.dicom.series import SeriesHeaders
from cmbfe.data.inventory import DICOM_SUFFIXES
from cmbfe.data.labelled.labels import Labels
from cmbfe.errors import InputError

SUFFIXES = (*DICOM_SUFFIXES, ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".xml")
"""What follows a name; whatever else follows a dot is part of it, such as the last number of a UID."""
ANNOTATIONS = "Annotations"
"""Folder of Pascal VOC: no part of a name."""
Place = tuple[int, int]
"""Number of a series, and of a slice in it."""


class SliceLookup:
    """The slices of series, by UID and by name.

    An image of labels names its slice by `sop_instance_uid`, or by a `file_name` (VOC: `filename`) that is the SOP
    instance UID or the DICOM file's own name: with or without suffix, and with as many of its folders as tell it apart.
    """

    def __init__(self, series: Sequence[SeriesHeaders], source: Path) -> None:
        self.series, self.source = series, source
        self.by_uid: dict[str, list[Place]] = defaultdict(list)
        self.by_name: dict[str, list[Place]] = defaultdict(list)
        for number, headers in enumerate(series):
            for index, (uid, file) in enumerate(zip(headers.sop_instance_uids, headers.files, strict=True)):
                self.by_uid[uid].append((number, index))
                self.by_name[_bare(file.name)].append((number, index))

    def of_images(self, labels: Labels, where: Path) -> dict[Any, Place]:
        """Id of each image -> its slice, no two the same.

        Raises:
            InputError: an image that is no slice, several, the slice of another image, or of another size.
        """
        places: dict[Any, Place] = {}
        taken: dict[Place, str] = {}
        for image in labels["images"]:
            name = f"image {image['id']} ({image['file_name']})"
            place = places[image["id"]] = self._of_image(image, f"{where}: {name}")
            if taken.setdefault(place, name) != name:
                raise InputError(f"{where}: {name}: is the slice of {taken[place]} too; keep one")
        return places

    def _of_image(self, image: Mapping[str, Any], said: str) -> Place:
        uid = image.get("sop_instance_uid")
        found = self._named(str(image["file_name"])) if uid is None else self.by_uid.get(str(uid), [])
        what = "this name" if uid is None else f"its UID {uid}"
        if not found:
            raise InputError(f"{said}: no slice of a magnitude series has {what}; correct it, or get the DICOM file")
        if len(found) > 1:
            are_frames = len({self._file(place) for place in found}) < len(found)
            path = f"give the path below {self.source}, or the key sop_instance_uid"
            hint = "export one file per slice" if are_frames else path
            raise InputError(f"{said}: {len(found)} slices have {what}; {hint}")
        headers = self.series[found[0][0]]
        label, ours = (f"{x} x {y}" for x, y in ((image["width"], image["height"]), (headers.columns, headers.rows)))
        if label != ours:
            raise InputError(f"{said}: {label} px, but the DICOM slice has {ours}; label that slice")
        return found[0]

    def _named(self, name: str) -> list[Place]:
        path = PurePosixPath(name.replace("\\", "/"))
        *folders, last = [part for part in path.parts if part != ANNOTATIONS] or [""]
        bare, depth = _bare(last), len(folders)
        if bare in self.by_uid:
            return self.by_uid[bare]
        found = [
            place
            for place in self.by_name.get(bare, [])
            if list(self._file(place).parent.parts[-depth:] if depth else []) == folders
        ]
        whole = [place for place in found if list(self._file(place).relative_to(self.source).parts[:-1]) == folders]
        return whole if len(whole) == 1 else found

    def _file(self, place: Place) -> Path:
        return self.series[place[0]].files[place[1]]


def _bare(name: str) -> str:
    """A file's name without a known suffix.

    >>> _bare("IM0001"), _bare("1.2.840.17"), _bare("1.2.840.17.png")
    ('IM0001', '1.2.840.17', '1.2.840.17')
    """
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name
