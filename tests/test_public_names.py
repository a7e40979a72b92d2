"""What `import cmbfe` gives: the public names when they are asked for, and the version, installed or not."""

import ast
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


@pytest.mark.parametrize("room", ["detector", "metrics"])
def test_the_core_imports_nothing_but_its_packages(room):
    known = {*sys.stdlib_module_names, "numpy", "pandas", "safetensors", "scipy", "torch", "torchvision"}
    lazily = {"export.py": {"onnx", "onnxruntime"}}
    ours = {"cmbfe", "cmbfe.detector", "cmbfe.metrics", "cmbfe.errors", "cmbfe.files"}
    files = list((Path(cmbfe.__file__).parent / room).glob("*.py"))
    assert len(files) > 5
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        outside = {name.split(".")[0] for name in names if not name.startswith("cmbfe")}
        assert outside <= known | lazily.get(file.name, set())
        assert {".".join(name.split(".")[:2]) for name in names if name.startswith("cmbfe")} <= ours


def test_a_reader_finds_few_modules_in_each_room():
    root = Path(cmbfe.__file__).parent
    rooms = [root, *(folder for folder in root.rglob("*") if (folder / "__init__.py").exists())]
    modules = {
        room.name: len([file for file in room.glob("*.py") if not file.name.startswith("__")]) for room in rooms
    }
    assert modules.pop("cmbfe") <= 8
    assert max(modules.values()) <= 20


def not_installed(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def test_an_installed_package_says_its_version_and_a_source_what_it_is_a_source_of(monkeypatch, tmp_path):
    monkeypatch.setattr(metadata, "version", lambda name: f"7.8 of {name}")
    assert cmbfe.__version__ == "7.8 of cmbfe"
    monkeypatch.setattr(metadata, "version", not_installed)
    assert cmbfe.__version__ == f"{WRITTEN}+source"
    monkeypatch.setattr(cmbfe, "__file__", str(tmp_path / "cmbfe" / "__init__.py"))
    assert cmbfe.__version__ == "unknown"
