"""Which series a source holds: images, NIfTI volumes or DICOM, one kind at a time."""

from collections.abc import Sequence
from pathlib import Path

from cmbfe.data.folders import look_into
from cmbfe.errors import InputError
from cmbfe.findings.dicom_tree import LeftOut, find_dicom
from cmbfe.findings.nifti import NIFTI_SUFFIXES, nifti_series
from cmbfe.findings.series import Series, image_files, image_series, is_dicom, refuse_beside, visible_files

IMAGES, NIFTI, DICOM = "pictures", "NIfTI", "DICOM"


def find(source: Path, out: Path, phase: bool = False) -> tuple[str, Sequence[Series], list[LeftOut]]:
    """The kind of a source, its series, and what of it cannot be looked at.

    A folder with images is one of images, else one with .nii or .nii.gz files one of NIfTI, else one of DICOM.

    Args:
        out: folder whose files are no source.
        phase: whether each series needs its phase.

    Raises:
        InputError: no such file or folder, a folder that may not be read, two kinds in one folder, an image that
            cannot be read or has no phase, or nothing to detect in.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    root = source.parent if source.is_file() else source
    if source.is_dir():
        look_into(source)
    files = visible_files(source, out)
    volumes = [file for file in files if file.name.lower().endswith(NIFTI_SUFFIXES)]
    if images := image_files(source, out):
        refuse_beside(source, f"images ({images[0].name})", "NIfTI", volumes)
        return IMAGES, image_series(images, root, phase), []
    if volumes:
        refuse_beside(source, f"NIfTI ({volumes[0].name})", "DICOM", filter(is_dicom, files))
        if phase:
            raise InputError(
                f"{source}: the detector sees the phase as well, which is read from DICOM, not from NIfTI"
            )
        return NIFTI, nifti_series(volumes, root), []
    return DICOM, *find_dicom(source, out, phase)
