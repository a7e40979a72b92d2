"""What `import cmbfe` gives: the public names when they are asked for, and the version, installed or not."""

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import cmbfe

WRITTEN = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["version"]


def test_every_public_name_is_there_and_listed():
    assert {"build", "enhance", "enhance_during_training", "evaluate", "match"} <= set(cmbfe.__all__)
    assert set(cmbfe.__all__) <= set(dir(cmbfe))
    for name in cmbfe.__all__:
        assert getattr(cmbfe, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        cmbfe.train  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, cmbfe; sys.exit(len({'numpy', 'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def not_installed(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def test_an_installed_package_says_its_version_and_a_source_what_it_is_a_source_of(monkeypatch, tmp_path):
    monkeypatch.setattr(metadata, "version", lambda name: f"7.8 of {name}")
    assert cmbfe.__version__ == "7.8 of cmbfe"
    monkeypatch.setattr(metadata, "version", not_installed)
    assert cmbfe.__version__ == f"{WRITTEN}+source"
    monkeypatch.setattr(cmbfe, "__file__", str(tmp_path / "cmbfe" / "__init__.py"))
    assert cmbfe.__version__ == "unknown"
