"""The committed warehouse map is what its script makes, and a fleet fits into it."""

from __future__ import annotations

import marlgpt_sim.maps.warehouse as warehouse
import numpy as np
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import load_map_yaml
from places import ROOT

MAPS = ROOT / "ros2_ws" / "src" / "marlgpt_sim" / "maps"


def test_the_script_reproduces_the_committed_files(tmp_path):
    assert warehouse.main([str(tmp_path / "warehouse.yaml")]) == 0
    for name in ("warehouse.yaml", "warehouse.pgm"):
        assert (tmp_path / name).read_bytes() == (MAPS / name).read_bytes(), f"make {name} again"


def test_errors_go_to_stderr(tmp_path, capsys):
    assert warehouse.main([str(tmp_path / "missing" / "warehouse.yaml")]) == 1
    assert "missing" in capsys.readouterr().err


def test_every_aisle_and_the_office_can_be_driven():
    map_ = load_map_yaml(MAPS / "warehouse.yaml")
    np.testing.assert_array_equal(map_.occupied, warehouse.warehouse_map().occupied)
    grid = build_grid(map_, 0.22, 0.05)
    assert (grid.components == 0).sum() == grid.free.sum() > 800
    bottoms = np.array(warehouse.SHELF_ROWS)
    lanes = []
    for low, high in zip(bottoms[:-1] + warehouse.SHELF_DEPTH, bottoms[1:], strict=True):
        middle = np.mean(warehouse.SHELF_BLOCKS[1]) * 0.05 + map_.origin[0]
        ys = np.arange(low, high) * 0.05 + map_.origin[1]
        cells = np.unique(grid.cell_of(np.stack([np.full(len(ys), middle), ys], axis=1)), axis=0)
        lanes.append(int(grid.free[cells[:, 0], cells[:, 1]].sum()))
    assert lanes == [2, 1, 2, 1, 2, 1]
