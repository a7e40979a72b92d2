"""Dou et al. 2016 (cmb-3dcnn-data): SWI volumes and the centres of their microbleeds.

nii/01.nii             orientations differ: LPS, RAS and LAS occur
ground_truth/01.mat    `cen`, N x 3: voxel indices of the file, counted from 1; `gt_num`: N
"""

from pathlib import Path

import numpy as np

from cmbfe.data.own_process import own_process
from cmbfe.data.sources.mat_file import read_numbers
from cmbfe.data.sources.series import Found, Points, VolumeSeries
from cmbfe.errors import InputError

SUFFIXES = (".nii", ".nii.gz")


def find_dou(source: Path, box_mm: float) -> Found:
    """Find the volumes under `source`/nii and their points, with boxes of `box_mm`, under `source`/ground_truth.

    Raises:
        InputError: a volume without points, points without a volume, or points that cannot be read.
    """
    volumes: dict[str, Path] = {}
    for path in (path for path in sorted(source.glob("nii/[!.]*")) if path.name.endswith(SUFFIXES)):
        if (other := volumes.setdefault(_stem(path), path)) != path:
            raise InputError(f"{path}: {other.name} is the same volume; keep one of the two")
    if not volumes:
        raise InputError(f"{source}: no volume nii/*.nii; give the folder that holds nii and ground_truth")
    labels = {path.stem: path for path in sorted(source.glob("ground_truth/[!.]*.mat"))}
    if missing := sorted(volumes.keys() - labels.keys()):
        wanted = source / "ground_truth" / f"{missing[0]}.mat"
        raise InputError(f"{wanted}: no such file, but {volumes[missing[0]]} needs it; get it, or remove the volume")
    if unknown := sorted(labels.keys() - volumes.keys()):
        raise InputError(f"{labels[unknown[0]]}: no volume nii/{unknown[0]}.nii is there; get it, or remove this")
    # scipy's reader faults on damaged files.
    with own_process(read_numbers, "damaged, it crashes the reader of MATLAB files; get the file again") as read:
        centres = {name: read(labels[name], ("cen", "gt_num")) for name in volumes}
    series = (
        VolumeSeries(name, f"{name}/SWI", path, points=_points(labels[name], *centres[name], box_mm))
        for name, path in volumes.items()
    )
    return Found(tuple(series))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _points(path: Path, centres: np.ndarray, count: np.ndarray, box_mm: float) -> Points:
    centres = centres.reshape(0, 3) if centres.size == 0 else centres
    if centres.ndim != 2 or centres.shape[1] != 3:
        raise InputError(f"{path}: cen has the shape {centres.shape}; N x 3 is expected, x, y, z of each microbleed")
    if count.size != 1 or count.item() != len(centres):
        found = ", ".join(f"{value:g}" for value in count.ravel()[:5])
        raise InputError(f"{path}: gt_num is {found}, but cen has {len(centres)} rows; correct one of them")
    places = tuple(tuple(centre) for centre in centres.tolist())
    return Points(places, "voxel-1", (box_mm,) * len(places), path)
