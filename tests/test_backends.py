"""Backends that do not give results one after another are refused before anything is done."""

import pytest

from cmbfe.errors import InputError
from cmbfe.parallel import check_backend


@pytest.mark.parametrize("backend", ["loky", "threading", "tcp://host:8786"])
def test_those_that_stream_pass(backend):
    check_backend(backend)


@pytest.mark.parametrize("backend", ["multiprocessing", "sequential", ""])
def test_others_are_named(backend):
    with pytest.raises(InputError, match=f"^backend {backend}: give loky, threading, or the address"):
        check_backend(backend)
