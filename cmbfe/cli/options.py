"""Options that several commands of the command line have."""

from typing import Annotated, Any

import typer

from cmbfe.errors import InputError


def _given_jobs(jobs: int) -> int:
    if jobs == 0:
        raise InputError("--jobs 0: nothing would be done; give 1 or more, or -1 for one per core")
    return jobs


def jobs_option(what: str) -> Any:
    """The option of commands that do several things at a time."""
    return typer.Option(min=-1, callback=_given_jobs, help=f"{what} at a time; -1: one per core")


Backend = Annotated[str, typer.Option(help="loky, threading, or the address of a dask scheduler (tcp://host:8786)")]
TrainingBackend = Annotated[str, typer.Option(help="loky, or the address of a dask scheduler (tcp://host:8786)")]
"""A training sets the threads of its whole process: no two share one."""
