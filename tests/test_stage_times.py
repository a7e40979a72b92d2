"""tools/stage_times.py on small fake notebooks, and how README.md shows what it found."""

import json
from pathlib import Path

import pytest

from cmbfe.errors import InputError
from tools.renew_readme import minutes_and_seconds, stages
from tools.stage_times import notebooks_of_stages, stage_times

SETTINGS = {"variants": ["ssd300", "ssd300-fe"]}
COMMAND = "mkdir -p results/notebooks && papermill -p variant ${item} notebooks/%s.ipynb results/notebooks/%s.ipynb"
PIPELINE = {
    "stages": {
        "data": {"cmd": COMMAND % ("01_data", "01_data")},
        "train": {"foreach": "${variants}", "do": {"cmd": COMMAND % ("03_training", "03_training-${item}")}},
        "froc": {"cmd": COMMAND % ("04_froc", "04_froc")},
        "site": {"cmd": "python tools/build_site.py"},
    }
}


def executed(folder: Path, name: str, **papermill: object) -> None:
    """Write what matters here of an executed notebook."""
    (folder / f"{name}.ipynb").write_text(json.dumps({"cells": [], "metadata": {"papermill": papermill}}))


@pytest.fixture
def notebooks(tmp_path) -> Path:
    for name, seconds in (
        ("04_froc", 4.5),
        ("01_data", 61.25),
        ("03_training-ssd300-fe", 3),
        ("03_training-ssd300", 2),
    ):
        executed(tmp_path, name, duration=seconds, exception=None)
    return tmp_path


def test_every_stage_has_the_duration_of_its_notebook_in_the_pipelines_order(notebooks):
    times = stage_times(notebooks, PIPELINE, SETTINGS)
    assert times.index.name == "stage"
    assert times["seconds"].to_dict() == {"data": 61.25, "train@ssd300": 2.0, "train@ssd300-fe": 3.0, "froc": 4.5}
    assert list(times.index) == ["data", "train@ssd300", "train@ssd300-fe", "froc"]


def test_a_stage_may_be_repeated_for_a_list_or_a_nested_setting():
    command = {"cmd": "papermill a.ipynb results/notebooks/a-${item}.ipynb"}
    for foreach in (["x", "y"], "${some.names}"):
        pipeline = {"stages": {"a": {"foreach": foreach, "do": command}}}
        found = notebooks_of_stages(pipeline, {"some": {"names": ["x", "y"]}})
        assert found == {"a@x": "a-x.ipynb", "a@y": "a-y.ipynb"}


def test_a_notebook_that_is_missing_is_named(notebooks):
    (notebooks / "04_froc.ipynb").unlink()
    with pytest.raises(InputError, match=r"04_froc\.ipynb: no such file; `make repro` writes it"):
        stage_times(notebooks, PIPELINE, SETTINGS)


@pytest.mark.parametrize("papermill", [{}, {"duration": None}, {"duration": 3.0, "exception": True}])
def test_a_notebook_that_was_not_run_to_its_end_is_named(notebooks, papermill):
    executed(notebooks, "01_data", **papermill)
    with pytest.raises(InputError, match=r"01_data\.ipynb: was not run to its end"):
        stage_times(notebooks, PIPELINE, SETTINGS)


def test_the_readme_shows_minutes_seconds_and_the_sum(tmp_path):
    file = tmp_path / "stages.csv"
    file.write_text("stage,seconds\ndata,61.2\nfroc,4.4\n")
    assert stages(file).splitlines()[2:] == ["| data | 1 min 01 s |", "| froc | 4 s |", "| all | 1 min 06 s |"]
    with pytest.raises(InputError, match=r"nothing\.csv: no such file"):
        stages(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3725.0, "62 min 05 s")]
)
def test_minutes_and_seconds(seconds, text):
    assert minutes_and_seconds(seconds) == text
