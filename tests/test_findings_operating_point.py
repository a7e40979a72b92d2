"""The threshold of the validation patients, from either file that holds one."""

import json

import pytest

from cmbfe.errors import InputError
from cmbfe.findings.model import read_threshold

TABLE = "variant,threshold,sensitivity\nssd512,0.16,0.88\nssd300,,\n"


def test_a_detector_takes_its_own_row(tmp_path):
    (tmp_path / "operating_point.csv").write_text(TABLE)
    assert read_threshold(tmp_path / "operating_point.csv", "ssd512") == 0.16


def test_the_metrics_of_an_evaluation_hold_a_threshold_too(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"threshold": 0.25, "ap": 0.5}))
    assert read_threshold(tmp_path / "metrics.json", "ssd512") == 0.25


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", None, r"a\.csv: no such file"),
        ("a.csv", TABLE, "ssd300 has no threshold there"),
        ("a.csv", TABLE.replace("ssd300", "ssd300-fe"), "0 rows of ssd300; it names ssd512, ssd300-fe"),
        ("a.csv", "a,b\n1,2\n", "columns variant and threshold"),
        ("a.csv", "", "not readable as CSV"),
        ("a.csv", TABLE.replace("ssd300,,", "ssd300,high,"), "ssd300 has no threshold"),
        ("a.json", "{}", "holds no threshold"),
        ("a.json", "[1]", "holds no threshold"),
        ("a.json", '{"threshold": null}', "has no threshold"),
        ("a.json", "{", "not JSON"),
    ],
)
def test_a_file_without_a_threshold_is_refused_in_one_line(tmp_path, name, text, reason):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason) as refused:
        read_threshold(tmp_path / name, "ssd300")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"threshold": true}', "the threshold of ssd300 is True, and not from 0 to 1"),
        ('{"threshold": -1}', "the threshold of ssd300 is -1, and not from 0 to 1"),
        ('{"threshold": 2}', "is 2, and not from 0 to 1"),
        ('{"threshold": 1%s}' % ("0" * 400), "no score"),
        ('{"threshold": 1%s}' % ("0" * 5000), "holds a value that cannot be read"),
        ("[" * 100_000, "holds a value that cannot be read"),
    ],
)
def test_a_threshold_is_a_score(tmp_path, text, reason):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_threshold(tmp_path / "metrics.json", "ssd300")
