"""Places where robots block each other: corridors, junctions, a swap with a bay, full rings, robots that fail."""

import numpy as np
import pytest
from fleet_sim import Stub, behind, hall, place
from marlgpt_policy.deadlock import remedies
from marlgpt_policy.deadlock.detours import Detours
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_policy.robots.robot_config import Status
from places import ROOT

MODEL = ROOT / "ros2_ws/src/marlgpt_policy/models/pogema.onnx"
POLICIES = {"shipped": lambda: (OnnxPolicy(MODEL, POGEMA_LAYOUT), 0.2), "greedy": lambda: (Stub(), 0.0)}


def solve(sim, goals, seconds):
    """Send the robots to `goals`, one each, and run until each has been at its own once; simulated seconds."""
    for i, goal in enumerate(goals):
        sim.go(i, goal)
    sim.run(seconds, lambda _: bool((sim.fleet.goals_reached >= 1).all()))
    assert (sim.fleet.goals_reached >= 1).all(), (sim.fleet.goals_reached, sim.fleet.remedies)
    sim.assert_untouched()


SCENES = {
    "two robots change places in a corridor with one bay": (
        ["###.###", "......."], [(1, 0), (1, 6)], [(1, 6), (1, 0)], 120,
    ),
    "a bay beside the end of a corridor": (
        ["#.#####", "......."], [(1, 0), (1, 6)], [(1, 6), (1, 0)], 150,
    ),
    "four robots meet at a junction": (
        ["##.##", "##.##", ".....", "##.##", "##.##"],
        [(2, 0), (2, 4), (0, 2), (4, 2)], [(2, 4), (2, 0), (4, 2), (0, 2)], 200,
    ),
    "one robot out of a dead end, another one in": (
        ["####...", "....  .", "####..."], [(1, 0), (1, 3)], [(1, 6), (1, 0)], 150,
    ),
    "a ring where all go half way round": (
        ["....", ".##.", "...."], [(0, 0), (0, 3), (2, 3), (2, 0)], [(2, 3), (2, 0), (0, 0), (0, 3)], 150,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scene", SCENES)
def test_robots_that_block_each_other_get_where_they_want(scene, policy):
    lines, starts, goals, seconds = SCENES[scene]
    policy, temperature = POLICIES[policy]()
    sim = place([line.replace(" ", ".") for line in lines], *starts, policy=policy, temperature=temperature)
    solve(sim, goals, seconds)


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["asynchronous", "synchronous"])
def test_a_full_ring_rotates(execution):
    """Eight robots on eight cells: nobody can move unless all do."""
    ring = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    sim = place(["...", ".#.", "..."], *ring, execution=execution)
    solve(sim, ring[1:] + ring[:1], 30)
    assert sim.fleet.vetoes.sum() == 0


def test_nobody_starves_where_everybody_wants_to_the_same_corner():
    """Goals in one corner, again and again: priorities rotate."""
    sim = hall(*((r, c) for r in range(4) for c in (0, 1)), size=(4, 6), temperature=0.2)
    corner = [(0, 5), (1, 5), (0, 4)]
    random = np.random.default_rng(0)

    def again(result):
        for i in result.reached:
            far = corner[random.integers(3)] if sim.fleet.goals_reached[i] % 2 == 0 else (3, i % 6)
            sim.go(i, far)

    for i in range(8):
        sim.go(i, corner[i % 3])
    sim.run(150.0, again)
    sim.assert_untouched()
    assert sim.fleet.goals_reached.min() >= 2, sim.fleet.goals_reached


def test_a_follower_of_a_robot_that_stalls_turns_back_and_takes_another_way():
    sim = hall((1, 0), (1, 1), size=(3, 6))
    sim.go(0, (1, 5))
    sim.go(1, (1, 4))
    sim.run(6.0, lambda _: bool(behind(sim.fleet, 0, 1) and 0.2 < sim.fleet.progress[1] < 0.6))
    assert behind(sim.fleet, 0, 1)
    sim.deaf = {1}
    sim.run(60.0, lambda r: 0 in r.reached)
    assert sim.fleet.goals_reached[0] == 1
    assert sim.fleet.remedies["turned_back"] >= 1
    sim.assert_untouched()
    sim.deaf = set()
    sim.run(30.0)
    assert sim.fleet.goals_reached[1] == 1, "it goes on when it can"
    sim.assert_untouched()


def test_a_ring_whose_member_fails_before_it_moves_comes_apart_again():
    """Its three followers have begun to rotate with it; they must get back without touching it."""
    ring = [(0, 0), (0, 1), (1, 1), (1, 0)]
    sim = place(["..", "..", ".."], *ring)
    sim.deaf = {0}
    for i in range(4):
        sim.go(i, ring[(i + 1) % 4])
    sim.run(30.0)
    sim.assert_untouched()
    assert sim.fleet.remedies["turned_back"] >= 3
    sim.fleet.cancel_goal(0)
    sim.go(3, (2, 0))
    sim.run(30.0)
    assert sim.fleet.goals_reached[3] >= 1, "the others can still move"
    sim.assert_untouched()


def test_ways_lead_around_a_robot_that_was_stopped_in_the_only_short_way():
    lines = ["#...#", "..#..", "#.#.#", "#...#"]
    sim = place(lines, (1, 0), (0, 2))
    sim.fleet.stop(1)
    sim.go(0, (1, 4))
    sim.run(40.0, lambda r: bool(r.reached))
    assert sim.fleet.goals_reached[0] == 1
    assert sim.status(1) == Status.STOPPED
    sim.assert_untouched()


def test_a_robot_pushed_off_its_way_in_a_crowd_gets_onto_the_grid_again():
    sim = hall(*((r, c) for r in range(3) for c in range(4)), size=(3, 5), jump_settle=0.5)
    sim.world.poses[5, :2] += (0.12, 0.13)  # robot 5 stands between four cells, two of them taken
    sim.world.poses[6, :2] += (0.1, 0.0)
    sim.go(5, (1, 4))
    sim.run(60.0, lambda r: 5 in r.reached)
    sim.assert_untouched()
    assert sim.fleet.goals_reached[5] == 1, sim.fleet.detail


def test_a_wrong_first_pose_is_not_driven_by():
    """Nothing contradicts the first pose that a process gets: without a wait the robot would drive into the wall."""
    sim = place([".....", ".....", "....."], (0, 2), first_settle=4.0, jump_settle=1.0)
    sim.go(0, (2, 2))
    sim.silent = {0}
    while sim.time < 2.0:
        x, y, yaw = sim.world.poses[0]
        sim.fleet.update_pose(0, x, y - 0.6, yaw, sim.time)
        assert not sim.tick().commands.any()
        assert sim.status(0) == Status.OFF_GRID
    sim.silent = set()
    sim.run(0.9, lambda r: r.commands.any())
    assert sim.status(0) == Status.JUMPED
    sim.run(20.0, lambda r: bool(r.reached))
    assert sim.fleet.goals_reached[0] == 1
    sim.assert_untouched()


def test_shortest_takes_the_move_that_leads_nearest():
    sim = hall((0, 0), (2, 4))
    fields = sim.fleet.costs.fields(np.array([[2, 0], [2, 4]]))
    mask = np.ones((2, 5), dtype=bool)
    moves = remedies.shortest(fields, np.array([[0, 0], [2, 4]]), mask)
    assert moves.tolist() == [2, 0]
    mask[0, 2] = False
    assert remedies.shortest(fields, np.array([[0, 0], [2, 4]]), mask)[0] in (0, 4)


def test_rungs_of_the_ladder():
    idle = np.array([0.0, 41.0, 59.0, 60.0, 200.0, 30.0])
    planned = np.array([False, False, False, False, True, True])
    first = np.array([False, False, False, True, True, False])
    assert remedies.rungs(idle, planned, first, 0.2).tolist() == [0, 1, 1, 2, 2, 3]
    assert remedies.rungs(idle, planned, first, 0.0).tolist() == [0, 0, 0, 2, 2, 3]


def test_a_detour_exists_only_where_the_goal_stays_in_reach():
    sim = place([".....", ".###.", "....."], (0, 0))
    detours = Detours(sim.fleet.costs)
    goal, cell = np.array([[0, 4]]), np.array([[0, 0]])
    plain = detours.fields(goal, cell)[0]
    detours.close(np.array([[0, 2]]))
    assert plain[0, 0] == 4 and detours.fields(goal, cell)[0, 0, 0] == 8
    detours.close(np.array([[0, 2], [2, 2]]))
    np.testing.assert_array_equal(detours.fields(goal, cell)[0], plain)
    detours.close(np.zeros((0, 2)))
    np.testing.assert_array_equal(detours.fields(goal, cell)[0], plain)
