"""Write environment.yml from requirements.lock. `make lock` runs this, and a test checks that the files agree."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# PIP_NO_DEPS, because neither conda nor a requirements file can pass --no-deps on to pip.
HEAD = """\
# cmbfe for conda users on CUDA (PyTorch's CUDA 13 build). `make lock` writes it from requirements.lock.
#   PIP_NO_DEPS=1 conda env create --file environment.yml
# The list is complete. Without PIP_NO_DEPS pip would look for dependencies once more, and imgaug would bring
# opencv-python, which needs the system's libGL, over opencv-python-headless.
name: cmbfe
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.12
  - pip
  - git
  - pip:
"""


def conda_environment(lock: str) -> str:
    """Return the text of environment.yml: all lines of the lock with their markers, and cmbfe as editable install."""
    pins = "".join(f"    - {line}\n" for line in lock.splitlines())
    return HEAD + pins + "    - --editable .\n"


if __name__ == "__main__":
    lock_text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (ROOT / "environment.yml").write_text(conda_environment(lock_text), encoding="utf-8")
