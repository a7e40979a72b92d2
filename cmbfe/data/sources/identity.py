"""Pseudonyms of patients and series, and the key file that maps them to ids.

A pseudonym is a keyed hash (HMAC-SHA256) of the id. Its secret salt is random for each import, or read from a key file.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmbfe.errors import InputError
from cmbfe.files import read_json, resolved, whole_file

SALT_BYTES = 32
DIGITS = 16
"""Hexadecimal digits of a pseudonym; the probability that two of a million patients share a pseudonym is 3e-8."""


@dataclass(frozen=True)
class Pseudonyms:
    """Names of patients and series in the outputs."""

    salt: bytes | None
    """Secret; None keeps the names of the source."""

    def patient(self, patient: str) -> str:
        """The patient's name in the outputs: `p` and 16 hexadecimal digits. No name is a number, because of the `p`."""
        return patient if self.salt is None else "p" + self._hash("patient", patient)

    def series(self, patient: str, series: str) -> str:
        """The series' name in the outputs: `s` and 16 hexadecimal digits."""
        return series if self.salt is None else "s" + self._hash("series", patient, series)

    def _hash(self, *parts: str) -> str:
        message = "\0".join(parts).encode("utf-8", "surrogateescape")
        return hmac.new(self.salt or b"", message, hashlib.sha256).hexdigest()[:DIGITS]


def refuse_key_file(key_file: Path, out: Path, keep_ids: bool) -> None:
    """Check the path of a key file before the import starts. Raises `InputError` if ids are kept (there is no key
    then), if the path is a folder or not writable, or if it lies inside `out`, which may be shared with others."""
    if keep_ids:
        raise InputError(f"{key_file}: there is no key where ids are kept; give --key-file or --keep-ids, not both")
    if resolved(key_file).is_relative_to(resolved(out)):
        raise InputError(f"{key_file}: the key must not lie in the output {out}; give a path outside it")
    if key_file.is_dir():
        raise InputError(f"{key_file}: is a folder; give a file for the key")
    above = next(folder for folder in resolved(key_file).parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{key_file}: {above} is no folder that may be written to; give another path")


def read_key(key_file: Path | None) -> dict[str, Any] | None:
    """Content of a key file: "salt" (hexadecimal), "patients" and "series" (pseudonym -> id); None if it does not
    exist. Raises `InputError` if it is not a key file."""
    if key_file is None or not key_file.exists():
        return None
    key = read_json(key_file)
    try:
        are_maps = {type(key["patients"]), type(key["series"])} == {dict}
        is_key = are_maps and len(bytes.fromhex(key["salt"])) == SALT_BYTES
    except (TypeError, KeyError, ValueError):
        is_key = False
    if not is_key:
        raise InputError(f"{key_file}: is no key file of an earlier import; give another path")
    return key


def write_key(key_file: Path, names: Pseudonyms, series: Iterable[tuple[str, str]]) -> None:
    """Write the key file, readable only by its owner; entries of earlier imports stay.

    Args:
        series: (patient, series) as in the source; names of series are unique.
    """
    key = read_key(key_file) or {"salt": (names.salt or b"").hex(), "patients": {}, "series": {}}
    for patient, name in series:
        key["patients"][names.patient(patient)] = patient
        key["series"][names.series(patient, name)] = name
    _write_private(key_file, key)


def _write_private(path: Path, content: Mapping[str, Any]) -> None:
    with whole_file(path) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1, sort_keys=True) + "\n")


def kept_salt(file: Path) -> bytes:
    """The salt that a killed import left in `file`, or a new salt, which is written to `file`."""
    if file.exists():
        try:
            return bytes.fromhex(read_json(file)["salt"])
        except (TypeError, KeyError, ValueError):
            raise InputError(f"{file}: holds no salt; remove {file.parent}, which an import has left") from None
    salt = secrets.token_bytes(SALT_BYTES)
    _write_private(file, {"salt": salt.hex()})
    return salt
