"""Where tasks run: backends that do not give results one after another are refused; threads are set back."""

import pytest
import torch

from cmbfe.errors import InputError
from cmbfe.parallel import check_backend, one_thread


def test_backends_that_stream_pass_and_others_are_named():
    for backend in ("loky", "threading", "tcp://host:8786"):
        check_backend(backend)
    for backend in ("multiprocessing", "sequential", ""):
        with pytest.raises(InputError, match=f"^backend {backend}: give loky, threading"):
            check_backend(backend)


def test_the_number_of_threads_is_afterwards_as_it_was_also_after_an_error():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    with pytest.raises(ValueError, match="inside"), one_thread():
        raise ValueError("inside")
    assert torch.get_num_threads() == before
