"""VALDO 2021, Task 2: a folder per patient with T2* and a mask of its microbleeds (https://valdo.grand-challenge.org).

sub-101/sub-101_space-T2S_desc-masked_T2S.nii.gz    T2*, face and skull removed; its images
sub-101/sub-101_space-T2S_desc-masked_T1.nii.gz     T1 and T2, moved to it; left out
sub-101/sub-101_space-T2S_CMB.nii.gz                mask; values 2 and 3 occur and are microbleeds too
"""

from collections import Counter
from pathlib import Path

from cmbfe.data.inventory import Aside, Inventory
from cmbfe.data.sources.series import Found, VolumeSeries
from cmbfe.errors import InputError

VOLUME = "_space-T2S_desc-masked_T2S"
LABEL = "_space-T2S_CMB"
OTHERS = ("_space-T2S_desc-masked_T1", "_space-T2S_desc-masked_T2")
OTHER_VOLUMES = "T1 and T2 volumes (images are T2*)"
SUFFIXES = (".nii.gz", ".nii")


def find_valdo(inventory: Inventory) -> Found:
    """Find the patients of VALDO's Task 2 in a folder, any depth.

    Raises:
        InputError: no folder `sub-…`, or one without volume or label, or with those of another patient.
    """
    source = inventory.source
    folders = [path for path in inventory.folders() if path.name.startswith("sub-")]
    if not folders:
        raise InputError(f"{source}: no folder sub-… in it or below; give the folder of VALDO's Task 2 (Task2)")
    names = Counter(folder.name for folder in folders)
    if (repeated := names.most_common(1)[0])[1] > 1:
        raise InputError(f"{source}: holds {repeated[1]} folders {repeated[0]}; keep one")
    series = tuple(_series(folder) for folder in folders)
    others = tuple(path for folder in folders for other in OTHERS if (path := _path(folder, other)))
    line = f"{source}: {len(others)} {OTHER_VOLUMES}, {others[0].name} first; passed over" if others else ""
    asides = (Aside(others, "", "", OTHER_VOLUMES, line, refused=False),) if others else ()
    return Found(series, asides=asides)


def _series(folder: Path) -> VolumeSeries:
    volume, label = _file(folder, VOLUME, "volume"), _file(folder, LABEL, "label")
    return VolumeSeries(folder.name, f"{folder.name}/T2S", volume, mask=label)


def _path(folder: Path, ending: str) -> Path | None:
    paths = (folder / f"{folder.name}{ending}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _file(folder: Path, ending: str, what: str) -> Path:
    if found := _path(folder, ending):
        return found
    wanted = f"{folder.name}{ending}{SUFFIXES[0]}"
    if odd := next((path for path in folder.iterdir() if path.name == wanted), None):
        raise InputError(f"{odd}: is no file, but a folder or a link to nothing; get the {what} again")
    other = next((path.name for suffix in SUFFIXES for path in sorted(folder.glob(f"*{ending}{suffix}"))), None)
    hint = f"it holds {other}, which is another patient's name" if other else "get it, or remove the folder"
    raise InputError(f"{folder}: its {what} {wanted} is missing; {hint}")
