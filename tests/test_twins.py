"""A training and its test on one thread; tests of study and objects run both whole."""

from pathlib import Path

import pytest

from cmbfe.errors import InputError
from cmbfe.studies.twins import load_twins


def test_a_missing_file_of_matches_is_named(tmp_path):
    with pytest.raises(InputError, match=r"ssd300-1\.npz: no such file"):
        load_twins([Path(tmp_path / "ssd300-1.npz")])
