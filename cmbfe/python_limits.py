"""Text that Python itself gives up on: `InputError` as for any other bad file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmbfe.errors import InputError


@contextmanager
def within_python(path: Path | str) -> Iterator[None]:
    """Reading of a JSON or YAML file inside the block.

    Raises:
        InputError: a number of thousands of digits, a date that does not exist, or thousands of lists in each other.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, AttributeError, OverflowError, RecursionError) as error:
        what = "its lists or objects lie too deep in each other" if isinstance(error, RecursionError) else error
        raise InputError(f"{path}: holds a value that cannot be read: {' '.join(str(what).split())}") from None
