"""Sentences follow the intervals."""

import pandas as pd
import pytest

from cmbfe.plain_words import folds, seeds_that_would_do, that_leave_out_zero, verdict


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.03, "FE helped ssd512"),
        (-0.03, -0.01, "FE harmed"),
        (-0.01, 0.03, "Whether FE helps ssd512 cannot be told"),
    ],
)
def test_the_verdict_follows_the_interval(low, high, said):
    row = pd.Series({"gain": (low + high) / 2, "gain_low": low, "gain_high": high, "seeds": 5})
    assert said in verdict("ssd512", row)
    assert f"{50 * (low + high):+.1f} AP points" in verdict("ssd512", row)


def rows(**intervals: tuple[float, float]) -> pd.DataFrame:
    """Gains by name: the middle of an interval, and the interval."""
    values = {name: ((low + high) / 2, low, high) for name, (low, high) in intervals.items()}
    return pd.DataFrame.from_dict(values, orient="index", columns=["gain", "gain_low", "gain_high"])


def test_intervals_that_leave_out_zero_are_named_on_either_side():
    found = that_leave_out_zero(rows(up=(0.01, 0.03), none=(-0.01, 0.03), down=(-0.03, -0.01)), "gain")
    assert found == (
        "2 of 3 intervals leave out zero: up (+2.0 AP points, +1.0 to +3.0); down (-2.0 AP points, -3.0 to -1.0)"
    )
    assert that_leave_out_zero(rows(none=(-0.01, 0.03)), "gain") == "the one interval holds zero"
    assert that_leave_out_zero(rows(a=(-0.01, 0.03), b=(-1, 1)), "gain") == "all 2 intervals hold zero"
    assert that_leave_out_zero(rows(), "gain") == "nothing was measured yet"


def test_seeds_that_would_do_are_those_of_the_t_interval():
    table = pd.DataFrame({"detector": ["ssd300"], "gain_seed_deviation": [0.01], "seeds": [5]})
    # t(0.975) with 6 degrees of freedom is 2.447: 2.447 * 0.01 / sqrt(7) = 0.0092; with 5, 2.571 / sqrt(6) = 1.05
    assert "7 seeds of ssd300 would narrow the interval to ± 1 AP point; 5 were trained" in seeds_that_would_do(table)


def test_the_folds_are_told_together():
    row = {
        "fold": ["1", "all"],
        "patients": [3, 6],
        "detector": "ssd300",
        "our_ap": [0.1, 0.5],
        "our_ap_fe": [0.2, 0.6],
    }
    row |= {"our_gain": [0.1, 0.1], "our_gain_low": [0.0, -0.05], "our_gain_high": [0.2, 0.25]}
    assert (
        "all 6 patients together, ssd300 has an AP of 0.500 without FE and 0.600 with it: +0.100, 95 % interval "
        in (told := folds(pd.DataFrame(row)))
    )
    assert told.endswith("-0.050 to +0.250.")
