"""Learning curves while a training runs, as DVCLive keeps them."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from dvclive import Live

POINTS = 200  # about how many points a whole training has


@contextmanager
def live_curves(folder: Path | None, history: Sequence[dict], iterations: int) -> Iterator[Callable[[], None]]:
    """Write learning curves to `folder` (None: not at all). Call the yielded function for each new row of `history`.

    metrics.json has the last values; plots/metrics/NAME.tsv has a row (step, value) per point. A point is the mean
    since the previous point, except for the validation AP. A resumed training rewrites all curves from its history.
    """
    if folder is None:
        yield lambda: None
        return
    every = max(iterations // POINTS, 1)
    shutil.rmtree(folder, ignore_errors=True)
    with Live(str(folder), save_dvc_exp=False, dvcyaml=None) as live:
        for done in range(1, len(history) + 1):
            _log(live, history, done, every)
        yield lambda: _log(live, history, len(history), every)


def write_curves(folder: Path, history: pd.DataFrame) -> None:
    """Rewrite the curves of a finished training from its history, since DVC removes a stage's curves before it runs."""
    rows = history.astype(object).where(history.notna(), None).to_dict("records")
    with live_curves(folder, rows, len(rows)):
        pass


def _log(live: Live, history: Sequence[dict], done: int, every: int) -> None:
    last = history[done - 1]
    live.step = last["iteration"]
    if last["validation_ap"] is not None:
        live.log_metric("validation_ap", last["validation_ap"])
    if done % every == 0:
        recent = history[done - every : done]
        for name in (name for name in last if name not in ("iteration", "validation_ap")):
            live.log_metric(name, sum(row[name] for row in recent) / every)
    if done % every == 0 or last["validation_ap"] is not None:
        live.make_summary()
