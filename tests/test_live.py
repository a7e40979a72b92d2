"""DVCLive's curves: means between points, the last values, and the same files after an interruption."""

import json

import pandas as pd
import pytest
from tiny_world import tree

from cmbfe.training.curves import live_curves, write_curves


def row(iteration: int, ap: float | None = None) -> dict:
    return {"iteration": iteration, "loss": float(iteration), "learning_rate": 0.1, "validation_ap": ap}


def curve(folder, name: str) -> list[list[float]]:
    return pd.read_csv(folder / "plots" / "metrics" / f"{name}.tsv", sep="\t").to_numpy().tolist()


@pytest.fixture
def rows() -> list[dict]:
    """400 iterations: a point for every second one."""
    return [row(number, ap=number / 1000 if number in (3, 4) else None) for number in range(1, 7)]


def write(folder, rows: list[dict], begin: int = 0, iterations: int = 400) -> None:
    history = rows[:begin]
    with live_curves(folder, history, iterations) as log:
        for new in rows[begin:]:
            history.append(new)
            log()


def test_a_point_is_the_mean_since_the_last_one_and_the_ap_stands_where_it_was_measured(tmp_path, rows):
    write(tmp_path / "live", rows)
    assert curve(tmp_path / "live", "loss") == [[2, 1.5], [4, 3.5], [6, 5.5]]
    assert curve(tmp_path / "live", "validation_ap") == [[3, 0.003], [4, 0.004]]
    last = json.loads((tmp_path / "live" / "metrics.json").read_text())
    assert last == {"loss": 5.5, "learning_rate": 0.1, "validation_ap": 0.004, "step": 6}


def test_an_interruption_leaves_no_trace_in_the_files(tmp_path, rows):
    write(tmp_path / "at once", rows)
    for begin in (0, 1, 3, 6):
        write(tmp_path / "in two", [*rows[:5], row(6, ap=0.9)])  # went further than its checkpoint, and elsewhere
        write(tmp_path / "in two", rows, begin)
        assert tree(tmp_path / "in two") == tree(tmp_path / "at once")


def test_without_a_folder_nothing_is_written(tmp_path, rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(None, rows)
    assert not list(tmp_path.iterdir())


def test_curves_from_the_history_of_a_training_are_those_that_it_wrote(tmp_path, rows):
    write(tmp_path / "live", rows, iterations=len(rows))
    pd.DataFrame(rows).to_csv(tmp_path / "history.csv", index=False)
    write_curves(tmp_path / "again", pd.read_csv(tmp_path / "history.csv"))
    assert tree(tmp_path / "again") == tree(tmp_path / "live")
