"""The files of an evaluation, by any tool, and what is refused in one line."""

import json

import pytest
from metric_examples import detection
from test_evaluate import cohort, write

from cmbfe.errors import InputError
from cmbfe.evaluation.evaluate import read_mimics, read_results


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000])
def test_what_python_cannot_read_is_no_traceback(tmp_path, text):
    (tmp_path / "found.json").write_text(text)
    with pytest.raises(InputError, match=r"found\.json: holds a value that cannot be read"):
        read_results(tmp_path / "found.json", cohort())


def test_detections_are_refused_where_no_image_is(tmp_path):
    found = [detection(1, 0.5, [1, 1, 4, 4]), detection(2, 0.5, [0, -2e9, 4, 4])]
    (path,) = write(tmp_path, found=found)
    with pytest.raises(InputError, match=r"found\.json: the box \[0, -2000000000\.0, 4, 4\] lies beyond"):
        read_results(path, cohort())
    path.write_text(json.dumps(found[:1]))
    assert read_results(path, cohort()) == found[:1]


@pytest.mark.parametrize(
    ("category", "text"), [({}, "its name None"), ({"name": 3}, "name 3"), ({"name": "none"}, "rename")]
)
def test_kinds_of_mimics_need_names_of_their_own(tmp_path, category, text):
    (path,) = write(tmp_path, mimics={**cohort(), "categories": [{"id": 1, **category}]})
    with pytest.raises(InputError, match=rf"mimics\.json: category 1: .*{text}"):
        read_mimics(path)
