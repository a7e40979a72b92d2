"""Numbers in MATLAB files, read in a process of their own: scipy's reader faults on damaged files, and takes all along.

`python -m cmbfe.data.sources.mat_file` answers each line of its standard input, `[path, names]` in JSON, with a line of
JSON: `{name: value}` of those variables that are there, or `{"": error}`.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from cmbfe.errors import InputError


def read_numbers(paths: Sequence[Path], names: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Read variables of MATLAB files (version 7 or older), in one process for all of them.

    Returns:
        For each file, name -> float64 array.

    Raises:
        InputError: a file that cannot be read or crashes the reader, lacks a variable, or has one without numbers.
    """
    requests = "".join(json.dumps([str(path), list(names)]) + "\n" for path in paths)
    command = [sys.executable, "-m", "cmbfe.data.sources.mat_file"]
    done = subprocess.run(command, input=requests, capture_output=True, text=True, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for path, answer in zip(paths, answers, strict=False):
        if "" in answer:
            raise InputError(f"{path}: not readable as a MATLAB file (version 7 or older): {answer['']}")
        for name in names:
            if name not in answer:
                raise InputError(f"{path}: the variable {name} is missing; get the file again")
            if answer[name] is None:
                raise InputError(f"{path}: the variable {name} does not hold numbers; get the file again")
    if len(answers) < len(paths):
        raise InputError(f"{paths[len(answers)]}: damaged, it crashes the reader of MATLAB files; get the file again")
    return [
        {name: np.array(value["values"], np.float64).reshape(value["shape"]) for name, value in answer.items()}
        for answer in answers
    ]


def _answer(path: str, names: Sequence[str]) -> dict[str, object]:
    try:
        content = loadmat(path, variable_names=names)
        found = {name: np.asarray(content[name]) for name in names if name in content}
        return {
            name: {"shape": value.shape, "values": value.ravel().tolist()} if value.dtype.kind in "iuf" else None
            for name, value in found.items()
        }
    except Exception as error:  # whatever a damaged part of the file leads to
        return {"": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_answer(*json.loads(line))), flush=True)
