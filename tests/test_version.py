"""The version in files that name their maker, installed or not."""

import tomllib
from importlib import metadata
from pathlib import Path

from cmbfe import version as module
from cmbfe.version import version

WRITTEN = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["version"]


def not_installed(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def test_an_installed_package_says_its_version(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: f"7.8 of {name}")
    assert version() == "7.8 of cmbfe"


def test_a_source_that_is_not_installed_says_what_it_is_a_source_of(monkeypatch):
    monkeypatch.setattr(metadata, "version", not_installed)
    assert version() == f"{WRITTEN}+source"


def test_without_either_it_is_unknown_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(metadata, "version", not_installed)
    monkeypatch.setattr(module, "PYPROJECT", tmp_path / "pyproject.toml")
    assert version() == "unknown"
