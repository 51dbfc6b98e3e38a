"""Intervals that hold what they should as often as they say, and pair what can be paired."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.metrics import bootstrap


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def weighted(samples, layer):
    """The mean of the strata's means, from how often each sample counts."""
    each = np.unique(layer, return_inverse=True)[1]

    def metric(times):
        return float(np.mean(np.bincount(each, times * samples) / np.bincount(each, times)))

    return metric


def share_covered(found, truth):
    return np.mean([estimate.low <= truth <= estimate.high for estimate in found])


def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says():
    rng, truth = np.random.default_rng(0), 0.8
    sets = (rng.random((200, 80)) < truth).astype(float)
    found = [bootstrap.bootstrap_mean(samples, resamples=200) for samples in sets]
    assert 0.9 <= share_covered(found, truth) <= 0.99


def test_samples_that_belong_together_are_not_as_many_as_they_seem():
    """40 recordings of 5 captions, which are mostly all found or all missed."""
    rng, together, alone = np.random.default_rng(0), [], []
    groups = np.arange(200) // 5
    for _ in range(200):
        hard = rng.normal(size=40)[groups]
        samples = (hard + 0.3 * rng.normal(size=200) > 0).astype(float)
        together.append(bootstrap.bootstrap_mean(samples, groups=groups, resamples=200))
        alone.append(bootstrap.bootstrap_mean(samples, resamples=200))
    assert {estimate.n for estimate in together} == {40} and alone[0].n == 200
    assert 0.9 <= share_covered(together, 0.5) <= 0.99
    assert share_covered(alone, 0.5) < 0.8
    widths = [np.mean([e.high - e.low for e in found]) for found in (together, alone)]
    assert widths[0] > 1.5 * widths[1]


def test_the_interval_of_a_mean_over_classes_holds_the_truth():
    rng, strata = np.random.default_rng(1), np.repeat(np.arange(4), (100, 40, 20, 10))
    rate = np.array([0.2, 0.4, 0.6, 0.8])
    found = [
        bootstrap.bootstrap_mean(
            (rng.random(170) < rate[strata]).astype(float), strata=strata, resamples=300
        )
        for _ in range(200)
    ]
    assert 0.88 <= share_covered(found, 0.5) <= 0.99  # ten samples are few


def test_the_width_of_a_mean_is_that_of_its_standard_error():
    samples = np.random.default_rng(0).normal(size=400)
    estimate = bootstrap.bootstrap_mean(samples, resamples=4000)
    wanted = 2 * 1.96 * samples.std() / 400**0.5
    assert estimate.high - estimate.low == pytest.approx(wanted, rel=0.06)
    assert estimate.value == pytest.approx(samples.mean())


# ---- what is drawn


def drawn(n, **how):
    return np.concatenate(list(bootstrap.resample_counts(n, **how)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 99))
def test_each_stratum_keeps_its_number_of_samples(strata, seed):
    strata = np.array(strata)
    times = drawn(len(strata), strata=strata, resamples=7, seed=seed)
    assert times.shape == (7, len(strata)) and (times >= 0).all()
    for each in np.unique(strata):
        assert (times[:, strata == each].sum(axis=1) == (strata == each).sum()).all()


def test_a_group_is_drawn_whole_within_its_stratum():
    groups = np.array([7, 3, 7, 1, 3, 9])
    strata = np.array([0, 5, 0, 5, 5, 0])
    times = drawn(6, groups=groups, strata=strata, resamples=300)
    assert (times[:, 0] == times[:, 2]).all() and (times[:, 1] == times[:, 4]).all()
    assert (times[:, 0] + times[:, 5] == 2).all() and (times[:, 1] + times[:, 3] == 2).all()
    assert len(np.unique(times, axis=0)) == 9  # 3 ways in either stratum


def test_every_sample_is_drawn_as_often_as_any_other():
    times = drawn(10, strata=np.arange(10) % 2, resamples=4000)
    np.testing.assert_allclose(times.mean(axis=0), 1, atol=0.07)
    np.testing.assert_allclose(times.var(axis=0), 0.8, atol=0.1)  # binomial, 5 draws of 1/5


def test_a_group_in_two_strata_is_refused():
    with pytest.raises(UserError, match="drawn together"):
        bootstrap.bootstrap_mean(np.ones(2), groups=np.zeros(2, int), strata=np.arange(2))


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    whole = drawn(50, resamples=20, seed=3)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 150)
    parts = list(bootstrap.resample_counts(50, resamples=20, seed=3))
    assert [len(part) for part in parts] == [3] * 6 + [2]
    assert np.array_equal(np.concatenate(parts), whole)


# ---- one number


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 1)), min_size=1, max_size=40
    ),
    st.integers(0, 99),
)
def test_a_mean_is_the_bootstrap_of_the_mean(rows, seed):
    values, groups, layer = np.array(rows).T
    samples = values / 4
    for how in ({}, {"groups": groups}, {"strata": layer}, {"groups": groups * 2 + layer}):
        how = {**how, "resamples": 20, "seed": seed}
        strata = how.get("strata", np.zeros(len(rows), int))
        quick = bootstrap.bootstrap_mean(samples, **how)
        slow = bootstrap.bootstrap(weighted(samples, strata), len(rows), **how)
        np.testing.assert_allclose(
            [quick.value, quick.low, quick.high], [slow.value, slow.low, slow.high], atol=1e-12
        )
        assert quick.n == slow.n


def test_strata_count_alike_whatever_their_sizes():
    estimate = bootstrap.bootstrap_mean(np.array([1.0, 1, 1, 0]), strata=np.array([4, 4, 4, 2]))
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (0.5, 0.5, 0.5, 4)


def test_the_seed_decides():
    samples = np.random.default_rng(0).random(50)
    one, same, other = (bootstrap.bootstrap_mean(samples, seed=seed) for seed in (1, 1, 2))
    assert (one.low, one.high) == (same.low, same.high) != (other.low, other.high)


def test_none_one_and_equal_samples():
    for found in (bootstrap.bootstrap_mean(np.empty(0)), bootstrap.bootstrap(np.mean, 0)):
        assert np.isnan([found.value, found.low, found.high]).all() and found.n == 0
    one = bootstrap.bootstrap_mean(np.array([0.25]))
    assert (one.value, one.low, one.high, one.n) == (0.25, 0.25, 0.25, 1)
    right = bootstrap.bootstrap_mean(np.ones(30))
    assert (right.value, right.low, right.high) == (1, 1, 1)
    bare = bootstrap.bootstrap_mean(np.array([0.0, 1.0]), resamples=0)
    assert bare.value == 0.5 and np.isnan([bare.low, bare.high]).all()


def test_samples_without_an_input_are_left_out_with_their_group_and_class():
    samples = np.array([1.0, np.nan, 0, np.nan, 1])
    groups, strata = np.array([0, 0, 1, 2, 3]), np.array([0, 0, 0, 1, 2])
    found = bootstrap.bootstrap_mean(samples, groups=groups, strata=strata)
    assert (found.value, found.n) == (0.75, 3)  # of (1 + 0) / 2 and 1
    np.testing.assert_array_equal(found.samples, samples)  # to be paired by place
    assert bootstrap.bootstrap_mean(np.full(3, np.nan)).n == 0


def test_a_metric_that_is_no_number_in_some_resamples():
    found = bootstrap.bootstrap(lambda times: np.nan if times[0] == 0 else times[0], 5)
    assert (found.value, found.low) == (1, 1) and found.high > 1
    never = bootstrap.bootstrap(lambda times: np.nan, 5)
    assert np.isnan([never.value, never.low, never.high]).all()


def test_an_interval_is_moved_to_the_number_that_resampling_shifts():
    found = np.linspace(0.5, 0.7, 201)
    assert bootstrap.percentile_interval(found) == pytest.approx((0.505, 0.695))
    assert bootstrap.percentile_interval(found, around=0.5) == pytest.approx((0.405, 0.595))


def test_the_middle_and_spread_of_folds():
    assert bootstrap.nan_mean([1.0, np.nan, 2.0]) == 1.5 and np.isnan(bootstrap.nan_mean([np.nan]))
    assert bootstrap.nan_std([1.0, np.nan, 3.0]) == pytest.approx(2**0.5)
    assert bootstrap.nan_std([1.0]) is None


# ---- two systems


def test_a_difference_is_sharper_in_pairs_than_by_two_intervals():
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    a, b = (bootstrap.bootstrap_mean((hard < share).astype(float)) for share in (0.55, 0.5))
    apart = bootstrap.paired_difference(a, b)
    assert apart.value == pytest.approx(a.value - b.value)
    assert apart.low > 0 and a.low < b.high  # told apart, though their own intervals meet
    back = bootstrap.paired_difference(b, a)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-apart.value, -apart.high, -apart.low)
    )


def test_the_interval_of_a_difference_holds_the_truth():
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        hard, luck = rng.random(100), rng.random((2, 100)) < 0.2
        right = [(hard < share) ^ lucky for share, lucky in zip((0.6, 0.5), luck)]
        a, b = (
            bootstrap.Estimate(0.0, 0.0, 0.0, 100, samples=each.astype(float)) for each in right
        )
        found.append(bootstrap.paired_difference(a, b, resamples=200))
    assert 0.9 <= share_covered(found, 0.6 * 0.1) <= 0.99


def test_what_both_have_is_compared():
    a = bootstrap.bootstrap_mean(np.array([1.0, np.nan, 1, 0]))
    b = bootstrap.bootstrap_mean(np.array([np.nan, 0.0, 0, 0]))
    apart = bootstrap.paired_difference(a, b)
    assert (apart.value, apart.n) == (0.5, 2)


def test_what_cannot_be_paired_is_not():
    x, ones = np.array([0.0, 1, 1]), np.ones(3, int)
    a = bootstrap.bootstrap_mean(x)
    assert bootstrap.paired_difference(a, bootstrap.bootstrap_mean(x)).value == 0
    assert bootstrap.paired_difference(a, bootstrap.bootstrap_mean(x[:2])) is None
    assert bootstrap.paired_difference(a, bootstrap.bootstrap_mean(x, strata=ones)) is None
    assert bootstrap.paired_difference(a, bootstrap.bootstrap_mean(x, groups=np.arange(3))) is None
    assert bootstrap.paired_difference(a, bootstrap.bootstrap_mean(x, share=False)) is None
    assert bootstrap.paired_difference(a, bootstrap.bootstrap(np.mean, 3)) is None
    grouped = [
        bootstrap.bootstrap_mean(x, groups=np.array(g)) for g in ((0, 0, 1), (0, 0, 1), (0, 1, 1))
    ]
    assert bootstrap.paired_difference(grouped[0], grouped[1]) is not None
    assert bootstrap.paired_difference(grouped[0], grouped[2]) is None
