"""`make env` and .ci/run, with a script in the place of Python and pip that notes what it is asked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PYTHON = """#!/bin/sh
echo "$*" >> calls.txt
case "$*" in
  "-m venv "*)
    case "$*" in *" --clear "*) rm -rf .venv/* .venv/.[a-z]* ;; esac
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    printf '#!/bin/sh\\necho "pip 26 from %s/.venv/lib"\\n' "$PWD" > .venv/bin/pip
    chmod +x .venv/bin/pip ;;
  *" -r requirements.lock") test ! -e cable-cut ;;
esac
"""
# Run what they are given after -c, in a Python that takes itself for 3.10 and 3.11.
OLD_PYTHON = f"""#!/bin/sh
exec '{sys.executable}' -c "import sys; sys.version_info = (3, 10, 13); $2"
"""
NEW_PYTHON = OLD_PYTHON.replace("(3, 10, 13)", "(3, 11, 0)")
VENV, PACKAGES, EDITABLE = "venv", "packages", "editable"


def script(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)


def run(*command: str, folder: Path, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    # The surrounding `make test` hands its own variables on in MAKE*.
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    surroundings["PATH"] = path
    return subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True)


def steps(folder: Path, python: str = "./python") -> list[str]:
    """Run `make env` and return the steps that it took."""
    calls = folder / "calls.txt"
    calls.write_text("", encoding="utf-8")
    run("make", "env", f"PYTHON={python}", folder=folder)
    lines = calls.read_text(encoding="utf-8").splitlines()
    words = {"-m venv": VENV, "-r requirements.lock": PACKAGES, "--editable": EDITABLE}
    return [step for line in lines for word, step in words.items() if word in line]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    script(folder / "python", PYTHON)
    return folder


def test_the_first_call_installs_and_the_second_does_nothing(clone):
    assert steps(clone) == [VENV, PACKAGES, EDITABLE]
    assert steps(clone) == []


def test_a_new_lock_starts_a_new_environment(clone):
    steps(clone)
    leftover = clone / ".venv" / "package-of-the-old-lock"
    leftover.touch()
    os.utime(clone / ".venv" / ".packages", (0, 0))
    assert steps(clone) == [VENV, PACKAGES, EDITABLE]
    assert not leftover.exists()


def test_a_new_pyproject_installs_only_the_project_again(clone):
    steps(clone)
    os.utime(clone / ".venv" / ".packages", (1, 1))
    os.utime(clone / "requirements.lock", (0, 0))
    os.utime(clone / ".venv" / ".installed", (2, 2))
    assert steps(clone) == [EDITABLE]


def test_an_interrupted_installation_starts_anew(clone):
    (clone / "cable-cut").touch()
    assert steps(clone) == [VENV, PACKAGES]
    (clone / "cable-cut").unlink()
    assert steps(clone) == [VENV, PACKAGES, EDITABLE]


def test_an_environment_whose_python_has_gone_is_made_anew(clone):
    steps(clone)
    (clone / ".venv" / "bin" / "pip").write_text("#!/nowhere/python\n", encoding="utf-8")
    assert steps(clone) == [VENV, PACKAGES, EDITABLE]


def test_an_environment_that_moved_with_its_folder_is_made_anew(clone):
    steps(clone)
    moved = clone.rename(clone.with_name("elsewhere"))
    assert steps(moved) == [VENV, PACKAGES, EDITABLE]


def test_a_link_to_the_environment_of_another_clone_is_replaced_and_the_other_stays(clone):
    steps(clone)
    other = clone.with_name("other")
    (clone / ".venv").rename(other)
    (clone / ".venv").symlink_to(other)
    os.utime(other / ".packages", (0, 0))
    assert steps(clone) == [VENV, PACKAGES, EDITABLE]
    assert not (clone / ".venv").is_symlink()
    assert (other / ".installed").exists()


@pytest.mark.parametrize("python", ["./python3.10", "no-such-python"])
def test_a_python_that_is_too_old_or_absent_gives_one_line_and_leaves_the_environment_alone(clone, python):
    steps(clone)
    script(clone / "python3.10", OLD_PYTHON)
    os.utime(clone / ".venv" / ".packages", (0, 0))
    result = run("make", "env", f"PYTHON={python}", folder=clone)
    assert result.returncode == 2
    ours, makes = result.stderr.splitlines()
    assert ours == "cmbfe needs Python 3.11 or newer; say which: make env PYTHON=python3.12"
    assert makes.startswith("make: ***")
    assert (clone / ".venv" / "bin" / "python").exists()


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return a folder of programs: Pythons that are too old, and a make that tells what it is asked."""
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        script(tmp_path / name, OLD_PYTHON)
    script(tmp_path / "make", '#!/bin/sh\necho "$PWD: $*"\n')
    return tmp_path


def test_ci_runs_make_test_in_the_root_with_the_first_python_that_is_new_enough(machine):
    script(machine / "python3.12", NEW_PYTHON)
    result = run(str(ROOT / ".ci" / "run"), folder=machine, path=f"{machine}:{os.environ['PATH']}")
    assert (result.returncode, result.stdout) == (0, f"{ROOT}: test PYTHON=python3.12\n")


def test_ci_says_that_no_python_is_new_enough(machine):
    result = run(str(ROOT / ".ci" / "run"), folder=machine, path=f"{machine}:{os.environ['PATH']}")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("cmbfe needs Python 3.11 or newer; none of ")
