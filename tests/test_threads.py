"""PyTorch's threads."""

import pytest
import torch

from cmbfe.parallel import one_thread


def test_the_number_of_threads_is_afterwards_as_it_was_also_after_an_error():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    with pytest.raises(ValueError, match="inside"), one_thread():
        raise ValueError("inside")
    assert torch.get_num_threads() == before
