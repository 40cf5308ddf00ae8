"""The independent checker: geometry against dense sampling, motion and contacts against the simulator's."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_sim.soak.independent_checker import WALL, IndependentChecker, closest_approach, square_distance
from marlgpt_sim.world.fleet_world import FleetWorld

metre = st.floats(-2.0, 2.0)
point = st.builds(complex, metre, metre)
LIMITS = (1.0, 2.5, 2.0, 5.0)


@settings(max_examples=300, deadline=None)
@given(point, point, point, point)
def test_closest_approach_is_what_dense_sampling_finds(p, q, r, s):
    t = np.linspace(0.0, 1.0, 2001)
    sampled = np.abs((p + t * (q - p)) - (r + t * (s - r))).min()
    exact = closest_approach(p, q, r, s)
    step = abs((q - p) - (s - r)) / 2000
    assert exact <= sampled + 1e-12 and sampled <= exact + step + 1e-12


@settings(max_examples=300, deadline=None)
@given(point, point, metre, metre, st.floats(0.01, 1.0))
def test_distance_of_a_segment_and_a_square_is_what_dense_sampling_finds(a, b, left, bottom, side):
    z = a + np.linspace(0.0, 1.0, 2001) * (b - a)
    dx = z.real - np.clip(z.real, left, left + side)
    dy = z.imag - np.clip(z.imag, bottom, bottom + side)
    sampled = np.hypot(dx, dy).min()
    exact = square_distance(a, b, left, bottom, side)
    assert exact <= sampled + 1e-9 and sampled <= exact + abs(b - a) / 2000 + 1e-12


def hall(metres=6.0, resolution=0.05, origin=(0.0, 0.0, 0.0)):
    empty = np.zeros((round(metres / resolution),) * 2, bool)
    return OccupancyMap(empty, empty, resolution, origin)


def pair(map, poses, drive=0, **options):
    """A world and a checker that start alike."""
    poses = np.array(poses, float)
    world = FleetWorld(map, poses, 0.2, drive, LIMITS, **options)
    checker = IndependentChecker(
        map.occupied,
        map.resolution,
        map.origin,
        world.poses,
        0.2,
        np.asarray(drive) == 1,
        LIMITS,
        world.present,
    )
    return world, checker


def step(world, checker, commands, dt=0.025, pushes=None):
    before = len(world.contacts)
    world.step(commands, dt, pushes)
    index = {name: k for k, name in enumerate(world.names)}
    met = [(index[c.a], index.get(c.b, WALL)) for c in world.contacts[before:]]
    checker.step(np.array(commands, float), dt, pushes, world.poses, world.velocities, world.present, met)


def test_both_plants_agree_for_minutes_without_contacts():
    world, checker = pair(
        hall(40.0, origin=(3.0, -2.0, 0.7)), [[8, 14, 0.2], [14, 22, 2.0], [2, 24, -3.0]], [0, 1, 1]
    )
    random = np.random.default_rng(3)
    for k in range(2400):
        if k % 40 == 0:
            commands = random.normal(size=(3, 3)) * (0.5, 0.5, 1.0)
        step(world, checker, commands)
    assert world.contacts == [] and checker.disagreements == [] and checker.touches == []
    np.testing.assert_allclose(checker.position, world.poses[:, 0] + 1j * world.poses[:, 1], atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_both_count_the_same_contacts_in_a_crowd_of_bumper_cars(seed):
    random = np.random.default_rng(seed)
    cells = np.argwhere(np.ones((8, 8)))[random.permutation(64)[:40]]
    poses = np.column_stack([0.5 + 0.7 * cells, random.uniform(-3, 3, 40)])
    occupied = np.zeros((120, 120), bool)
    occupied[0:3, 40:44] = occupied[100:120, 118:] = True
    map = OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0))
    world, checker = pair(map, poses, np.arange(40) % 2)
    for k in range(3000):
        if k % 20 == 0:
            commands = random.normal(size=(40, 3)) * (0.6, 0.6, 1.5)
        pushes = None
        if k % 50 < 10:
            pushes = np.zeros((40, 3))
            pushes[:5, :2] = random.normal(size=(5, 2)) * 0.5
        step(world, checker, commands, pushes=pushes)
    assert checker.disagreements == []
    assert world.robot_contacts > 100 and world.wall_contacts > 100
    met = {(min(c.a, c.b), max(c.a, c.b)) for c in world.contacts if c.b != "wall"}
    found = {(f"robot_{t.a}", f"robot_{t.b}") for t in checker.touches if t.b != WALL}
    # Those that only graze, or that another contact stopped in the same step, may be missing here, and no others.
    assert {tuple(sorted(p)) for p in found} <= {tuple(sorted(p)) for p in met}
    assert len(found) > 0.9 * len(met)


def test_a_simulator_that_lets_robots_pass_through_each_other_is_caught():
    world, checker = pair(hall(), [[1.0, 3.0, 0.0], [2.0, 3.0, math.pi]])
    ghost, _ = pair(hall(), [[1.0, 3.0, 0.0], [2.0, 5.0, math.pi]])
    for _ in range(100):  # the ghost world has the second robot elsewhere, so that nothing stops the first
        ghost.step(np.array([[0.8, 0, 0], [0, 0, 0]]), 0.025)
        poses, velocities = ghost.poses.copy(), ghost.velocities
        poses[1] = world.poses[1]
        checker.step(np.array([[0.8, 0, 0], [0, 0, 0]]), 0.025, None, poses, velocities, world.present, [])
    assert [(t.a, t.b) for t in checker.touches] == [(0, 1)]
    assert "misses a contact of robot 0 and robot 1" in checker.disagreements[0]
    assert checker.least_gap < 0.0


def test_a_simulator_that_sees_contacts_where_there_are_none_is_caught():
    world, checker = pair(hall(), [[1.0, 3.0, 0.0], [2.0, 3.0, 0.0]])
    checker.step(np.zeros((2, 3)), 0.025, None, world.poses, world.velocities, world.present, [(0, 1)])
    checker.step(np.zeros((2, 3)), 0.025, None, world.poses, world.velocities, world.present, [(0, WALL)])
    assert len(checker.disagreements) == 2 and checker.touches == []


def test_a_robot_that_does_not_do_what_its_base_should_is_caught():
    world, checker = pair(hall(), [[1.0, 3.0, 0.0], [4.0, 3.0, 0.0]])
    world.step(np.array([[0.5, 0, 0], [0, 0, 0]]), 0.025)
    moved = world.poses + [[1e-4, 0, 0], [0, 0, 0]]
    checker.step(np.array([[0.5, 0, 0], [0, 0, 0]]), 0.025, None, moved, world.velocities, world.present, [])
    assert len(checker.disagreements) == 1 and "robot 0" in checker.disagreements[0]


def test_a_fast_robot_cannot_tunnel_through_a_thin_wall_or_a_robot():
    occupied = np.zeros((120, 120), bool)
    occupied[:, 60] = True
    map = OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0))
    checker = IndependentChecker(
        map.occupied,
        0.05,
        map.origin,
        np.array([[1.0, 3.0, 0.0]]),
        0.1,
        False,
        (1000.0, 1, 1e6, 1),
        np.ones(1, bool),
    )
    checker.step(
        np.array([[100.0, 0, 0]]), 0.04, None, np.array([[5.0, 3.0, 0.0]]), np.array([[100.0, 0, 0]]),
        np.ones(1, bool), [],
    )  # fmt: skip
    assert [(t.a, t.b) for t in checker.touches] == [(0, WALL)]


def test_a_robot_that_is_put_down_is_trusted_and_one_that_is_away_touches_nothing():
    world, checker = pair(hall(), [[1.0, 3.0, 0.0], [4.0, 3.0, 0.0]])
    world.remove(1)
    step(world, checker, np.zeros((2, 3)))
    world.place(1, (2.0, 2.0, 1.0))
    step(world, checker, np.zeros((2, 3)))
    assert checker.position[1] == 2 + 2j and checker.disagreements == []
