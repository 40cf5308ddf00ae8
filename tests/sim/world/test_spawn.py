"""Start poses: free, distinct, spread, seeded."""

from __future__ import annotations

import numpy as np
import pytest
from marlgpt_policy.grid.nav_grid import NavGrid
from marlgpt_sim.world.spawn import place_robots


@pytest.fixture
def grid() -> NavGrid:
    """A 20 x 20 room with a wall that cuts off two columns."""
    free = np.ones((20, 20), bool)
    free[:, 17] = False
    free[5:9, 3:12] = False
    return NavGrid.from_cells(free, 0.7)


@pytest.mark.parametrize("n", [0, 1, 30, 304])
def test_distinct_free_cells_of_the_main_component(grid, n):
    poses = place_robots(grid, n, 1)
    assert poses.shape == (n, 3)
    cells = grid.cell_of(poses[:, :2]).reshape(-1, 2)
    assert len(np.unique(cells, axis=0)) == n
    assert (grid.components[cells[:, 0], cells[:, 1]] == 0).all()
    np.testing.assert_allclose(grid.centre(cells), poses[:, :2])
    assert (np.abs(poses[:, 2]) <= np.pi).all()


def test_seeded_and_spread(grid):
    np.testing.assert_array_equal(place_robots(grid, 20, 1), place_robots(grid, 20, 1))
    assert (place_robots(grid, 20, 1) != place_robots(grid, 20, 2)).any()
    spread, cells = [], np.argwhere(grid.components == 0)
    random = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for group, xy in (
            (spread, place_robots(grid, 20, seed)[:, :2]),
            (random, grid.centre(rng.permutation(cells)[:20])),
        ):
            gaps = np.linalg.norm(xy[:, None] - xy, axis=-1) + np.diag(np.full(20, np.inf))
            group.append(gaps.min(axis=1).mean())
    assert np.mean(spread) > 1.4 * np.mean(random)


@pytest.mark.parametrize("n", [305, -1])
def test_too_many_says_how_many_fit(grid, n):
    with pytest.raises(ValueError, match=f"{n} robots: 304 fit"):
        place_robots(grid, n, 0)
