"""The paper's numbers, held against its own sums and formulas."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmbfe.paper import facts


def test_table_1_adds_up_to_its_total():
    splits = facts.TABLE_1.loc[["train", "test", "validation"]]
    assert splits.sum().tolist() == facts.TABLE_1.loc["total"].tolist() == [58, 723, 1301]


def test_the_augmented_set_is_no_multiple_of_the_training_images():
    assert facts.AUGMENTED_IMAGES == 4434
    assert divmod(facts.AUGMENTED_IMAGES, int(facts.TABLE_1.loc["train", "pictures"])) == (9, 231)


def test_enhancement_gains_two_points_of_average_precision():
    assert facts.TABLE_2_AP["ssd300-fe"] - facts.TABLE_2_AP["ssd300"] == pytest.approx(0.020)
    assert facts.TABLE_2_AP["ssd512-fe"] - facts.TABLE_2_AP["ssd512"] == pytest.approx(0.023)


def test_precision_at_90_is_table_3s_and_agrees_with_table_4():
    assert facts.PRECISION_AT_90["resnet34-300-fe"] == 0.731
    assert facts.PRECISION_AT_90["ssd512"] == facts.TABLE_4.loc["SSD-512", "precision"]
    assert facts.PRECISION_AT_90["ssd512-fe"] == facts.TABLE_4.loc["SSD-512-FE", "precision"]
    assert "ssd300" not in facts.PRECISION_AT_90


@pytest.mark.parametrize(
    ("algorithm", "follows"),
    [("SSD-512", 0.278), ("SSD-512-FE", 0.229), ("Liu et al.", 0.393), ("Chen et al.", 0.370)],
)
def test_false_positives_per_microbleed_that_follow_from_table_4(algorithm, follows):
    row = facts.TABLE_4.loc[algorithm]
    assert facts.false_positives_per_cmb(row["sensitivity"], row["precision"]) == pytest.approx(follows, abs=5e-4)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(0, 500), st.integers(1, 500))
def test_false_positives_per_microbleed_are_what_counting_gives(hits, false_positives, misses):
    truths = hits + misses
    sensitivity, precision = hits / truths, hits / (hits + false_positives)
    assert facts.false_positives_per_cmb(sensitivity, precision) == pytest.approx(false_positives / truths, abs=1e-9)


def test_ten_folds_gain_two_points_too_and_lie_near_table_2():
    assert facts.TEN_FOLD_AP["ssd512-fe"] - facts.TEN_FOLD_AP["ssd512"] == pytest.approx(0.02)
    assert all(abs(value - facts.TABLE_2_AP[name]) < 0.01 for name, value in facts.TEN_FOLD_AP.items())
