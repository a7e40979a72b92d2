"""Intervals: against loops, closed forms and scipy; coverage itself is measured by a benchmark."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from metric_examples import FAR, T, detection, labels_of, one_image_each
from scipy import stats as scipy_stats

from cmbfe.errors import InputError
from cmbfe.metrics import curves, intervals
from cmbfe.metrics.curves import Matches, average_precision, match, precision_at_sensitivity
from cmbfe.metrics.intervals import bootstrap, difference_over_seeds, interval_of, paired_difference


def cohort(seed: int, patients: int = 12, quality: float = 1.5):
    """Matches of random detections; the truths depend on the number of patients only."""
    rng = np.random.default_rng(seed)
    labels = labels_of({image: [T] for image in range(3 * patients)})
    for image in labels["images"]:
        image["patient_id"] = f"P{image['id'] // 3:03d}"
    detections = [detection(image, rng.normal(quality), T) for image in range(3 * patients)]
    detections += [detection(image, rng.normal(), FAR) for image in range(3 * patients)]
    return match(labels, detections)


def mean_of(values: np.ndarray):
    return lambda weights: weights @ values / weights.sum(axis=1)


def test_a_mean_has_its_standard_error_and_the_t_interval():
    # Which is what the widening for few patients is for.
    values = np.random.default_rng(0).normal(size=15)
    interval = interval_of(mean_of(values), 15, resamples=40_000, seed=1)
    expected = scipy_stats.t.interval(0.95, 14, values.mean(), values.std(ddof=1) / np.sqrt(15))
    assert interval.value == pytest.approx(values.mean())
    assert interval.standard_error == pytest.approx(values.std() / np.sqrt(15), rel=0.02)
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.06 * np.ptp(expected))


def test_bca_equals_scipy(monkeypatch):
    monkeypatch.setattr(intervals, "tail", lambda patients: 0.025)
    values = np.random.default_rng(2).exponential(size=60)
    interval = interval_of(mean_of(values), 60, resamples=20_000, seed=1)
    expected = scipy_stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=3)
    assert (interval.bca_low, interval.bca_high) == pytest.approx(tuple(expected.confidence_interval), rel=0.02)
    percentile = scipy_stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=3)
    assert (interval.low, interval.high) == pytest.approx(tuple(percentile.confidence_interval), rel=0.02)


def test_resamples_are_independent_of_the_block_size(monkeypatch):
    matches = cohort(0)
    statistic = lambda weights: average_precision(matches, weights=weights)  # noqa: E731
    whole = intervals.resampled(statistic, 12, 50, seed=3)
    monkeypatch.setattr(intervals, "RESAMPLES_AT_ONCE", 7)
    np.testing.assert_allclose(intervals.resampled(statistic, 12, 50, seed=3), whole, rtol=1e-12)
    assert len(set(whole)) > 10


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    matches = cohort(0)
    first = bootstrap(average_precision, matches, resamples=500, seed=5)
    assert bootstrap(average_precision, matches, resamples=500, seed=5) == first
    assert bootstrap(average_precision, matches, resamples=500, seed=6).low != first.low


def test_two_patients_have_intervals_from_one_to_the_other():
    interval = interval_of(mean_of(np.array([0.2, 0.6])), 2, resamples=400)
    ends = (interval.low, interval.value, interval.high, interval.bca_low, interval.bca_high)
    assert ends == pytest.approx((0.2, 0.4, 0.6, 0.2, 0.6))


def test_a_detector_compared_with_itself_differs_by_exactly_nothing():
    interval = paired_difference(average_precision, cohort(0), cohort(0), resamples=300)
    assert (interval.value, interval.low, interval.high, interval.standard_error) == (0, 0, 0, 0)
    assert (interval.bca_low, interval.bca_high) == (0, 0)


def test_the_paired_difference_is_of_the_same_patients_in_both():
    better, worse = cohort(0, quality=2.5), cohort(1, quality=1)
    interval = paired_difference(average_precision, better, worse, resamples=400, seed=2)
    rng = np.random.default_rng(2)
    draws = np.concatenate([rng.multinomial(12, np.full(12, 1 / 12), size) for size in (250, 150)])
    loop = [
        average_precision(better, weights=row[None])[0] - average_precision(worse, weights=row[None])[0]
        for row in draws
    ]
    assert interval.value == pytest.approx(average_precision(better) - average_precision(worse))
    assert interval.low == pytest.approx(np.quantile(loop, intervals.tail(12)))
    assert interval.high == pytest.approx(np.quantile(loop, 1 - intervals.tail(12)))


def test_what_cannot_be_compared_is_an_error():
    with pytest.raises(InputError, match="same images and ground truth"):
        paired_difference(average_precision, cohort(0, 12), cohort(0, 13))
    more = cohort(0, 12)
    for other in ("images_per_patient", "truth_patient"):
        with pytest.raises(InputError, match="same images and ground truth"):
            paired_difference(average_precision, more, replace(more, **{other: getattr(more, other)[::-1] + 1}))
    with pytest.raises(InputError, match="1 runs and 1 baselines"):
        difference_over_seeds(average_precision, [cohort(0)], [cohort(1)])
    with pytest.raises(InputError, match="two or more of them"):
        difference_over_seeds(average_precision, [cohort(0, 1)] * 2, [cohort(1, 1)] * 2)
    for half_width in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match="half width of"):
            intervals.seeds_for_half_width(0.1, half_width)
        with pytest.raises(InputError, match="half width of"):
            intervals.patients_for_half_width(0.1, 10, half_width)
    for spread in (np.nan, np.inf, -0.1, 1e200):
        with pytest.raises(InputError, match="spread of"):
            intervals.seeds_for_half_width(spread, 0.01)
        with pytest.raises(InputError, match="spread of"):
            intervals.patients_for_half_width(spread, 10, 0.01)


def test_the_jackknife_leaves_each_patient_out_once(monkeypatch):
    values = np.arange(10.0)
    expected = [np.delete(values, k).mean() for k in range(10)]
    np.testing.assert_allclose(intervals.left_out(mean_of(values), 10), expected)
    monkeypatch.setattr(intervals, "RESAMPLES_AT_ONCE", 3)
    np.testing.assert_allclose(intervals.left_out(mean_of(values), 10), expected)


def test_a_value_that_is_undefined_in_many_resamples_has_no_interval(recwarn):
    # One patient of ten is missed: a resample that draws it twice never reaches 90 % sensitivity.
    labels = labels_of({image: [T] for image in range(10)})
    matches = match(labels, [detection(image, 0.5, T) for image in range(9)])
    interval = bootstrap(precision_at_sensitivity, matches, resamples=500)
    assert interval.value == 1
    assert interval.undefined > 100
    assert np.isnan([interval.low, interval.high, interval.bca_low, interval.bca_high]).all()
    assert np.isnan(bootstrap(partial(precision_at_sensitivity, sensitivity=0.95), matches, resamples=500).value)
    assert not recwarn.list


@pytest.mark.parametrize("images", [0, 1])
def test_fewer_than_two_patients_have_no_interval(images, recwarn):
    matches = match(labels_of({image: [T] for image in range(images)}), [])
    interval = bootstrap(average_precision, matches, resamples=100)
    assert np.isnan(interval.low)
    assert np.isnan(interval.value) == (images == 0)
    assert not recwarn.list


def test_seeds_are_summarised_over_patients_and_seeds():
    runs, baselines = [cohort(seed) for seed in range(5)], [cohort(seed + 50, quality=1) for seed in range(5)]
    summary = difference_over_seeds(average_precision, runs, baselines, resamples=2000)
    each = [average_precision(run) - average_precision(base) for run, base in zip(runs, baselines, strict=True)]
    assert summary.of_each_seed == pytest.approx(each)
    assert summary.value == pytest.approx(np.mean(each))
    assert summary.seed_deviation == pytest.approx(np.std(each, ddof=1))
    assert summary.low < summary.value < summary.high
    # The variances of seeds and patients add up, within what five seeds tell.
    variance = summary.seed_deviation**2 / 5 + summary.patient_deviation**2
    assert variance * 0.6 < summary.standard_error**2 < variance * 1.8


def test_where_only_seeds_differ_the_interval_is_that_of_t_over_seeds():
    runs, base = [cohort(seed) for seed in range(5)], cohort(9)
    value = dict(zip(map(id, runs), [0.03, 0.01, -0.02, 0.05, 0.0], strict=True)) | {id(base): 0.0}
    summary = difference_over_seeds(
        lambda matches, weights: np.full(len(weights), value[id(matches)]), runs, [base] * 5, resamples=40_000
    )
    each = list(value.values())[:5]
    expected = scipy_stats.t.interval(0.95, 4, np.mean(each), np.std(each, ddof=1) / np.sqrt(5))
    assert (summary.low, summary.high) == pytest.approx(expected, rel=0.03)


def test_where_only_patients_differ_the_interval_is_that_of_t_over_patients():
    values = np.random.default_rng(0).normal(size=12)
    run, base = cohort(0), cohort(1)
    metric = lambda matches, weights: mean_of(values if matches is run else 0 * values)(weights)  # noqa: E731
    summary = difference_over_seeds(metric, [run] * 4, [base] * 4, resamples=20_000)
    assert summary.seed_deviation == pytest.approx(0)
    assert summary.standard_error == pytest.approx(summary.patient_deviation)
    expected = scipy_stats.t.interval(0.95, 11, values.mean(), values.std() / np.sqrt(12))
    assert (summary.low, summary.high) == pytest.approx(expected, rel=0.05)


def test_one_seed_that_never_reaches_the_sensitivity_leaves_nothing_to_summarise(recwarn):
    weak = match(labels_of({image: [T] for image in range(10)}), [])
    strong = match(labels_of({image: [T] for image in range(10)}), [detection(k, 0.5, T) for k in range(10)])
    summary = difference_over_seeds(precision_at_sensitivity, [strong, weak], [strong, strong], resamples=100)
    assert np.isnan([summary.value, summary.low, summary.high]).all()
    assert summary.of_each_seed[0] == 0
    assert not recwarn.list


def test_patients_needed_reach_the_power_they_promise():
    # One patient's difference has standard deviation 0.1: 17 patients have a standard error of 0.0243.
    needed = intervals.patients_needed(0.1 / np.sqrt(17), 17, gain=0.02)
    assert needed == 197
    rng = np.random.default_rng(0)
    means = rng.normal(0.02, 0.1 / np.sqrt(needed), 20_000)
    assert np.mean(np.abs(means) > 1.959964 * 0.1 / np.sqrt(needed)) == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ValueError, match="must be positive"):
        intervals.patients_needed(0, 17, 0.02)


@pytest.mark.parametrize("deviation", [0.002, 0.01, 0.03, 0.3, 1000.0])
def test_seeds_narrow_the_t_interval_of_their_mean(deviation):
    needed = intervals.seeds_for_half_width(deviation, half_width=0.01)
    halves = [scipy_stats.t.ppf(0.975, seeds - 1) * deviation / np.sqrt(seeds) for seeds in (needed - 1, needed)]
    assert halves[1] <= 0.01 < halves[0]


def test_two_seeds_are_enough_where_they_do_not_differ():
    assert intervals.seeds_for_half_width(0.0, half_width=0.01) == 2


def test_four_times_the_patients_halve_an_interval():
    standard_error = 0.01 / 1.959964
    assert intervals.patients_for_half_width(standard_error, 100, half_width=0.01) == 100
    assert intervals.patients_for_half_width(standard_error, 100, half_width=0.005) == 400


def hits_in_six(hits: int, false: int) -> Matches:
    """Six patients with an image and a microbleed each; hits on the first `hits`, a false positive on as many."""
    true = [detection(image, 0.9 - image / 100, T) for image in range(1, hits + 1)]
    return match(one_image_each(6, T), [*true, *(detection(image, 0.5, FAR) for image in range(1, false + 1))])


def test_a_band_is_the_bootstrap_interval_at_each_point():
    one = hits_in_six(4, 3)
    band = intervals.froc_band(one, [0.0, 0.4, 2.0], 300, seed=5)
    assert list(band.index) == [0.0, 0.4, 2.0]
    for x, row in band.iterrows():
        at_point = bootstrap(partial(curves.sensitivity_at_false_positives, false_positives=x), one, 300, 5)
        assert row.tolist() == [at_point.low, at_point.high]
    assert (band["low"] < band["high"]).all()
    np.testing.assert_array_equal(intervals.precision_band(hits_in_six(6, 0), [0.5, 1.0], 200), [[1, 1], [1, 1]])


def test_a_band_ends_where_many_resamples_never_come_so_far():
    one = hits_in_six(3, 2)
    band = intervals.precision_band(one, [0.1, 0.5, 0.9], 300)
    assert precision_at_sensitivity(one, 0.5) == 1.0
    assert band.loc[[0.5, 0.9]].isna().all(axis=None)  # half of the patients are found: often fewer are drawn
    labels = labels_of({1: [T]}, patient_id="P1")
    for band in (intervals.froc_band, intervals.precision_band):  # one patient has none
        assert band(match(labels, [detection(1, 0.9, T)]), [0.5], 50).isna().all(axis=None)
