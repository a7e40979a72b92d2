"""Compressed pixel data, decoded in a process of its own.

The JPEG libraries are native code: damaged data make them print, abort or fault, which no exception handler stops.
`python -m cmbfe.data.dicom.decoder` answers each line of its standard input, `[path, frames]` in JSON, with a line of
JSON, `{"shape": …}` followed by that many float32 values or `{"error": text}`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from cmbfe.data.dicom.pixels import read_frames
from cmbfe.errors import InputError


@contextmanager
def decoder_process() -> Iterator[Callable[[Path, Sequence[int]], np.ndarray]]:
    """Start a decoder (about a second) and yield a function that does what `read_frames` does, in that process.

    Where the decoder dies, the function raises `InputError` naming the file that it was given.
    """
    command = [sys.executable, "-m", "cmbfe.data.dicom.decoder"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:

        def read(path: Path, frames: Sequence[int]) -> np.ndarray:
            try:
                process.stdin.write(json.dumps([str(path), list(frames)]).encode() + b"\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
            except (OSError, ValueError):
                raise InputError(f"{path}: pixel data cannot be decoded: they crash the decoder") from None
            if "error" in answer:
                raise InputError(answer["error"])
            values = process.stdout.read(4 * int(np.prod(answer["shape"])))
            return np.frombuffer(values, np.float32).reshape(answer["shape"])

        try:
            yield read
        finally:
            with suppress(OSError):  # a decoder that died has closed its end
                process.stdin.close()


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up between the replies
    for request in sys.stdin.buffer:
        path, frames = json.loads(request)
        try:
            images = read_frames(Path(path), frames)
        except InputError as error:
            replies.write(json.dumps({"error": str(error)}).encode() + b"\n")
        else:
            replies.write(json.dumps({"shape": images.shape}).encode() + b"\n" + images.tobytes())
        replies.flush()


if __name__ == "__main__":
    main()
