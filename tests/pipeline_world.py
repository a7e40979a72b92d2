"""A scratch copy of the pipelines and their code."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def copy_pipelines(folder: Path, *more: str) -> Path:
    """Copy code, notebooks, pipelines and `more` to a folder that DVC takes as `dvc init --no-scm` leaves it."""
    for name in ("cmbfe", "notebooks", "studies", "tools", "dvc.yaml", ".dvcignore", *more):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "dvc.lock")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = True\n", encoding="utf-8")
    return folder
