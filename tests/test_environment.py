"""requirements.lock, environment.yml and pyproject.toml say the same; what `import cmbfe` gives."""

import ast
import re
import runpy
import sys
import tomllib
from importlib import metadata
from importlib.metadata import packages_distributions
from pathlib import Path
from unittest import mock

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cmbfe

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PINS = [Requirement(line) for line in LOCK.splitlines()]
PLATFORMS = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]
PYTHONS = ["3.11", "3.12", "3.13"]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def direct_dependencies() -> list[Requirement]:
    """Return what the core and all extras ask for; an extra may name others of cmbfe."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [wanted for texts in lists for wanted in map(Requirement, texts) if wanted.name != "cmbfe"]


def applying(requirements: list[Requirement], system: str, machine: str, python: str) -> list[Requirement]:
    """Return the requirements whose markers hold on that machine with that Python."""
    place = {
        "os_name": "posix",
        "sys_platform": system,
        "platform_system": system.capitalize(),
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.9",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    return [each for each in requirements if each.marker is None or each.marker.evaluate(place)]


def third_party_imports(file: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules.add(node.module.split(".")[0])
    return modules - sys.stdlib_module_names - {"cmbfe"}


def test_every_line_of_the_lock_is_a_pin_with_at_most_a_marker_and_environment_yml_is_what_make_lock_writes():
    plain = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9a-z.]+( ; [a-z_]+ .+)?")
    assert [line for line in LOCK.splitlines() if not plain.fullmatch(line)] == []
    renew = runpy.run_path(str(ROOT / "tools" / "renew_environment.py"))
    written = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert written == renew["conda_environment"](LOCK), "run: python tools/renew_environment.py"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("system", "machine"), PLATFORMS)
def test_the_lock_has_one_version_of_each_package_and_every_direct_dependency(system, machine, python):
    pins = applying(PINS, system, machine, python)
    locked = {pin.name: str(pin.specifier)[2:] for pin in pins}
    assert len(locked) == len(pins)
    assert {name for name in locked if "opencv" in name} == {"opencv-python-headless"}
    assert ("nvidia-cublas" in locked) == ((system, machine) == ("linux", "x86_64"))
    for wanted in applying(direct_dependencies(), system, machine, python):
        assert locked[canonicalize_name(wanted.name)] in wanted.specifier


def test_every_package_that_the_code_imports_is_a_direct_dependency():
    owners = packages_distributions()
    declared = {canonicalize_name(each.name) for each in direct_dependencies()}
    for file in (file for folder in ("cmbfe", "tests", "tools") for file in (ROOT / folder).rglob("*.py")):
        for module in third_party_imports(file) & owners.keys():
            assert declared & {canonicalize_name(owner) for owner in owners[module]}, f"{file}: {module}"


def test_every_public_name_is_there_and_listed_and_a_reader_finds_few_modules_in_each_room():
    assert {"build", "enhance", "enhance_during_training", "evaluate", "match"} <= set(cmbfe.__all__)
    assert set(cmbfe.__all__) <= set(dir(cmbfe))
    for name in cmbfe.__all__:
        assert getattr(cmbfe, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        cmbfe.train  # noqa: B018
    root = Path(cmbfe.__file__).parent
    rooms = [root, *(folder for folder in root.rglob("*") if (folder / "__init__.py").exists())]
    modules = {room: len([file for file in room.glob("*.py") if not file.name.startswith("__")]) for room in rooms}
    assert modules.pop(root) <= 8
    assert max(modules.values()) <= 20


def test_an_installed_package_says_its_version_and_a_source_what_it_is_a_source_of(monkeypatch, tmp_path):
    version = mock.Mock(return_value="7.8")
    monkeypatch.setattr(metadata, "version", version)
    assert cmbfe.__version__ == "7.8"
    version.assert_called_with("cmbfe")
    version.side_effect = metadata.PackageNotFoundError
    assert cmbfe.__version__ == f"{PROJECT['version']}+source"
    monkeypatch.setattr(cmbfe, "__file__", str(tmp_path / "cmbfe" / "__init__.py"))
    assert cmbfe.__version__ == "unknown"
