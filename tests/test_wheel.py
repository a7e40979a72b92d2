"""A wheel of cmbfe, built and installed elsewhere, holds all that its commands read and works in an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "cmbfe", source / "cmbfe", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", source / "dist"]
    subprocess.run([*PIP, "wheel", source, *options], check=True)
    (file,) = (source / "dist").iterdir()
    return file


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory) -> Callable[..., subprocess.CompletedProcess]:
    """Run a program of a fresh environment with the wheel in an empty folder, with the packages of this one or none."""
    environment, elsewhere = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("elsewhere")
    venv.create(environment, symlinks=True)
    subprocess.run(
        [*PIP, "--python", environment / "bin" / "python", "install", "--no-deps", "--no-index", wheel], check=True
    )

    def run_there(program: str, *arguments: str, packages: bool = True) -> subprocess.CompletedProcess:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        if packages:  # on the path, .pth files are not read, so that an editable cmbfe stays out
            variables["PYTHONPATH"] = sysconfig.get_path("purelib")
        command = [environment / "bin" / program, *arguments]
        return subprocess.run(command, cwd=elsewhere, env=variables, capture_output=True, text=True, check=False)

    return run_there


def test_it_holds_every_file_of_the_package(wheel):
    wanted = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "cmbfe").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert wanted <= set(ZipFile(wheel).namelist())


def test_importing_it_loads_no_library(run):
    code = "import cmbfe, sys; print(cmbfe.__file__, *{'torch', 'numpy'} & set(sys.modules))"
    done = run("python", "-c", code, packages=False)
    assert done.returncode == 0, done.stderr
    (file,) = done.stdout.split()
    assert not Path(file).is_relative_to(ROOT)


def test_the_command_without_the_extra_says_which_one_to_install(run):
    done = run("cmbfe", "profile", "laptop", packages=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install '.[replicate]'" in done.stderr


def test_profile_phantom_and_import_work_from_it(run):
    commands = [
        ["profile", "laptop"],
        ["phantom", "raw", "--patients", "1", "--profile", "smoke", "--jobs", "1"],
        ["import", "dicom", "raw", "images", "--params", "params.yaml", "--jobs", "1"],
    ]
    for command in commands:
        done = run("cmbfe", *command)
        assert done.returncode == 0, done.stderr
    assert any(line.startswith("images: 10 images") for line in done.stdout.splitlines())
