import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_training.collection import pogema_rollouts
from marlgpt_training.environments import map_families as maps
from scipy import ndimage

SIZES = {"random": (17, 21), "maze": (15, 25), "warehouse": (6, 56), "rooms": (17, 32), "caves": (17, 32)}
FREE_SHARE = {
    "random": (0.6, 0.99),
    "maze": (0.4, 1.0),
    "warehouse": (0.3, 0.9),
    "rooms": (0.2, 0.95),
    "caves": (0.05, 0.95),  # of two halls without a passage only one stays
}


@pytest.mark.parametrize("family", maps.FAMILIES)
@given(seed=st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_every_map_is_connected_and_in_range(family, seed):
    free = maps.generate(family, seed)
    assert free.dtype == bool and free.sum() >= 60
    assert ndimage.label(free)[1] == 1
    low, high = SIZES[family]
    assert low <= min(free.shape) and max(free.shape) <= high
    if min(free.shape) >= 15:  # small warehouses are mostly margin
        assert FREE_SHARE[family][0] <= free.mean() <= FREE_SHARE[family][1]


@pytest.mark.parametrize("family", maps.FAMILIES)
def test_a_seed_gives_one_map_and_seeds_differ(family):
    first = [maps.generate(family, seed) for seed in range(12)]
    again = [maps.generate(family, seed) for seed in range(12)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({(m.shape, m.tobytes()) for m in first}) == 12


def test_random_maps_take_size_and_density():
    wide = maps.generate("random", 3, low=30, high=34, density=0.1)
    assert 30 <= min(wide.shape) and max(wide.shape) <= 34
    assert 0.8 < wide.mean() < 0.95
    assert maps.generate("random", 3, low=12, high=12, density=0.0).all()


def test_every_family_has_larger_maps():
    for family in ("random", "maze", "rooms", "caves"):
        assert 40 <= min(maps.generate(family, 3, low=40, high=44).shape)
    small, large = maps.generate("warehouse", 3), maps.generate("warehouse", 3, scale=2)
    assert large.sum() > 2 * small.sum()


@pytest.mark.parametrize(
    "family,digest",
    [
        ("random", "70146aa9892e"),
        ("maze", "c46ea6ad8e2e"),
        ("warehouse", "bc4b597a1138"),
        ("rooms", "acc324afb57e"),
        ("caves", "69b43e88fb9f"),
    ],
)
def test_standard_maps_of_given_seeds_never_change(family, digest):
    found = hashlib.sha256()
    for seed in (0, 1, 2, 1_000_000):
        free = maps.generate(family, seed)
        found.update(repr(free.shape).encode() + free.tobytes())
    assert found.hexdigest()[:12] == digest, "validation results would not be comparable any more"


def test_caves_are_smooth_and_in_no_training_data():
    for seed in range(20):
        walls = np.pad(~maps.generate("caves", seed), 1, constant_values=True).astype(int)
        around = ndimage.convolve(walls, np.ones((3, 3), dtype=int), mode="constant", cval=1)
        assert (around[walls == 0] < 7).mean() > 0.99, "passages and halls, no scattered holes"
    assert "caves" not in pogema_rollouts.FAMILY_WEIGHTS
    drawn = {pogema_rollouts.draw_scenario(np.random.default_rng(seed))[0] for seed in range(60)}
    assert drawn == set(pogema_rollouts.FAMILY_WEIGHTS)


def test_largest_component_drops_pockets():
    free = np.array([[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]], dtype=bool)
    kept = maps.largest_component(free)
    assert np.argwhere(kept).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_unknown_family_is_named_with_the_choices():
    with pytest.raises(ValueError, match="'cave'; choose one of random, maze, warehouse, rooms, caves"):
        maps.generate("cave", 0)
