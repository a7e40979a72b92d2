"""A training that is killed ends with the files of one that is not: the short form of tools/kill_training.py."""

import random
import sys

import pytest

from tools import kill_training as tool

KILLS = 3


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL and no process groups there")
def test_killed_three_times_a_training_ends_with_the_same_files(tmp_path):
    tool.prepare(tmp_path, iterations=8, seed=0)
    outcome = tool.kill_again_and_again(tmp_path, iterations=8, kills=KILLS, inside=1, seed=0)
    assert len(outcome.kills) >= KILLS
    assert outcome.inside >= 1
    assert outcome.finished >= 1
    assert outcome.different == []
    compared = tool.results(tmp_path / "uninterrupted")
    assert {"model.safetensors", "history.csv", "best/model.safetensors"} < set(compared)
    assert "live/plots/metrics/classification.tsv" in compared


def test_a_file_that_changed_or_exists_on_one_side_only_differs():
    assert tool.differing({"same": "1", "changed": "1", "lost": "1"}, {"same": "1", "changed": "2", "new": "1"}) == [
        "changed",
        "lost",
        "new",
    ]


def test_half_a_checkpoint_counts_for_the_process_that_writes_it(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "iteration000000007.pt").touch()
    (tmp_path / "checkpoints" / ".iteration000000008.41.partial.pt").touch()
    assert tool.writes_checkpoint(tmp_path, 41)
    assert not tool.writes_checkpoint(tmp_path, 4)
    assert tool.newest_checkpoint(tmp_path) == 7
    assert tool.newest_checkpoint(tmp_path / "nowhere") == 0


@pytest.mark.parametrize("seed", range(5))
def test_as_many_kills_as_wanted_are_aimed_at_a_checkpoint(seed):
    rng, aimed = random.Random(seed), 0
    for left in range(20, 0, -1):
        aimed += tool.aims_inside(left, 5 - aimed, rng)
    assert aimed == 5
    assert tool.aims_inside(0, 1, rng)  # one that was missed is made up for


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("done", [0, 5, 9])
def test_a_moment_lies_in_what_is_left_of_a_training(inside, done):
    pace, rng = tool.Pace(iterations=10, first_checkpoint=5.0, whole=15.0), random.Random(0)
    moments = [tool.draw_moment(done, inside, pace, rng) for _ in range(200)]
    assert all(moment.inside is inside for moment in moments)
    started = [moment for moment in moments if moment.checkpoint > 0]
    earliest, latest = (done, 8) if inside else (done + 1, 9)  # of 10 iterations 9 write a checkpoint
    assert {moment.checkpoint for moment in started} == (
        {*range(max(earliest, 1), latest + 1)} if done < 9 else set()
    )
    assert all(0 <= moment.seconds <= 2 for moment in started)
    assert all(0 <= moment.seconds <= 6 for moment in moments)
