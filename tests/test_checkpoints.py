"""Checkpoints: the newest two, unreadable ones passed over, random generators as they were."""

import os
import random

import numpy as np
import torch

from cmbfe.training.checkpoints import (
    load_checkpoint,
    remove_partial_files,
    restore_random_states,
    save_checkpoint,
)

MINE = {"seed": 1}


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(folder, *iterations: int) -> None:
    for iteration in iterations:
        save_checkpoint(folder, iteration, MINE, "code", {"weight": torch.full((2,), float(iteration))})


def test_the_newest_comes_back_and_only_two_stay(tmp_path):
    save(tmp_path, 8, 9, 10)
    assert names(tmp_path) == ["iteration000000009.pt", "iteration000000010.pt"]
    file, state = load_checkpoint(tmp_path, MINE)
    assert file == tmp_path / "iteration000000010.pt"
    assert state["weight"].tolist() == [10, 10]


def test_an_unreadable_one_or_one_that_would_run_code_is_named_and_the_one_before_taken(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save(Evil(), tmp_path / "evil")
    contents = (b"", b"PK\x03\x04 half of a file", b"no checkpoint at all", (tmp_path / "evil").read_bytes())
    for content in contents:
        save(tmp_path, 1)
        (tmp_path / "iteration000000002.pt").write_bytes(content)
        said: list[str] = []
        file, _ = load_checkpoint(tmp_path, MINE, say=said.append)
        assert file.name == "iteration000000001.pt"
        assert said[0].startswith(f"{tmp_path / 'iteration000000002.pt'}: unreadable")
    assert not (tmp_path / "ran").exists()
    file.unlink()
    for folder in (tmp_path, tmp_path / "absent"):
        assert load_checkpoint(folder, MINE) is None


def test_every_random_generator_resumes_where_it_was(tmp_path):
    def draw() -> tuple[float, ...]:
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    save(tmp_path, 1)
    expected = draw()
    draw()
    _, state = load_checkpoint(tmp_path, MINE)
    restore_random_states(state["random"])
    assert draw() == expected


def test_only_what_a_killed_writer_left_is_removed(tmp_path):
    save(tmp_path, 1)
    for name in (".iteration000000002.123.partial.pt", ".hidden", "notes.partial.pt"):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    remove_partial_files(tmp_path / "absent")
    assert names(tmp_path) == [".hidden", "iteration000000001.pt", "notes.partial.pt"]
