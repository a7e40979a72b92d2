"""Run a function in a separate process, so that native code that crashes on damaged data does not end the program.
`ProcessPoolExecutor` is not used: it runs the caller's script again, and dask workers may not start its processes."""

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cmbfe.errors import InputError


@contextmanager
def own_process(function: Callable[..., Any], crash: str) -> Iterator[Callable[..., Any]]:
    """Start a process (about a second) and yield a function that runs `function(path, …)` in that process.

    Args:
        function: module-level function whose first argument is the path of a file.
        crash: text of the `InputError` about that file if the process dies.
    """
    command = [sys.executable, "-m", __name__, function.__module__, function.__name__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:

        def call(path: Path, *arguments: Any) -> Any:
            try:
                pickle.dump((path, *arguments), process.stdin)
                process.stdin.flush()
                answer = pickle.load(process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError):
                raise InputError(f"{path}: {crash}") from None
            if isinstance(answer, InputError):
                raise answer
            return answer

        try:
            yield call
        finally:
            with suppress(OSError):  # a dead process has closed its end of the pipe
                process.stdin.close()


def main(module: str, name: str) -> None:
    """Run the function `name` of `module` for each call on standard input, until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that a library prints must not mix with the answers
    function = getattr(importlib.import_module(module), name)
    with suppress(EOFError):
        while True:
            arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = function(*arguments)
            except InputError as error:
                answer = error
            pickle.dump(answer, answers)
            answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
