"""Dou et al. 2016 (cmb-3dcnn-data): SWI volumes and the centres of their microbleeds.

nii/01.nii             orientations differ: LPS, RAS and LAS occur
ground_truth/01.mat    `cen`, N x 3: voxel indices of the file, counted from 1; `gt_num`: N
"""

from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from cmbfe.data.sources.series import Found, Points, VolumeSeries
from cmbfe.errors import InputError

SUFFIXES = (".nii", ".nii.gz")


def find_dou(source: Path, box_mm: float) -> Found:
    """Find the volumes under `source`/nii and their points under `source`/ground_truth.

    Args:
        box_mm: side of the boxes around the points.

    Raises:
        InputError: a volume without points, points without a volume, or points that cannot be read.
    """
    volumes = {_stem(path): path for path in sorted(source.glob("nii/[!.]*")) if path.name.endswith(SUFFIXES)}
    if not volumes:
        raise InputError(f"{source}: no volume nii/*.nii; give the folder that holds nii and ground_truth")
    labels = {path.stem: path for path in sorted(source.glob("ground_truth/[!.]*.mat"))}
    if missing := sorted(volumes.keys() - labels.keys()):
        wanted = source / "ground_truth" / f"{missing[0]}.mat"
        raise InputError(f"{wanted}: no such file, but {volumes[missing[0]]} needs it; get it, or remove the volume")
    if unknown := sorted(labels.keys() - volumes.keys()):
        raise InputError(
            f"{labels[unknown[0]]}: no volume nii/{unknown[0]}.nii belongs to it; get it, or remove this"
        )
    return Found(
        tuple(VolumeSeries(name, "SWI", path, points=_points(labels[name], box_mm)) for name, path in volumes.items())
    )


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _points(path: Path, box_mm: float) -> Points:
    try:
        content = loadmat(path, variable_names=("cen", "gt_num"))
    except (MatReadError, NotImplementedError, ValueError, TypeError, OSError, KeyError, IndexError) as error:
        raise InputError(f"{path}: not readable as a MATLAB file (version 7 or older): {error}") from None
    for name in ("cen", "gt_num"):
        if name not in content:
            raise InputError(f"{path}: the variable {name} is missing; get the file again")
        if content[name].dtype.kind not in "iuf":
            raise InputError(f"{path}: the variable {name} does not hold numbers; get the file again")
    centres, count = np.asarray(content["cen"], np.float64), np.ravel(content["gt_num"])
    centres = centres.reshape(0, 3) if centres.size == 0 else centres
    if centres.ndim != 2 or centres.shape[1] != 3:
        raise InputError(f"{path}: cen has the shape {centres.shape}; N x 3 is expected, x, y, z of each microbleed")
    if count.size != 1 or count[0] != len(centres):
        raise InputError(f"{path}: gt_num is {count.tolist()}, but cen has {len(centres)} rows; correct one of them")
    places = tuple(tuple(centre) for centre in centres.tolist())
    return Points(places, "voxel-1", (box_mm,) * len(places), path)
