"""Run joblib tasks in processes on this machine or on the machines of a dask cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

from joblib import parallel_config

from cmbfe.errors import InputError

BACKENDS = ("loky", "threading")


@contextmanager
def at_work(backend: str, jobs: int) -> Iterator[None]:
    """Run the joblib tasks of the block on `backend`, a joblib backend or the address of a dask scheduler.

    Raises:
        InputError: no such backend, no dask installed, or no scheduler at that address.
    """
    dask = "://" in backend
    options = {"backend": "dask", "scheduler_host": backend} if dask else {"backend": backend}
    try:
        config = parallel_config(**options, n_jobs=jobs)
    except (ImportError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        hint = "give loky, threading or the address of a running dask scheduler"
        raise InputError(f"backend {backend}: {reason}; {hint} (dask needs the package distributed)") from None
    with config:
        yield


def check_backend(backend: str) -> None:
    """Raise `InputError` for a backend that cannot return results one by one."""
    if backend not in BACKENDS and "://" not in backend:
        raise InputError(f"backend {backend}: give {', '.join(BACKENDS)}, or the address of a dask scheduler")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let PyTorch use `number` threads inside the block.

    The order of sums depends on the number of threads, and so do the final weights of a training.
    """
    import torch  # imported here, so that the command line starts without it

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
