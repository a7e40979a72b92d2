"""Wall time of every stage of the pipeline, read from the executed notebooks: writes results/tables/stages.csv.

    python tools/stage_times.py [--notebooks results/notebooks]

A time is that of the stage's last run: DVC leaves out a stage whose inputs have not changed, and a training that was
killed counts from where it went on. What DVC and papermill take to start, a few seconds a stage, is not in it.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cmbfe.errors import InputError
from cmbfe.files import read_json
from cmbfe.tables import write_table

ROOT = Path(__file__).resolve().parent.parent


def notebooks_of_stages(pipeline: dict[str, Any], settings: dict[str, Any]) -> dict[str, str]:
    """Stage -> file name of its executed notebook, in the order of dvc.yaml; stages without a notebook are left out.

    pipeline, settings: the content of dvc.yaml and params.yaml; a stage for each variant is named `train@ssd512`.
    """
    found = {}
    for name, stage in pipeline["stages"].items():
        if "foreach" not in stage:
            if "papermill" in stage["cmd"]:
                found[name] = _executed_notebook(stage["cmd"])
            continue
        for item in _items(stage["foreach"], settings):
            found[f"{name}@{item}"] = _executed_notebook(stage["do"]["cmd"].replace("${item}", item))
    return found


def _executed_notebook(command: str) -> str:
    return re.findall(r"results/notebooks/(\S+\.ipynb)", command)[-1]


def _items(foreach: str | list[str], settings: dict[str, Any]) -> list[str]:
    """What a stage is repeated for: a list, or the name of one in params.yaml."""
    if isinstance(foreach, list):
        return foreach
    value: Any = settings
    for key in foreach.removeprefix("${").removesuffix("}").split("."):
        value = value[key]
    return value


def seconds_of_notebook(notebook: Path) -> float:
    """How long papermill took to run a notebook to its end.

    Raises:
        InputError: no such notebook, one that was not run, or one that failed.
    """
    if not notebook.is_file():
        raise InputError(f"{notebook}: no such file; `make repro` writes it")
    run = read_json(notebook)["metadata"].get("papermill", {})
    if run.get("exception") or run.get("duration") is None:
        raise InputError(f"{notebook}: was not run to its end; `make repro` runs it")
    return float(run["duration"])


def stage_times(notebooks: Path, pipeline: dict[str, Any], settings: dict[str, Any]) -> pd.DataFrame:
    """Column `seconds` by `stage`, in the order of dvc.yaml."""
    seconds = {
        stage: seconds_of_notebook(notebooks / name)
        for stage, name in notebooks_of_stages(pipeline, settings).items()
    }
    return pd.Series(seconds, name="seconds").rename_axis("stage").to_frame()


def main() -> None:
    """Write the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--notebooks", type=Path, default=ROOT / "results" / "notebooks", help="folder of the executed notebooks"
    )
    given = parser.parse_args()
    pipeline, settings = (yaml.safe_load((ROOT / name).read_text()) for name in ("dvc.yaml", "params.yaml"))
    table = stage_times(given.notebooks, pipeline, settings)
    write_table(table, ROOT / "results" / "tables" / "stages.csv")
    print(table.to_string(float_format="%.1f"))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
