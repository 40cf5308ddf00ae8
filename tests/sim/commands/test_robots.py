"""`marlgpt robots`: the dry run says what each robot is, where it starts, and what does not fit."""

import numpy as np
import pytest
from marlgpt_policy.grid.occupancy_map import OccupancyMap, save_map_yaml
from marlgpt_sim.commands.robots import Args, main
from marlgpt_training.cli import main as marlgpt
from PIL import Image

ROBOTS = """
defaults: {{pose_source: tf}}
robots:
  - {{name: alice, initial_pose: {alice}}}
  - {{name: bob, initial_pose: {bob}, radius: 0.3, stamped_cmd_vel: true}}
  - {{name: carol, pose_source: odom, odom_through_tf: true}}
"""


@pytest.fixture
def room(tmp_path):
    """A room of 4 x 8 m with walls, and a closet in the corner whose door is 0.5 m wide."""
    occupied = np.zeros((80, 160), bool)
    occupied[:2] = occupied[-2:] = occupied[:, :2] = occupied[:, -2:] = True
    occupied[2:34, 44] = occupied[34, 2:14] = occupied[34, 24:45] = True
    path = tmp_path / "room.yaml"
    save_map_yaml(OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0)), path)
    return path


def check(tmp_path, room, capsys, alice="[3, 2, 0]", bob="[6, 2, 1]"):
    file = tmp_path / "robots.yaml"
    file.write_text(ROBOTS.format(alice=alice, bob=bob))
    code = main(Args(file, room, tmp_path / "out" / "robots.png"))
    return code, capsys.readouterr().out


def test_a_fleet_that_fits(tmp_path, room, capsys):
    code, out = check(tmp_path, room, capsys)
    assert code == 0 and "all fits; 1 robots have no initial_pose to check" in out
    assert "3 robots in frame 'map'" in out and "0.3 m of bob" in out and "cells of 0.900 m" in out
    assert "poses: /tf: map -> alice/base_link" in out and "commands: TwistStamped on bob/cmd_vel" in out
    assert "Odometry on carol/odom in 'carol/odom', carried over by /tf: map -> carol/odom" in out
    assert "alice: starts at cell (" in out and "carol: no initial_pose" in out
    image = Image.open(tmp_path / "out" / "robots.png").convert("RGB")
    colours = {colour for _, colour in image.getcolors(image.width * image.height)}
    assert (26, 152, 80) in colours  # the robots


@pytest.mark.parametrize(
    ("poses", "message"),
    [
        ({"alice": "[0.2, 2, 0]"}, "'alice' at (0.20, 2.00) overlaps an obstacle"),
        (
            {"alice": "[90, 2, 0]"},
            "'alice' at (90.00, 2.00) overlaps an obstacle or unknown area, or is off the map",
        ),
        ({"alice": "[1.1, 0.9, 0]"}, "'alice' at (1.10, 0.90) starts in a part of"),
        ({"alice": "[5.45, 2, 0]"}, "cannot get onto the grid: waits for robot"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, room, capsys, poses, message):
    code, out = check(tmp_path, room, capsys, **poses)
    assert code == 1 and message in out and "all fits" not in out


def test_the_command_without_a_map(tmp_path, capsys):
    file = tmp_path / "robots.yaml"
    file.write_text("robots: [alice]")
    assert marlgpt(["robots", "--file", str(file)]) == 0
    assert "alice: radius 0.22 m, differential" in capsys.readouterr().out
    file.write_text("robots: {alice: {raduis: 1}}")
    assert marlgpt(["robots", "--file", str(file)]) == 1
    assert (
        f"{file}: robot 'alice': key 'raduis' is unknown; did you mean 'radius'?" in capsys.readouterr().err
    )
