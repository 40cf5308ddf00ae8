"""Every kernel is compiled before robots drive: a node with an empty cache, and whatever a fleet gets into later."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fleet_sim  # noqa: E402
import numpy as np
import pytest
from marlgpt_policy.grid.cost_to_go import cost_to_go
from marlgpt_policy.kernels import kernel_cache
from marlgpt_policy.kernels.kernel_warmup import Kernels, dispatchers
from marlgpt_policy.policy.probes import sample
from marlgpt_policy.robots.robot_config import Drive

ROBOTS = [f"r{i:02d}" for i in range(16)]
HALL = (5, 8)
UNUSED = ("large_neighbourhood_search", "pibt")
"""Modules of planners that no robot uses yet; the expert of the training data does."""
SILENCE = 0.4
"""Seconds without a heartbeat that fail a test; the watchdog stops all robots after 0.5."""
NARROW = [
    "..........",
    ".########.",
    ".########.",
    "..........",
    ".#.####.#.",
    "..........",
    "####..####",
    "..........",
]
"""A loop, one-wide ways and a bottleneck: robots get stuck and plan jointly."""


@pytest.fixture(scope="module")
def kernels():
    return Kernels()


@pytest.mark.parametrize("execution", ["asynchronous", "synchronous"])
@pytest.mark.parametrize("drive", [Drive.DIFFERENTIAL, Drive.HOLONOMIC])
def test_nothing_is_compiled_while_a_crowd_drives(kernels, monkeypatch, execution, drive):
    """Goals, starts off the grid, stops, lost poses, right of way, joint plans, LaCAM, detours, another map."""
    from marlgpt_policy.deadlock import rolling_horizon_plan as joint_plan

    kernels.news()
    solved = []
    solve = joint_plan.solve
    monkeypatch.setattr(joint_plan, "solve", lambda *a: solved.append(1) or solve(*a))
    used = Counter()
    for seed in range(1, 9):  # which crowd gets stuck how is chance
        used += drive_a_crowd(seed, drive, execution)
        if solved and all(used[remedy] for remedy in ("plans", "pibt", "firsts")):
            break
    else:
        pytest.fail(f"what this test is about did not happen: {used}, solved {len(solved)} times")
    assert kernels.news() == []


def drive_a_crowd(seed, drive, execution):
    """How often each remedy was used by 22 robots in ``NARROW``, one of which is stopped and one lost for a while."""
    free = np.argwhere(np.array([[c != "#" for c in line] for line in NARROW]))
    random = np.random.default_rng(seed)
    cells = free[random.permutation(len(free))[:22]].tolist()
    sim = fleet_sim.place(
        NARROW, *cells, drive=drive, execution=execution, policy=fleet_sim.Stub(3), temperature=0.2
    )
    sim.world.poses[0, :2] += 0.05, 0.04  # off the grid
    for period in range(900):
        for i in np.flatnonzero(sim.fleet.goals[:, 0] < 0):
            sim.fleet.goals[i] = free[random.integers(len(free))]
        if period == 200:
            sim.fleet.stop(3)
            sim.silent = {5}
        if period == 600:
            sim.fleet.resume(3)
            sim.silent = set()
        sim.tick()
    sim.fleet.replace_map(sim.grid, sim.fleet.distances)
    sim.run(5.0)
    return Counter(sim.fleet.remedies)


def test_nothing_is_compiled_to_try_a_policy_out(kernels):
    kernels.news()
    assert sample(None, 16) and sample(fleet_sim.hall((0, 0), size=(3, 60)).grid.moves, 16)
    assert kernels.news() == []


def test_a_kernel_that_is_compiled_later_is_named(kernels):
    kernels.news()
    assert kernels.news() == []
    from marlgpt_policy.grid.cost_to_go import _breadth_first

    moves = np.ones((2, 2, 5), dtype=bool)
    moves.flags.writeable = False
    assert cost_to_go(moves, (0, 0)).shape == (2, 2)
    assert kernels.news() == []
    _breadth_first(np.asfortranarray(moves), 0, 0)  # another layout
    assert kernels.news() == ["marlgpt_policy.grid.cost_to_go._breadth_first"]


# Read-only folders ---------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_to_is_copied_and_used(monkeypatch, tmp_path):
    baked = tmp_path / "baked" / "marlgpt_policy_1"
    baked.mkdir(parents=True)
    (baked / "kernel.nbc").write_bytes(b"machine code")
    monkeypatch.setenv(kernel_cache.VARIABLE, str(baked.parent))
    kernel_cache.provide()
    assert os.environ[kernel_cache.VARIABLE] == str(baked.parent), "a good one stays"
    monkeypatch.setattr(kernel_cache.os, "access", lambda path, mode: False)
    kernel_cache.provide()
    folder = Path(os.environ[kernel_cache.VARIABLE])
    assert (
        folder != baked.parent
        and (folder / "marlgpt_policy_1" / "kernel.nbc").read_bytes() == b"machine code"
    )


def test_the_package_can_be_imported_where_numba_finds_no_folder():
    """/proc takes no folder from anybody, not even from root."""
    environment = {
        **os.environ, kernel_cache.VARIABLE: "/proc/marlgpt", "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
    }  # fmt: skip
    code = "import marlgpt_policy.grid.nav_grid, os; print(os.environ['NUMBA_CACHE_DIR'])"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert "marlgpt_kernels_" in run.stdout and not Path(run.stdout.strip()).exists(), "removed at the end"


# The real node -------------------------------------------------------------------------------------------


def spacious_hall():
    """The map of an empty hall of ``HALL`` cells, as a message."""
    from fleet_bench import hall

    rows, cols = HALL
    message = hall()
    message.info.height, message.info.width = (rows - 1) * 14 + 11, (cols - 1) * 14 + 11
    message.data = np.zeros(message.info.height * message.info.width, dtype=np.int8).tolist()
    return message


def test_a_node_with_an_empty_cache_compiles_in_configure_and_never_again(tmp_path_factory, monkeypatch):
    pytest.importorskip("rclpy")
    from fleet_bench import Pulse, centre, open_bench, write_policy
    from lifecycle_msgs.msg import Transition
    from marlgpt_msgs.srv import GetGrid

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv(kernel_cache.VARIABLE, str(cache))
    policy = write_policy(tmp_path_factory.mktemp("policy") / "good.onnx")
    bench = open_bench(tmp_path_factory, policy, ROBOTS, max_speed=1.0)
    try:
        begun = time.monotonic()
        configured = bench.change_state(Transition.TRANSITION_CONFIGURE, 240.0)
        print(f"configure with an empty cache: {time.monotonic() - begun:.1f} s")
        assert configured and bench.logged("compiling kernels took"), bench.log.read_text()
        assert bench.change_state(Transition.TRANSITION_ACTIVATE)
        bench.map.publish(spacious_hall())
        bench.until(lambda: bench.heartbeats and bench.logged("map accepted"), "heartbeat")
        bench.grid = bench.call(GetGrid, "fleet/get_grid", GetGrid.Request())
        random = np.random.default_rng(2)
        spots = [divmod(int(k), HALL[1]) for k in random.permutation(HALL[0] * HALL[1])]
        with Pulse(bench) as pulse:
            for robot, cell in zip(ROBOTS, spots, strict=False):
                bench.poses[robot] = centre(bench.grid, *cell)
            bench.poses[ROBOTS[0]] += 0.04, 0.05  # off the grid
            bench.spin(5.0)
            for robot, cell in zip(ROBOTS, spots[::-1], strict=False):
                bench.go(robot, *cell)
            bench.spin(10.0)
            bench.command("stop_robot", ROBOTS[1])
            for robot, cell in zip(ROBOTS, spots, strict=False):
                bench.go(robot, *cell)
            bench.spin(5.0)
        print(f"longest silence of the heartbeat of 16 robots: {pulse.longest:.3f} s")
        assert bench.states[-1].goals_reached >= len(ROBOTS) // 2, "robots drove"
        assert not bench.logged("compiled while robots drove"), bench.log.read_text()
        assert pulse.longest < SILENCE
    finally:
        bench.close()
    kept = {path.name.split("-")[0] for path in cache.rglob("*.nbi")}
    names = [name.rsplit(".", 2)[-2:] for name in dispatchers()]
    never = [
        f"{module}.{name}"
        for module, name in names
        if f"{module}.{name}" not in kept and module not in UNUSED
    ]
    assert never == [], (
        "kernels that no robot of kernels/kernel_warmup.py calls: have one of them meet what they are for"
    )
