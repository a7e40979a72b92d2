"""A training and its test on one thread; tests of study and objects run both whole."""

from pathlib import Path

import pytest
import torch

from cmbfe.errors import InputError
from cmbfe.twins import load_twins, one_thread


def test_a_training_on_one_thread_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_missing_file_of_matches_is_named(tmp_path):
    with pytest.raises(InputError, match=r"ssd300-1\.npz: no such file"):
        load_twins([Path(tmp_path / "ssd300-1.npz")])
