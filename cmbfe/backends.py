"""Which of joblib's backends give results one after another, as they are made."""

from cmbfe.errors import InputError

BACKENDS = ("loky", "threading")


def check_backend(backend: str) -> None:
    """Raise `InputError` for one that does not; an address is that of a dask scheduler."""
    if backend not in BACKENDS and "://" not in backend:
        raise InputError(f"backend {backend}: give {', '.join(BACKENDS)}, or the address of a dask scheduler")
