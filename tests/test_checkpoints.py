"""What a training leaves on its way: checkpoints, of which the newest two are kept, and DVCLive's curves."""

import json
import os
import random

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_world import tree

from cmbfe.training.checkpoints import load_checkpoint, remove_partial_files, restore_random_states, save_checkpoint
from cmbfe.training.curves import live_curves, write_curves

MINE = {"seed": 1}


def save(folder, *iterations: int) -> None:
    for iteration in iterations:
        save_checkpoint(folder, iteration, MINE, "code", {"weight": torch.full((2,), float(iteration))})


def test_the_newest_comes_back_only_two_stay_and_what_a_killed_writer_left_is_removed(tmp_path):
    save(tmp_path, 8, 9, 10)
    others = (".iteration000000011.123.partial.pt", ".hidden", "notes.partial.pt")
    for name in others:
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    remove_partial_files(tmp_path / "absent")
    assert set(tree(tmp_path)) == {"iteration000000009.pt", "iteration000000010.pt", *others[1:]}
    file, state = load_checkpoint(tmp_path, MINE)
    assert file == tmp_path / "iteration000000010.pt"
    assert state["weight"].tolist() == [10, 10]


def test_an_unreadable_one_or_one_that_would_run_code_is_named_and_the_one_before_taken(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save(Evil(), tmp_path / "evil")
    for content in (b"", b"PK\x03\x04 half of a file", b"no checkpoint at all", (tmp_path / "evil").read_bytes()):
        save(tmp_path, 1)
        (tmp_path / "iteration000000002.pt").write_bytes(content)
        said: list[str] = []
        file, _ = load_checkpoint(tmp_path, MINE, say=said.append)
        assert file.name == "iteration000000001.pt"
        assert said[0].startswith(f"{tmp_path / 'iteration000000002.pt'}: unreadable")
    assert not (tmp_path / "ran").exists()
    file.unlink()
    assert load_checkpoint(tmp_path, MINE) is load_checkpoint(tmp_path / "absent", MINE) is None


def test_every_random_generator_resumes_where_it_was(tmp_path):
    def draw() -> tuple[float, ...]:
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    save(tmp_path, 1)
    expected = draw()
    draw()
    _, state = load_checkpoint(tmp_path, MINE)
    restore_random_states(state["random"])
    assert draw() == expected


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


def test_a_point_is_the_mean_since_the_last_one_and_the_ap_stands_where_it_was_measured(tmp_path, rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(None, rows)
    assert not list(tmp_path.iterdir())  # without a folder nothing is written
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


def test_curves_from_the_history_of_a_training_are_those_that_it_wrote(tmp_path, rows):
    write(tmp_path / "live", rows, iterations=len(rows))
    pd.DataFrame(rows).to_csv(tmp_path / "history.csv", index=False)
    write_curves(tmp_path / "again", pd.read_csv(tmp_path / "history.csv"))
    assert tree(tmp_path / "again") == tree(tmp_path / "live")
