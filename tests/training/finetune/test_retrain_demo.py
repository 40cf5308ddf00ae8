"""The whole loop as one command, with a tiny budget: bag, import, training, export, and a swap over DDS."""

import json
import os
import subprocess
import sys

import domains
import numpy as np
import pytest
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_sim.maps import two_halls
from marlgpt_training.bags import import_bag as importing
from marlgpt_training.finetune import record_expert, retrain_demo
from marlgpt_training.finetune.recorded_site import sites_of

CODE = """
import sys
from marlgpt_training.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def grid():
    return build_grid(two_halls.two_halls_map(), two_halls.RADIUS)


def test_the_site_is_drawn_on_the_robots_grid(grid):
    assert grid.free.shape == (5, 22) and (grid.free == two_halls.cells()).all()
    centres = grid.centre(two_halls.goal_cells())
    left, right = np.array(two_halls.goal_areas())
    inside = [((centres >= a[:2]) & (centres <= a[2:])).all(axis=1) for a in (left, right)]
    assert (inside[0] ^ inside[1]).all() and inside[0].sum() == inside[1].sum() == 25


def test_the_rule_leaves_every_place_within_reach(grid):
    moves = two_halls.one_way(grid)
    costs = CostToGo(moves)
    rows, cols = two_halls.goal_cells().T
    assert all((costs.field(goal)[rows, cols] < 100).all() for goal in two_halls.goal_cells())
    assert moves.sum() == grid.moves.sum() - 2 * (two_halls.AISLE + 1)
    with pytest.raises(ValueError, match="the rule is for the 5 x 22 cells"):
        two_halls.one_way(build_grid(two_halls.two_halls_map(), 0.15))


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Three simulated minutes of the expert, imported."""
    folder = tmp_path_factory.mktemp("session")
    assert record_expert.main(record_expert.Args(out=folder / "bag", robots=6, minutes=3)) == 0
    step = json.loads((folder / "bag.json").read_text())["step"]
    assert importing.main(importing.Args(bag=(folder / "bag",), out=folder / "store", step=step)) == 0
    return folder


def test_the_experts_session_teaches_its_rule(session, grid):
    (site,) = sites_of([session / "store"])
    assert (site.moves == grid.moves).all() and site.agents == 6
    against = grid.moves & ~two_halls.one_way(grid)
    assert site.made[against].sum() == 0 and site.made[two_halls.AISLE_ROWS[0], 8, 4] > 3
    assert {tuple(p) for p in site.places.tolist()} <= {tuple(p) for p in two_halls.goal_cells().tolist()}


def test_a_folder_that_is_no_bag_is_not_deleted(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(ValueError, match="holds precious.txt, and nothing says that this project made it"):
        record_expert.main(record_expert.Args(out=tmp_path, robots=2, minutes=0.1))
    assert (tmp_path / "precious.txt").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"robots": 50}, "--robots 50: the halls hold 2 to 49"),
        ({"minutes": 0.0}, "--minutes 0.0"),
        ({"swap_seconds": float("nan")}, "--swap-seconds nan"),
        ({"runs": 0}, "--runs 0"),
    ],
)
def test_impossible_options_are_named(tmp_path, options, reason):
    with pytest.raises(ValueError, match=reason):
        retrain_demo.main(retrain_demo.Args(out=tmp_path / "demo", **options))
    assert not (tmp_path / "demo").exists()


def test_the_command_runs_the_whole_loop(tmp_path):
    pytest.importorskip("rclpy")
    out = tmp_path / "retrain"
    command = [
        sys.executable, "-c", CODE, "retrain-demo", "--out", str(out), "--robots", "4", "--minutes", "1.5",
        "--steps", "4", "--original-shards", "1", "--original-episodes", "1", "--runs", "2", "--run-minutes", "0.2",
        "--maps", "0", "--swap-seconds", "6", "--workers", "1", "--dagger", "0",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ROS_DOMAIN_ID": str(domains.take())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "gain on the site:" in done.stdout and "contacts: 0;" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["evaluation"]["driven"]["runs"] == 2
    swap = summary["swap"]
    assert swap["swap"]["accepted"] and not swap["refused"]["accepted"] and not swap["commanded_stop"]
    assert (swap["before"]["policy"], swap["after"]["policy"]) == ("before.onnx", "policy.onnx")
    assert swap["before"]["sim_seconds"] >= 6 and swap["after"]["sim_seconds"] >= 6
    assert set(summary["stages_s"]) == {"record", "import", "fine-tune", "swap"}
    OnnxPolicy(out / "finetune/policy.onnx", POGEMA_LAYOUT, ("CPUExecutionProvider",), 1)
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
