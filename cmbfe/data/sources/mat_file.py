"""Read numbers from MATLAB files. The module is separate, so that the process that reads a file loads nothing else."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from cmbfe.errors import InputError


def read_numbers(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Variables of a MATLAB file (version 7 or older) as float64. Raises `InputError` if the file cannot be read, or if
    a variable is missing or not numeric."""
    try:
        content = loadmat(path, variable_names=names)
    except Exception as error:  # damaged data cause any exception
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: no MATLAB file of version 7 or older: {reason}; get it again") from None
    for name in names:
        if name not in content:
            raise InputError(f"{path}: the variable {name} is missing; get the file again")
        if np.asarray(content[name]).dtype.kind not in "iuf":
            raise InputError(f"{path}: the variable {name} does not hold numbers; get the file again")
    return [np.asarray(content[name], np.float64) for name in names]
