"""Atomic writing of files and folders: first under a temporary name, then renamed."""

import gzip
import hashlib
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmbfe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


LONGEST_NAME = 230
"""Longest file name in bytes. File systems allow 255, and the temporary name is longer than the name itself."""


def check_name(path: Path) -> None:
    """Raise `InputError` if the name of a file or folder to be written, or of a folder above it, is too long."""
    above = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if above > 255 or len(os.fsencode(path.name)) > LONGEST_NAME:
        raise InputError(f"{str(path)[:60]}…: has a name of more than {LONGEST_NAME} bytes; give a shorter one")


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, else remove it.

    An interruption leaves the previous file or no file, never a partial file.

    Raises:
        InputError: the name is too long.
    """
    path = Path(path)
    check_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as matplotlib and PIL read the format from it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path | str, marker: str, inputs: Iterable[Path | str] = ()) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; rename it to `path` if the block succeeds, else remove it.

    An earlier result at `path`, recognised by the file `marker` in it, is replaced.

    Args:
        inputs: files and folders from which the result is made. They must not lie inside `path`, which is replaced.

    Raises:
        InputError: `path` is a file, contains an input, has other content than an earlier result, or has too long a
            name.
    """
    path = Path(path)
    check_name(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; give a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).exists():
        raise InputError(f"{path}: holds other things and no {marker} of an earlier run; give an empty folder")
    given, path = path, path.resolve()
    for file in inputs:
        if Path(file).resolve().is_relative_to(path):
            raise InputError(f"{given}: holds the input {file}, which would be lost; give another folder")
    absent = [folder for folder in path.parents if not folder.exists()]
    if not (above := path.parents[len(absent)]).is_dir():
        raise InputError(f"{given}: {above} is a file; give another folder")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in absent:
            with suppress(OSError):  # not empty: the result lies in it
                folder.rmdir()


def is_partial(path: Path) -> bool:
    """Whether `path` is a temporary file or folder that a killed process left behind."""
    return re.fullmatch(r"\..+\.\d+\.partial(\.\w+)?", path.name) is not None


def resolved(path: Path) -> Path:
    """The path with its links resolved; raises `InputError` if the links form a loop."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise InputError(f"{path}: its links lead to themselves; give another path") from None


def sha256_of(files: Iterable[Path]) -> str:
    """SHA-256 of the files' contents, independent of the order of `files`."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def write_json(path: Path | str, content: Any) -> None:
    """Write JSON with sorted keys and no timestamps, so that equal content gives equal bytes.

    A list, such as COCO results, gets a line per element. NaN and infinity become null, because JSON has neither.
    A file whose name ends in .gz is compressed.
    """
    if isinstance(content, list) and content:
        lines = (json.dumps(_finite(element), sort_keys=True, allow_nan=False) for element in content)
        text = "[\n" + ",\n".join(lines) + "\n]"
    else:
        text = json.dumps(_finite(content), indent=1, sort_keys=True, allow_nan=False)
    packed = (text + "\n").encode()
    with whole_file(path) as temporary, temporary.open("wb") as file:
        if temporary.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=0) as compressed:
                compressed.write(packed)
        else:
            file.write(packed)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path | str, errors: str = "strict") -> Any:
    """Read a JSON file in UTF-8, UTF-16 or UTF-32, with or without gzip and byte order mark.
    `errors` says how to treat invalid bytes, as in `bytes.decode`.

    Raises:
        InputError: the file is absent, unreadable or malformed (the message names the line); or as `within_python`.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if content.startswith(b"PK\3\4"):
            raise InputError(f"{path}: is a ZIP archive; unpack it, and give what is in it")
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        text = content.decode(json.detect_encoding(content), errors)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; correct the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give the file itself") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}; save it in UTF-8") from None
    with within_python(path):
        try:
            return json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not JSON: line {error.lineno}: {error.msg}; correct it") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Raises `ValueError` if a key occurs twice, because its first value would be lost."""
    if len(content := dict(pairs)) < len(pairs):
        key = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {key[:60]!r} occurs twice in one object; keep one")
    return content


@contextmanager
def within_python(path: Path | str) -> Iterator[None]:
    """Turn Python's errors in reading a JSON or YAML file inside the block into `InputError`.

    Raises:
        InputError: a number with thousands of digits, a date that does not exist, lists nested thousands deep, or a
            key that occurs twice in one object.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, AttributeError, OverflowError, RecursionError) as error:
        what = "its lists or objects lie too deep in each other" if isinstance(error, RecursionError) else error
        raise InputError(f"{path}: holds a value that cannot be read: {' '.join(str(what).split())}") from None


def write_table(table: "pd.DataFrame", path: Path) -> None:
    """Write a table as CSV with six decimals, so that values rounded later to three decimals stay the same."""
    with whole_file(path) as temporary:
        table.to_csv(temporary, float_format="%.6f")
