"""Matches survive their file: every metric is the same afterwards, and what is no such file is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from metric_examples import label_and_detection_sets

from cmbfe.errors import InputError
from cmbfe.metrics.curves import summary
from cmbfe.metrics.matches_file import load_matches, save_matches
from cmbfe.metrics.matching import match


@settings(max_examples=40, deadline=None)
@given(label_and_detection_sets(regions=True))
def test_every_metric_is_the_same_after_writing_and_reading(tmp_path_factory, example):
    file = tmp_path_factory.mktemp("matches") / "one.npz"
    matches = match(*example)
    save_matches(matches, file)
    read = load_matches(file)
    np.testing.assert_equal(summary(read), pytest.approx(summary(matches), nan_ok=True, rel=1e-6))
    assert read.truth_ids == matches.truth_ids
    assert read.patients == [str(patient) for patient in matches.patients]
    np.testing.assert_array_equal(read.outcome, matches.outcome)
    np.testing.assert_array_equal(read.truth_score > -np.inf, matches.truth_score > -np.inf)
    first = file.read_bytes()
    save_matches(matches, file)
    assert file.read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_file_of_matches_is_refused_by_name(content, tmp_path):
    file = tmp_path / "broken.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.npz: no (such )?file"):
        load_matches(file)


def test_an_archive_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", score=np.zeros(3))
    with pytest.raises(InputError, match=r"other\.npz: no file of matches"):
        load_matches(tmp_path / "other.npz")
