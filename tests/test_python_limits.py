"""What Python gives up on is said in one line."""

import json

import pytest
import yaml

from cmbfe.errors import InputError
from cmbfe.files import within_python


@pytest.mark.parametrize(
    ("read", "text", "reason"),
    [
        (json.loads, "9" * 5000, "digits"),
        (json.loads, "[" * 100_000, "too deep in each other"),
        (yaml.safe_load, "2024-02-30", "day is out of range"),
        (yaml.safe_load, "!!timestamp x", "NoneType"),
    ],
)
def test_the_file_and_the_reason_in_one_line(read, text, reason):
    wanted = f"^labels: holds a value that cannot be read: .*{reason}"
    with pytest.raises(InputError, match=wanted) as caught, within_python("labels"):
        read(text)
    assert "\n" not in str(caught.value)


def test_a_reason_that_is_known_stays():
    with pytest.raises(InputError, match=r"^why$"), within_python("labels"):
        raise InputError("why")
