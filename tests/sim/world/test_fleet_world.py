"""The fleet world: no penetration, limits, contacts counted once, determinism, noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_sim.world.collision import SKIN
from marlgpt_sim.world.dynamics import SAGITTA
from marlgpt_sim.world.fleet_world import DIFFERENTIAL, HOLONOMIC, Contact, FleetWorld

LIMITS = (0.5, 2.0, 3.0, 6.0)
FAST = (50.0, 20.0, 1e4, 1e4)


def open_map(size=10.0, origin=(0.0, 0.0, 0.0)) -> OccupancyMap:
    pixels = round(size / 0.05)
    occupied = np.zeros((pixels, pixels), bool)
    return OccupancyMap(occupied, np.zeros_like(occupied), 0.05, origin)


def walled_map(origin=(-2.0, 1.0, 0.4)) -> OccupancyMap:
    """Four metres square with a block, a thin wall and single pixels."""
    occupied = np.zeros((80, 80), bool)
    occupied[30:42, 34:46] = True
    occupied[60, 10:60] = True
    occupied[12, 12] = occupied[20, 66] = occupied[70, 70] = True
    return OccupancyMap(occupied, np.zeros_like(occupied), 0.05, origin)


def in_map(map_: OccupancyMap, xy) -> np.ndarray:
    """Metres along the pixel axes to the map frame."""
    c, s = math.cos(map_.origin[2]), math.sin(map_.origin[2])
    x, y = np.asarray(xy, float).T
    return np.stack([map_.origin[0] + c * x - s * y, map_.origin[1] + s * x + c * y], axis=-1)


def pixel_gap(map_: OccupancyMap, xy, radius) -> float:
    """Slow reference: distance from a disc to the nearest occupied square or to the map's border."""
    c, s = math.cos(map_.origin[2]), math.sin(map_.origin[2])
    dx, dy = xy[0] - map_.origin[0], xy[1] - map_.origin[1]
    x, y = c * dx + s * dy, -s * dx + c * dy
    rows, columns = np.nonzero(map_.occupied)
    low_x, low_y = columns * map_.resolution, rows * map_.resolution
    gap_x = np.maximum(np.maximum(low_x - x, x - low_x - map_.resolution), 0.0)
    gap_y = np.maximum(np.maximum(low_y - y, y - low_y - map_.resolution), 0.0)
    height, width = np.array(map_.shape) * map_.resolution
    return min(np.hypot(gap_x, gap_y).min(initial=np.inf), x, y, width - x, height - y) - radius


STARTS = [(0.4, 0.35), (1.1, 1.0), (2.8, 0.8), (3.4, 2.4), (0.8, 2.4), (1.0, 3.4), (2.2, 3.5), (1.5, 0.4)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    commands=hnp.arrays(float, (12, 8, 3), elements=st.floats(-60.0, 60.0, allow_subnormal=False)),
    drive=st.lists(st.sampled_from([DIFFERENTIAL, HOLONOMIC]), min_size=8, max_size=8),
    limits=st.sampled_from([LIMITS, (2.0, 6.0, 50.0, 50.0), FAST]),
    dt=st.sampled_from([0.01, 0.05, 0.4]),
)
def test_nothing_ever_penetrates(commands, drive, limits, dt):
    map_ = walled_map()
    poses = np.concatenate([in_map(map_, STARTS), np.linspace(-3.0, 3.0, 8)[:, None]], axis=1)
    world = FleetWorld(map_, poses, 0.15, np.array(drive), limits)
    for command in commands:
        before, last = world.poses.copy(), world.velocities.copy()
        for _ in range(4):
            world.step(command, dt)
            gaps = [pixel_gap(map_, xy, 0.15) for xy in world.poses[:, :2]]
            np.testing.assert_allclose(world.wall_gaps(), gaps, atol=1e-9)
            assert min(gaps) > 0.0
            assert world.separation > 0.0
            assert 0.0 < world.min_separation <= world.separation + 1e-12
            speed = np.hypot(*(world.poses - before)[:, :2].T) / dt
            assert (speed <= limits[0] * (1.0 + 1e-9)).all()
            assert (np.hypot(*world.velocities[:, :2].T) <= limits[0] * (1.0 + 1e-9)).all()
            assert (np.abs(world.velocities[:, 2]) <= limits[1] * (1.0 + 1e-9)).all()
            change = np.abs(world.velocities - last)[:, 2]
            assert (change <= limits[3] * dt * (1.0 + 1e-9)).all()
            before, last = world.poses.copy(), world.velocities.copy()
    assert len(world.contacts) == world.robot_contacts + world.wall_contacts


def test_acceleration_is_limited_away_from_contacts():
    world = FleetWorld(open_map(40.0), [[20.0, 20.0, 0.3]], 0.2, HOLONOMIC, LIMITS)
    rng = np.random.default_rng(3)
    for _ in range(300):
        last = world.velocities.copy()
        world.step(rng.uniform(-3.0, 3.0, (1, 3)), 0.01)
        assert np.hypot(*(world.velocities - last)[0, :2]) <= 3.0 * 0.01 * (1.0 + 1e-9)
        assert abs(world.velocities[0, 2] - last[0, 2]) <= 6.0 * 0.01 * (1.0 + 1e-9)


def test_commands_are_followed_once_the_ramp_is_over():
    world = FleetWorld(open_map(), [[2.0, 2.0, 0.0], [2.0, 5.0, 0.0]], 0.2, [DIFFERENTIAL, HOLONOMIC], LIMITS)
    for _ in range(300):
        world.step(np.array([[0.3, 0.4, 0.5], [0.3, 0.4, 0.5]]), 0.01)
    np.testing.assert_allclose(world.velocities, [[0.3, 0.0, 0.5], [0.3, 0.4, 0.5]], atol=1e-12)


@pytest.mark.parametrize("dt", [0.01, 0.1, 1.0])
def test_unicycle_drives_the_exact_arc(dt):
    world = FleetWorld(open_map(), [[5.0, 5.0, 0.7]], 0.2, DIFFERENTIAL, FAST)
    for _ in range(round(2.0 / dt)):
        world.step(np.array([[0.8, 0.0, 0.9]]), dt)
    radius, yaw = 0.8 / 0.9, 0.7 + 0.9 * 2.0
    expected = [
        5.0 + radius * (math.sin(yaw) - math.sin(0.7)),
        5.0 - radius * (math.cos(yaw) - math.cos(0.7)),
        yaw,
    ]
    np.testing.assert_allclose(world.poses[0], expected, atol=1e-9)


def test_head_on_is_one_contact_and_again_only_after_parting():
    poses = [[3.0, 5.0, 0.0], [6.0, 5.0, math.pi]]
    world = FleetWorld(open_map(), poses, 0.2, limits=LIMITS, names=["a", "b"])
    forward = np.array([[0.5, 0.0, 0.0], [0.5, 0.0, 0.0]])
    for _ in range(800):
        world.step(forward, 0.01)
    assert (world.robot_contacts, world.wall_contacts) == (1, 0)
    (contact,) = world.contacts
    assert (contact.a, contact.b) == ("a", "b")
    np.testing.assert_allclose(contact.xy, (4.5, 5.0), atol=1e-5)
    # 1.3 m each at 0.5 m/s after a ramp of 3 m/s^2, in steps of 0.01 s.
    assert contact.time == pytest.approx(1.3 / 0.5 + 0.5 * 0.5 / 3.0, abs=0.02)
    assert world.separation == pytest.approx(SKIN, rel=0.01)
    assert (world.velocities[:, 0] == 0.0).all()
    for _ in range(50):
        world.step(-forward, 0.01)
    for _ in range(200):
        world.step(forward, 0.01)
    assert world.robot_contacts == 2


@pytest.mark.parametrize("speed", [0.5, 40.0])
@pytest.mark.parametrize("dt", [0.01, 0.25])
def test_passing_with_one_millimetre_is_no_contact(speed, dt):
    world = FleetWorld(
        open_map(), [[1.0, 5.0, 0.0], [9.0, 5.401, math.pi]], 0.2, limits=(speed, 2.0, 1e4, 6.0)
    )
    for _ in range(round(6.0 / speed / dt) + 1):
        world.step(np.array([[speed, 0.0, 0.0], [speed, 0.0, 0.0]]), dt)
    assert world.poses[0, 0] > world.poses[1, 0], "they never passed"
    assert world.robot_contacts == 0
    assert world.min_separation == pytest.approx(1e-3, abs=1e-9), "the pass between two steps was not seen"


def test_a_fast_robot_does_not_tunnel():
    map_ = open_map()
    occupied = map_.occupied.copy()
    occupied[100, :] = True
    map_ = OccupancyMap(occupied, map_.unknown, 0.05, (0.0, 0.0, 0.0))
    world = FleetWorld(map_, [[5.0, 2.0, math.pi / 2]], 0.2, limits=(100.0, 1.0, 1e6, 1.0), names=["dart"])
    world.step(np.array([[100.0, 0.0, 0.0]]), 1.0)
    assert world.poses[0, 1] == pytest.approx(4.8, abs=2e-6)
    (contact,) = world.contacts
    assert (contact.a, contact.b) == ("dart", "wall")
    np.testing.assert_allclose(contact.xy, (5.0, 5.0), atol=1e-5)


def test_a_robot_in_contact_can_turn_and_leave_and_slide_along_a_wall():
    world = FleetWorld(open_map(), [[1.0, 5.0, math.pi]], 0.2, HOLONOMIC, LIMITS)
    for _ in range(300):
        world.step(np.array([[0.5, 0.0, 0.0]]), 0.01)
    assert world.wall_contacts == 1
    for _ in range(500):
        world.step(np.array([[0.0, 0.4, 0.0]]), 0.01)
    assert world.poses[0, 1] < 3.1, "sliding along the wall was held by rounding"
    for _ in range(100):
        world.step(np.array([[-0.4, 0.0, 1.0]]), 0.01)
    assert world.wall_gaps()[0] > 0.1
    assert world.wall_contacts == 1


def test_the_robot_that_is_hit_may_drive_on():
    world = FleetWorld(
        open_map(), [[2.0, 5.0, 0.0], [2.6, 5.0, 0.0]], 0.2, limits=[[0.5, 2, 3, 6], [0.2, 2, 3, 6]]
    )
    for _ in range(300):
        world.step(np.array([[0.5, 0.0, 0.0], [0.2, 0.0, 0.0]]), 0.01)
    assert world.robot_contacts >= 1
    assert world.poses[1, 0] == pytest.approx(2.6 + 0.2 * 3.0, abs=0.02)


def test_arcs_leave_their_chords_by_at_most_the_stated_bound():
    """A robot circling a post at a gap of three sagittas never touches it, at a coarse step."""
    radius = 0.5
    world = FleetWorld(
        open_map(), [[5.0, 5.0, 0.0], [5.0, 5.0 - radius, 0.0]],
        [0.3, radius - 0.3 - 3 * SAGITTA], limits=(2.0, 4.0, 1e4, 1e4),
    )  # fmt: skip
    for _ in range(20):
        world.step(np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 4.0]]), 0.5)
    assert world.robot_contacts == 0
    assert world.min_separation == pytest.approx(2.5 * SAGITTA, abs=SAGITTA)


def test_same_seed_and_commands_give_the_same_bits():
    def run():
        map_ = walled_map()
        poses = np.concatenate([in_map(map_, STARTS), np.zeros((8, 1))], axis=1)
        world = FleetWorld(map_, poses, 0.15, HOLONOMIC, LIMITS, 7, 0.01, 0.02)
        rng = np.random.default_rng(5)
        measured = []
        for _ in range(200):
            world.step(rng.uniform(-1.0, 1.0, (8, 3)), 0.02)
            measured.append(world.measured_poses())
        return world.poses.tobytes(), np.array(measured).tobytes(), world.contacts, world.min_separation

    assert run() == run()


def test_noise_is_gaussian_seeded_and_fixed_within_a_step():
    n = 100
    poses = np.zeros((n, 3))
    poses[:, :2] = np.stack(np.divmod(np.arange(n), 10), axis=1) * 0.9 + 0.5
    worlds = [FleetWorld(open_map(), poses, 0.2, seed=seed, pose_noise_xy=0.02, pose_noise_yaw=0.05)
              for seed in (1, 1, 2)]  # fmt: skip
    errors = []
    for _ in range(100):
        first = worlds[0].measured_poses()
        np.testing.assert_array_equal(first, worlds[0].measured_poses())
        np.testing.assert_array_equal(first, worlds[1].measured_poses())
        assert (first != worlds[2].measured_poses()).all()
        errors.append(first - worlds[0].poses)
        for world in worlds:
            world.step(np.zeros((n, 3)), 0.01)
    errors = np.concatenate(errors)
    np.testing.assert_allclose(errors.std(axis=0), (0.02, 0.02, 0.05), rtol=0.03)
    np.testing.assert_allclose(errors.mean(axis=0), 0.0, atol=0.002)
    np.testing.assert_array_equal(worlds[0].poses, poses)


def test_scales_to_a_large_fleet():
    n = 256
    poses = np.zeros((n, 3))
    poses[:, :2] = np.stack(np.divmod(np.arange(n), 16), axis=1) * 0.6 + 0.5
    world = FleetWorld(open_map(), poses, 0.2)
    for _ in range(20):
        world.step(np.tile((0.5, 0.0, 0.7), (n, 1)), 0.01)
    assert world.separation > 0.0
    assert len(world) == n


def test_unknown_pixels_stop_robots_only_if_asked():
    free = np.zeros((40, 40), bool)
    unknown = free.copy()
    unknown[:, 20:] = True
    map_ = OccupancyMap(free, unknown, 0.05, (0.0, 0.0, 0.0))
    for wall, contacts in ((False, 0), (True, 1)):
        world = FleetWorld(map_, [[0.5, 1.0, 0.0]], 0.2, unknown_is_wall=wall)
        for _ in range(200):
            world.step(np.array([[0.4, 0.0, 0.0]]), 0.01)
        assert world.wall_contacts == contacts


def still(n: int) -> np.ndarray:
    return np.zeros((n, 3))


def test_a_push_moves_a_robot_and_ends_short_of_walls_and_robots():
    world = FleetWorld(open_map(), [[2.0, 5.0, 0.0], [2.0, 7.0, 0.0], [4.0, 7.0, 0.0]], 0.2)
    pushes = np.array([[0.0, 0.3, 0.5], [0.4, 0.0, 0.0], [0.0, 0.0, 0.0]])
    for _ in range(100):
        world.step(still(3), 0.01, pushes)
    np.testing.assert_allclose(world.poses[0], [2.0, 5.3, 0.5], atol=1e-9)
    np.testing.assert_allclose(world.poses[1], [2.4, 7.0, 0.0], atol=1e-9)
    for _ in range(500):
        world.step(still(3), 0.01, [[-1.0, 0.0, 0.0], [0.4, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert world.wall_gaps()[0] == pytest.approx(0.05, abs=1e-5)
    assert world.separation == pytest.approx(0.05, abs=1e-5)
    np.testing.assert_allclose(world.poses[2], [4.0, 7.0, 0.0])
    assert world.contacts == []
    for _ in range(100):  # along the wall it goes on
        world.step(still(3), 0.01, [[-1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        world.step(still(3), 0.01, [[0.0, -1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert world.poses[0, 1] < 4.5


def test_a_push_leaves_driving_robots_room_to_stop():
    """One robot drives east, another is pushed into its way: room for 0.3 s at speed and for braking."""
    world = FleetWorld(open_map(), [[2.0, 5.0, 0.0], [3.4, 5.8, 0.0]], 0.2, limits=LIMITS)
    drive, pushes = np.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]), [[0.0, 0.0, 0.0], [0.0, -0.6, 0.0]]
    while world.poses[0, 0] < 2.8:
        world.step(drive, 1e-3)
    while world.separation > 0.05 + 0.5 * 0.3 + 0.25 / 6.0:
        world.step(drive, 1e-3, pushes)
    for _ in range(300):  # it hears of the other after 0.3 s, then brakes
        world.step(drive, 1e-3, pushes)
    for _ in range(200):
        world.step(still(2), 1e-3, pushes)
    assert world.contacts == []
    assert world.min_separation >= 0.05


def test_a_contact_says_whether_one_was_pushed():
    for push, pushed in ((0.0, False), (0.2, True)):
        world = FleetWorld(open_map(), [[2.0, 5.0, 0.0], [3.0, 5.0, math.pi]], 0.2)
        for _ in range(200):
            world.step(
                np.array([[0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]), 0.01, [[0.0, push, 0.0], [0.0, push, 0.0]]
            )
        assert world.contacts[0].pushed is pushed
    assert Contact(0.0, "a", "b", (0.0, 0.0)).pushed is False


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pushes=hnp.arrays(float, (10, 8, 3), elements=st.floats(-3.0, 3.0, allow_subnormal=False)),
    dt=st.sampled_from([0.01, 0.05, 0.4]),
)
def test_pushes_alone_never_touch_anything(pushes, dt):
    map_ = walled_map()
    poses = np.concatenate([in_map(map_, STARTS), np.linspace(-3.0, 3.0, 8)[:, None]], axis=1)
    world = FleetWorld(map_, poses, 0.15)
    low = min(0.05, world.separation, world.wall_gaps().min())
    for push in pushes:
        for _ in range(3):
            world.step(still(8), dt, push)
            assert world.separation >= low - 1e-4
            assert world.min_separation >= low - 1e-4
            assert world.wall_gaps().min() >= low - 1e-4
    assert world.contacts == []


def test_an_absent_robot_has_no_body():
    poses = [[2.0, 5.0, 0.0], [4.0, 5.0, math.pi], [4.1, 5.0, 0.0]]
    world = FleetWorld(open_map(), poses, 0.2, present=[True, True, False], names=["a", "b", "c"])
    assert world.min_separation == pytest.approx(1.6)
    assert world.wall_gaps()[2] == np.inf
    world.remove(1)
    for _ in range(900):
        world.step(np.array([[0.5, 0.0, 0.0]] * 3), 0.01)
    assert world.poses[0, 0] > 6.0, "something stood in the way"
    np.testing.assert_allclose(world.poses[1:], [[4.0, 5.0, -math.pi], [4.1, 5.0, 0.0]])
    assert (world.velocities[1:] == 0.0).all()
    assert world.contacts == []
    assert world.separation == np.inf
    world.place(2, [4.0, 5.0, 7.0])
    np.testing.assert_allclose(world.poses[2], [4.0, 5.0, 7.0 - 2.0 * math.pi])
    assert world.min_separation == pytest.approx(1.6)
    world.place(1, [4.45, 5.0, 0.0], clearance=0.04)
    assert world.min_separation == pytest.approx(0.05)
    for _ in range(100):
        world.step(np.array([[0.0, 0.0, 0.0], [-0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]), 0.01)
    assert world.robot_contacts == 1
    world.remove(1)
    world.place(1, [4.45, 5.0, 0.0], clearance=0.04)
    for _ in range(100):
        world.step(np.array([[0.0, 0.0, 0.0], [-0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]), 0.01)
    assert world.robot_contacts == 2, "a new body makes a new contact"


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        ([2.42, 5.0, 0.0], "'b' has 0.020 m of room"),
        ([0.1, 5.0, 0.0], "'b' has -0.100 m of room"),
        ([50.0, 5.0, 0.0], "'b' has"),
        ([math.nan, 5.0, 0.0], "'b' is not finite"),
    ],
)
def test_a_robot_is_placed_only_where_there_is_room(pose, message):
    world = FleetWorld(open_map(), [[2.0, 5.0, 0.0], [4.0, 5.0, 0.0]], 0.2, names=["a", "b"])
    with pytest.raises(ValueError, match="'b' is in the world already"):
        world.place(1, [6.0, 5.0, 0.0])
    world.remove(1)
    with pytest.raises(ValueError, match=message):
        world.place(1, pose)
    assert not world.present[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"present": [True, True]}, "present has shape"),
        ({"push_margin": -0.1}, "push_margin"),
        ({"poses": [[1.0, 1.0, 0.0], [1.3, 1.0, 0.0], [8.0, 8.0, 0.0]]}, "'ann' and 'bob' overlap"),
        ({"poses": [[1.0, 1.0, 0.0], [2.0, 0.1, 0.0], [8.0, 8.0, 0.0]]}, "'bob'.*starts in a wall"),
        ({"poses": [[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [80.0, 8.0, 0.0]]}, "'cyd'.*outside the map"),
        ({"poses": [[1.0, math.nan, 0.0], [2.0, 1.0, 0.0], [8.0, 8.0, 0.0]]}, "'ann' is not finite"),
        ({"names": ["ann", "bob", "ann"]}, "'ann' is used twice"),
        ({"names": ["ann"]}, "1 names for 3 poses"),
        ({"radii": [0.2, -0.2, 0.2]}, "radius of robot 'bob'"),
        ({"drive": [0, 0, 2]}, "drive of robot 'cyd'"),
        ({"limits": [0.5, 2.0, 0.0, 6.0]}, "limits of robot 'ann'"),
        ({"pose_noise_xy": -1.0}, "pose_noise_xy"),
    ],
)
def test_bad_starts_name_the_robot(change, message):
    args = {"poses": [[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [8.0, 8.0, 0.0]], "radii": 0.2, "drive": 0,
            "names": ["ann", "bob", "cyd"]}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        FleetWorld(open_map(), **(args | change))


def test_bad_commands_are_refused():
    world = FleetWorld(open_map(), [[1.0, 1.0, 0.0]], 0.2, names=["ann"])
    with pytest.raises(ValueError, match="'ann'.*not finite"):
        world.step(np.array([[math.nan, 0.0, 0.0]]), 0.01)
    with pytest.raises(ValueError, match="shape"):
        world.step(np.zeros((2, 3)), 0.01)
    with pytest.raises(ValueError, match="dt"):
        world.step(np.zeros((1, 3)), 0.0)
