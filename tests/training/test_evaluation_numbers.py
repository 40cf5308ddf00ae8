"""Intervals and normalised metrics of evaluations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_training.evaluation import metrics
from marlgpt_training.evaluation.intervals import FEWEST, Sample, mean_interval, ratio_interval
from scipy import stats

# Maps, seeds on each and agent counts of an evaluation, and whether maps are shared between the counts.
designs = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.booleans())


def design(maps, seeds, counts, shared, rng, spread=1.0):
    rows = [(m, 8 * (c + 1)) for c in range(counts) for m in range(maps) for _ in range(seeds)]
    names = [f"{m}" if shared else f"{m}-{count}" for m, count in rows]
    effect = {name: rng.normal() for name in sorted(set(names))}
    values = np.array([5 + effect[name] + spread * rng.normal() for name in names])
    return Sample(values, names, [count for _, count in rows])


@settings(max_examples=60, deadline=None)
@given(shape=designs, seed=st.integers(0, 999), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_mean_intervals_follow_scale_shift_and_order(shape, seed, scale, shift):
    sample = design(*shape, np.random.default_rng(seed))
    mean, half = mean_interval(sample)
    moved, moved_half = mean_interval(Sample(scale * sample.values + shift, sample.maps, sample.counts))
    assert moved == pytest.approx(scale * mean + shift, abs=1e-9)
    order = np.random.default_rng(seed).permutation(len(sample.values))
    turned = Sample(sample.values[order], np.array(sample.maps)[order], np.array(sample.counts)[order])
    if half is None:
        assert len(sample.values) == 1 and moved_half is None
    else:
        assert half >= 0 and moved_half == pytest.approx(scale * half, abs=1e-9)
        assert mean_interval(turned) == pytest.approx((mean, half), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(shape=designs, seed=st.integers(0, 999), factor=st.floats(0.1, 3))
def test_ratios_contain_their_estimate_and_know_multiples(shape, seed, factor):
    rng = np.random.default_rng(seed)
    sample = design(*shape, rng)
    reference = np.abs(sample.values) + 1
    ratio, low, high = ratio_interval(sample, reference)
    if low is not None:
        assert low <= ratio <= high
    exact = ratio_interval(Sample(factor * reference, sample.maps, sample.counts), reference)
    assert exact[0] == pytest.approx(factor)
    if exact[1] is not None:  # a constant ratio has no spread, however much the maps differ
        assert exact[1:] == pytest.approx((factor, factor))


def test_one_agent_count_and_balanced_maps_give_the_t_interval_of_the_maps_means():
    sample = design(7, 3, 1, True, np.random.default_rng(0))
    means = sample.values.reshape(7, 3).mean(axis=1)
    half = stats.t.ppf(0.975, 6) * means.std(ddof=1) / np.sqrt(7)
    assert mean_interval(sample) == pytest.approx((means.mean(), half))


def test_more_seeds_on_the_same_maps_do_not_narrow_the_interval():
    once = design(6, 1, 1, True, np.random.default_rng(1))
    often = Sample(np.repeat(once.values, 50), np.repeat(once.maps, 50), np.repeat(once.counts, 50))
    assert mean_interval(often) == pytest.approx(mean_interval(once))


def test_a_single_map_is_judged_by_its_episodes():
    rng = np.random.default_rng(2)
    sample = Sample(rng.normal(size=10), ["warehouse"] * 10, [8] * 10)
    half = stats.t.ppf(0.975, 9) * sample.values.std(ddof=1) / np.sqrt(10)
    assert mean_interval(sample) == pytest.approx((sample.values.mean(), half))
    assert mean_interval(Sample(np.ones(1), ["m"], [8])) == (1, None)


def test_maps_that_have_room_for_few_agents_only():
    """One map is missing at 64 agents: its stratum of one joins another."""
    names, counts = ["a", "b", "c", "a", "b"], [8, 8, 8, 64, 64]
    mean, half = mean_interval(Sample(np.array([1.0, 2, 3, 1, 2]), names, counts))
    assert mean == pytest.approx((2 + 1.5) / 2) and half > 0


def test_few_maps_or_an_idle_reference_have_no_ratio_interval():
    few = Sample(np.ones(FEWEST - 1), [str(k) for k in range(FEWEST - 1)], [8] * (FEWEST - 1))
    assert ratio_interval(few, np.full(FEWEST - 1, 2.0)) == (0.5, None, None)
    assert ratio_interval(few, np.zeros(FEWEST - 1)) is None


def test_intervals_cover_what_they_promise():
    """Maps matter as much as seeds: about 95 of 100 intervals hold the truth, those over episodes do not."""
    rng = np.random.default_rng(3)
    held, naive, ratios, runs = 0, 0, 0, 300
    for _ in range(runs):
        sample = design(8, 4, 2, True, rng)
        mean, half = mean_interval(sample)
        held += abs(mean - 5) <= half
        naive += abs(mean - 5) <= 1.96 * sample.values.std(ddof=1) / np.sqrt(len(sample.values))
        base = design(8, 4, 2, True, rng)  # the policy scores 0.8 of the reference plus noise of its own
        mine = Sample(0.8 * base.values + rng.normal(size=len(base.values)), base.maps, base.counts)
        _, low, high = ratio_interval(mine, base.values)
        ratios += low <= 0.8 <= high
    assert held / runs > 0.92 and ratios / runs > 0.91
    assert naive / runs < 0.8


def test_mismatched_lengths_are_refused():
    with pytest.raises(ValueError, match="2 values, 1 maps and 2 agent counts"):
        Sample(np.ones(2), ["a"], [8, 8])


def test_performance():
    assert metrics.performance({"a": {"avg_throughput": 1}, "b": {"avg_throughput": 2}}, True) == {
        "a": 0.5,
        "b": 1,
    }
    assert metrics.performance({"a": {"avg_throughput": 0}}, True) is None
    solved, slow, lost = {"CSR": 1, "SoC": 30}, {"CSR": 1, "SoC": 40}, {"CSR": 0, "SoC": 20}
    assert metrics.performance({"a": solved, "b": slow, "c": lost}, False) == {"a": 1, "b": 0.75, "c": 0}
    assert metrics.performance({"c": lost}, False) is None


def test_pathfinding_and_scalability():
    assert metrics.pathfinding({"CSR": 1, "shortest": 9, "ep_length": 12}) == 0.75
    assert metrics.pathfinding({"CSR": 0, "shortest": 9, "ep_length": 9}) == 0
    assert metrics.scalability({8: 1.0}) is None
    assert metrics.scalability({8: 1.0, 16: 2.0, 32: 4.0}) == 1  # linear
    assert metrics.scalability({8: 1.0, 16: 1.0}) == 1  # better than linear
    assert metrics.scalability({8: 1.0, 16: 4.0}) == 0.5  # quadratic
