"""The demo: its checks before anything starts, and one short run of the whole graph."""

import json
import os
import subprocess
import sys
from pathlib import Path

import domains
import numpy as np
import pytest
from marlgpt_policy.grid.occupancy_map import OccupancyMap, save_map_yaml
from marlgpt_policy.policy.onnx_policy import PolicyError
from marlgpt_sim.commands import demo
from marlgpt_sim.runs import demo_plan
from rosbags.highlevel import AnyReader

MARLGPT = Path(sys.executable).with_name("marlgpt")


@pytest.fixture
def room(tmp_path):
    """An 8 x 6 m room with a closed closet in its upper right corner and a block of 1.4 m in its middle."""
    occupied = np.zeros((120, 160), dtype=bool)
    occupied[[0, -1], :] = occupied[:, [0, -1]] = True
    occupied[78, 118:] = occupied[78:, 118] = True
    occupied[70:98, 50:78] = True
    map = OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0))
    save_map_yaml(map, tmp_path / "room.yaml")
    return tmp_path / "room.yaml"


def args(room, **options):
    """Options of a small demo on ``room``."""
    return demo.Args(map=room, robots=options.pop("robots", 2), **options)


def test_plan_places_every_robot_on_a_free_cell(room):
    run = demo.plan(args(room, robots=4))
    cells = run.grid.cell_of(run.starts[:, :2])
    assert len({tuple(cell) for cell in cells}) == 4
    assert run.grid.free[tuple(cells.T)].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"robots": 0}, "at least one robot"),
        ({"robots": 5000}, "5000"),
        ({"duration": -1.0}, "duration"),
        ({"duration": float("nan")}, "duration"),
        ({"radius": 5.0}, "radius"),
        ({"radius": -1.0}, "radius"),
        ({"mode": "sometimes"}, "--mode sometimes"),
        ({"record": "none"}, "--record none"),
        ({"starts": "1,1,0;2,2"}, "--starts"),
        ({"starts": "1,1,0"}, "1 entries for 2 robots"),
        ({"starts": "2,2,0;3.2,4.2,0"}, "'robot_01' does not fit"),
        ({"starts": "2,2,0;99,3,0"}, "'robot_01' lies outside the map"),
        ({"starts": "2,2,0;nan,3,0"}, "'robot_01' is not finite"),
        ({"goals": "3.2,4.2;2,2"}, "goal (3.20, 4.20) of robot 'robot_00' does not fit"),
        ({"goals": "2,2;7,5"}, "robot 'robot_01' lies in a part of the map that is cut off"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(room, options, message):
    with pytest.raises(ValueError) as error:
        demo.plan(args(room, **options))
    assert message in str(error.value)


def test_a_policy_that_cannot_be_used_is_refused(room, tmp_path):
    (tmp_path / "torn.onnx").write_bytes(b"not a model")
    for name in ("missing.onnx", "torn.onnx"):
        with pytest.raises(PolicyError) as error:
            demo.plan(args(room, policy=tmp_path / name))
        assert name in str(error.value)


def test_a_smaller_radius_is_chosen_where_cells_are_few(room):
    assert demo.plan(args(room, robots=2)).args.radius == demo_plan.RADII[0]
    crowded = demo.plan(args(room, robots=12)).args.radius
    assert crowded in demo_plan.RADII[1:]
    assert demo.plan(args(room, robots=12, radius=0.2)).args.radius == 0.2


def test_the_whole_graph_drives_two_robots(room, tmp_path):
    out = tmp_path / "demo"
    options = ["--map", str(room), "--robots", "2", "--duration", "30", "--out", str(out)]
    options += ["--starts", "1.5,1.5,0;5,1.5,3.14", "--goals", "5,2.5;1.5,2.5"]
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domains.take()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    done = subprocess.run(
        [str(MARLGPT), "demo", *options], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["robots"] == 2
    assert summary["goals_reached"] >= 2
    assert summary["robot_contacts"] == summary["wall_contacts"] == 0
    assert summary["min_separation_m"] > 0
    assert summary["provider"] == "CPUExecutionProvider"
    assert (out / "picture.png").stat().st_size > 1000
    assert "robot_01" in (out / "report.html").read_text()
    with AnyReader([out / "bag"]) as reader:
        counts = {topic: info.msgcount for topic, info in reader.topics.items()}
    for topic in (
        "/map",
        "/fleet/state",
        "/fleet/decisions",
        "/robot_00/odom",
        "/robot_01/cmd_vel",
        "/sim/status",
    ):
        assert counts[topic] > 0, counts


def test_a_node_that_dies_ends_the_demo_with_its_reason(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("/**:\n  ros__parameters:\n    map_yaml: nowhere.yaml\n")
    with demo.Processes({"map_publisher": bad}, tmp_path / "logs") as processes:
        processes.children["map_publisher"].wait(60)
        with pytest.raises(RuntimeError, match=r"(?s)map_publisher ended.*nowhere\.yaml"):
            processes.check()
