"""What a large map takes in the process that reads it: measured in a process of its own."""

import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

MEASURE = """
import sys
from types import SimpleNamespace as Thing
import numpy as np
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import from_occupancy_grid, load_map_yaml
from marlgpt_policy.robots.robot_config import RobotConfig

def megabytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1e3

def message(side, resolution):
    data = np.zeros((side, side), np.int8)
    for r, c in np.random.default_rng(0).integers(0, side, (side * side // 20_000, 2)):
        data[r : r + 20, c : c + 20] = 100
    none = Thing(x=0.0, y=0.0, z=0.0, w=1.0)
    info = Thing(width=side, height=side, resolution=resolution, origin=Thing(position=none, orientation=none))
    return Thing(info=info, data=data.ravel(), header=Thing(frame_id="map"))

def node(message):
    map = from_occupancy_grid(message)
    grid = build_grid(map, 0.22)
    distances = DistanceField(map)
    del map
    return Fleet(grid, None, [RobotConfig(f"r{i}", 0.22) for i in range(16)], distances=distances)

def from_here(work, *arguments):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = megabytes("VmRSS")
    kept = work(*arguments)
    print(megabytes("VmHWM") - before, megabytes("VmRSS") - before)

node(message(200, 0.05))  # compiles
"""


def measured(code):
    """(peak, what stays) in MB."""
    done = subprocess.run([sys.executable, "-c", MEASURE + code], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return map(float, done.stdout.split())


@pytest.mark.parametrize(
    ("side", "resolution", "peak", "kept"),
    [
        (4000, 0.05, 400, 200),  # the most pixels that the node accepts
        (3160, 0.1, 350, 200),  # the most lattice points, since each pixel is divided in four
        (4000, 0.68, 1000, 750),  # and as many cells
    ],
)
def test_a_map_of_16_million_pixels_fits_a_small_computer(side, resolution, peak, kept):
    found_peak, found_kept = measured(f"from_here(node, message({side}, {resolution}))")
    assert found_peak < peak and found_kept < kept, (found_peak, found_kept)


def test_a_picture_with_alpha_takes_little_more_than_its_pixels(tmp_path):
    Image.fromarray(np.full((4000, 4000, 4), 254, np.uint8)).save(tmp_path / "map.png", compress_level=1)
    settings = {"image": "map.png", "resolution": 0.05, "origin": [0.0, 0.0, 0.0], "negate": 0,
                "occupied_thresh": 0.65, "free_thresh": 0.25}  # fmt: skip
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(settings))
    peak, kept = measured(f"from_here(load_map_yaml, {str(tmp_path / 'map.yaml')!r})")
    assert peak < 350 and kept < 150, (peak, kept)
