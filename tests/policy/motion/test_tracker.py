"""The tracker against an ideal base with delay: limits, stops, arrival, and robots that fail alone."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.motion.tracker import TrackResult, track
from marlgpt_policy.robots.robot_config import Drive, MotionLimits

DEFAULT = MotionLimits()
EDGE = 0.7

finite = st.floats(-1e3, 1e3)


def call(
    poses,
    last=None,
    starts=None,
    targets=None,
    limit=1.0,
    hold=False,
    drive=0,
    limits=DEFAULT,
    dt=0.05,
    **rest,
):
    """Call `track` with one value per argument, repeated for every robot; edges along x by default."""
    poses = np.atleast_2d(np.asarray(poses, dtype=float))
    n = len(poses)
    return track(
        poses,
        np.zeros((n, 3)) if last is None else np.atleast_2d(last),
        np.zeros((n, 2)) if starts is None else starts,
        np.tile([EDGE, 0.0], (n, 1)) if targets is None else targets,
        np.broadcast_to(np.asarray(limit, dtype=float), n),
        np.broadcast_to(hold, n),
        np.broadcast_to(np.asarray(drive, dtype=np.int8), n),
        np.tile(limits.as_row(), (n, 1)),
        dt,
        **rest,
    )


def drive_on(poses, commands, seconds):
    """Move ideal bases by body-frame commands (exact but for a fine split of the rotation)."""
    poses = poses.copy()
    for _ in range(5):
        h = seconds / 5
        middle = poses[:, 2] + commands[:, 2] * h / 2
        poses[:, 0] += h * (np.cos(middle) * commands[:, 0] - np.sin(middle) * commands[:, 1])
        poses[:, 1] += h * (np.sin(middle) * commands[:, 0] + np.cos(middle) * commands[:, 1])
        poses[:, 2] += h * commands[:, 2]
    return poses


def simulate(
    poses, seconds, dt=0.05, delay=1, limit_at=lambda t: 1.0, noise=0.0, hold_from=math.inf, **arguments
):
    """Return true poses float[steps, n, 3], results and limits of a closed loop with delayed commands."""
    poses = np.atleast_2d(np.asarray(poses, dtype=float))
    generator = np.random.default_rng(0)
    last = np.zeros_like(poses)
    queue = [last] * delay
    path, results, limits = [], [], []
    for k in range(int(seconds / dt)):
        measured = poses + generator.normal(0.0, noise, poses.shape) if noise else poses
        limits.append(np.broadcast_to(limit_at(k * dt), len(poses)))
        result = call(measured, last, limit=limits[-1], dt=dt, hold=k * dt >= hold_from, **arguments)
        last = result.commands
        queue.append(last)
        path.append(poses)
        results.append(result)
        poses = drive_on(poses, queue.pop(0), dt)
    return np.array(path), results, np.array(limits)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_limits_hold_for_any_finite_state(data):
    def draw(count):
        return data.draw(st.lists(finite, min_size=count, max_size=count))

    drive = data.draw(st.sampled_from(list(Drive)))
    limits = MotionLimits(*(data.draw(st.floats(0.01, 10.0)) for _ in range(4)))
    dt = data.draw(st.floats(0.005, 0.5))
    start = np.array(draw(2))
    target = start if data.draw(st.booleans()) else np.array(draw(2))
    near = data.draw(st.booleans())
    pose = np.array([*(target + np.array(draw(2)) * 1e-4), draw(1)[0]]) if near else np.array(draw(3))
    last = np.array(draw(3)) * data.draw(st.sampled_from([1e-3, 1.0]))
    result = track(
        pose[None], last[None], start[None], target[None], np.array([data.draw(finite)]),
        np.array([data.draw(st.booleans())]), np.array([drive], dtype=np.int8), limits.as_row()[None], dt,
        latency=data.draw(st.floats(0.0, 0.5)),
    )  # fmt: skip
    command = result.commands[0]
    assert np.isfinite(command).all()
    if drive == Drive.DIFFERENTIAL:
        assert command[1] == 0.0
        last[1] = 0.0
    speed = math.hypot(last[0], last[1])
    last[:2] *= min(1.0, limits.max_speed / max(speed, 1e-300))
    last[2] = np.clip(last[2], -limits.max_yaw_rate, limits.max_yaw_rate)
    assert math.hypot(command[0], command[1]) <= limits.max_speed * (1 + 1e-9)
    assert abs(command[2]) <= limits.max_yaw_rate * (1 + 1e-9)
    assert math.hypot(*(command - last)[:2]) <= limits.max_acceleration * dt * (1 + 1e-9) + 1e-12
    assert abs(command[2] - last[2]) <= limits.max_yaw_acceleration * dt * (1 + 1e-9) + 1e-12
    assert 0.0 <= result.progress[0] <= 1.0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    drive=st.sampled_from(list(Drive)),
    dt=st.sampled_from([0.02, 0.05, 0.1]),
    delay=st.integers(0, 1),
    direction=st.floats(-math.pi, math.pi),
)
def test_the_progress_limit_is_not_overshot(seed, drive, dt, delay, direction):
    n = 32
    generator = np.random.default_rng(seed)
    begin = generator.uniform(0.0, 0.6, n)
    steps = np.sort(generator.uniform(begin[:, None], 1.0, (n, 5)), axis=1)
    steps[generator.random(n) < 0.3, -1] = 1.0
    times = np.sort(generator.uniform(0.0, 4.0, (n, 4)), axis=1)
    unit, normal = (
        np.array([math.cos(direction), math.sin(direction)]),
        np.array([-math.sin(direction), math.cos(direction)]),
    )
    xy = np.outer(begin * EDGE, unit) + np.outer(generator.uniform(-0.1, 0.1, n), normal)
    yaw = direction + generator.choice([0.1, math.pi]) * generator.uniform(-1, 1, n)
    path, _, limits = simulate(
        np.column_stack([xy, yaw]), 6.0, dt, delay, drive=drive, targets=np.tile(unit * EDGE, (n, 1)),
        limit_at=lambda t: steps[np.arange(n), (times < t).sum(axis=1)],
    )  # fmt: skip
    along = path[..., :2] @ unit
    assert (along - EDGE * limits).max() <= 0.02
    assert (along - EDGE * limits).max() <= 0.003  # the measured bound; 0.02 m is the promise


@pytest.mark.parametrize("drive", Drive)
def test_more_delay_than_assumed_stays_within_the_promise_and_matching_latency_within_millimetres(drive):
    for latency, bound in ((0.05, 0.02), (0.10, 0.003)):
        path, _, _ = simulate([[0, 0, 0]], 5.0, delay=2, drive=drive, limit_at=lambda t: 0.5, latency=latency)
        assert path[..., 0].max() <= 0.35 + bound
        assert path[-1, 0, 0] >= 0.35 - 0.01


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    drive=st.sampled_from(list(Drive)),
    waiting=st.booleans(),
    noise=st.sampled_from([0.0, 0.003]),
    limits=st.builds(
        MotionLimits, st.floats(0.1, 1.5), st.floats(0.4, 3.0), st.floats(0.3, 5.0), st.floats(0.8, 8.0)
    ),
)
def test_every_robot_arrives_and_then_stands(seed, drive, waiting, noise, limits):
    n = 24
    generator = np.random.default_rng(seed)
    poses = generator.uniform([-0.3, -0.3, -4.0], [1.0, 0.3, 4.0], (n, 3))
    starts = np.tile([EDGE if waiting else 0.0, 0.0], (n, 1))
    path, results, _ = simulate(poses, 45.0, drive=drive, starts=starts, noise=noise, limits=limits)
    away = np.hypot(path[-1, :, 0] - EDGE, path[-1, :, 1])
    assert away.max() <= 0.03 + 4 * noise
    if noise == 0.0:
        assert results[-1].arrived.all()
        np.testing.assert_array_equal(results[-1].commands, 0.0)


def test_a_straight_edge_ends_within_two_millimetres_without_a_bend():
    for drive in Drive:
        path, results, _ = simulate([[0, 0, 0]], 3.0, drive=drive)
        assert abs(path[-1, 0, 0] - EDGE) < 2e-3
        assert np.abs(path[:, 0, 1]).max() < 1e-9
        speeds = [result.commands[0, 0] for result in results]
        assert max(speeds) == pytest.approx(0.5)
        assert np.argmax([result.arrived[0] for result in results]) * 0.05 < 1.7


def test_differential_turns_before_it_drives():
    path, _, _ = simulate([[0, 0, math.pi / 2]], 4.0)
    turning = np.abs(path[:, 0, 2]) > math.radians(10)
    assert np.hypot(path[turning, 0, 0], path[turning, 0, 1]).max() < 1e-9
    assert np.abs(path[:, 0, 1]).max() < 0.01
    assert abs(path[-1, 0, 0] - EDGE) < 2e-3


def test_differential_faces_its_edge_while_it_may_not_move_yet():
    path, _, _ = simulate([[0, 0, 2.0]], 3.0, limit_at=lambda t: 0.0)
    assert abs(path[-1, 0, 2]) < 0.02
    assert np.abs(path[:, 0, :2]).max() < 2e-3


def test_holonomic_keeps_its_yaw():
    path, _, _ = simulate([[0, 0.05, 1.0]], 3.0, drive=Drive.HOLONOMIC)
    np.testing.assert_allclose(path[:, 0, 2], 1.0)
    assert np.hypot(path[-1, 0, 0] - EDGE, path[-1, 0, 1]) < 0.01


@pytest.mark.parametrize("drive", Drive)
def test_pushed_sideways_at_the_target_it_comes_back(drive):
    for pose in ([EDGE, 0.1, 0.0], [EDGE + 0.15, 0.0, 0.0], [EDGE + 0.1, -0.1, 1.0]):
        path, results, _ = simulate([pose], 6.0, drive=drive)
        assert results[-1].arrived[0]
        assert np.abs(results[-1].commands).max() == 0.0


@pytest.mark.parametrize("drive", Drive)
def test_waiting_robot_stays_and_ignores_the_limit_when_it_drifted(drive):
    here = np.array([[1.0, 2.0]])
    result = call([1.01, 2.01, 0.3], starts=here, targets=here, limit=0.0, drive=drive)
    np.testing.assert_array_equal(result.commands, 0.0)
    assert result.arrived[0] and result.progress[0] == 1.0
    assert result.cross_track[0] == pytest.approx(math.hypot(0.01, 0.01))
    path, results, _ = simulate(
        [[1.1, 2.0, 0.3]], 6.0, starts=here, targets=here, drive=drive, limit_at=lambda t: 0.0
    )
    assert results[-1].arrived[0]
    assert np.hypot(*(path[-1, 0, :2] - here[0])) < 0.03


@pytest.mark.parametrize("drive", Drive)
def test_hold_brakes_fully_and_stays(drive):
    path, results, _ = simulate([[0, 0, 0]], 3.0, drive=drive, hold_from=0.8)
    speed = np.array([result.commands[0, 0] for result in results])
    np.testing.assert_allclose(speed[15:21], [0.5, 0.375, 0.25, 0.125, 0.0, 0.0], atol=1e-9)
    assert np.abs(speed[20:]).max() == 0.0
    turning, results, _ = simulate([[0, 0, 2.0]], 2.0, hold_from=0.3)
    rates = np.array([result.commands[0, 2] for result in results])
    assert np.abs(np.diff(rates)).max() <= 3.5 * 0.05 + 1e-9
    assert rates[-1] == 0.0


def test_one_bad_pose_stops_that_robot_only():
    poses = np.array([[0, 0, 0], [math.nan, 0, 0], [0, 0, math.inf], [0, 0, 0], [0, 0, 0]], dtype=float)
    last = np.tile([0.4, 0.0, 0.1], (5, 1))
    limit = np.array([1, 1, 1, math.nan, 1])
    targets = np.tile([EDGE, 0.0], (5, 1))
    targets[4, 1] = math.nan
    result = call(poses, last, targets=targets, limit=limit)
    assert result.commands[0, 0] > 0.4
    np.testing.assert_array_equal(result.commands[1:], 0.0)
    assert np.isnan(result.progress[1:]).all() and np.isnan(result.cross_track[1:]).all()
    assert not result.arrived.any()
    alone = call(poses[:1], last[:1])
    np.testing.assert_array_equal(result.commands[:1], alone.commands)


def test_a_last_command_of_nan_counts_as_standing():
    result = call([0, 0, 0], last=[math.nan, 0, 0])
    np.testing.assert_allclose(result.commands, [[0.125, 0, 0]])


def test_measurements():
    result = call([[0.35, 0.1, 0], [-1, 0, 0], [0.68, 0.01, 0]])
    np.testing.assert_allclose(result.progress, [0.5, 0.0, 0.68 / 0.7])
    np.testing.assert_allclose(result.cross_track, [0.1, 0.0, 0.01])
    assert result.arrived.tolist() == [False, False, True]


def test_a_lower_limit_than_the_progress_means_standing_not_reversing():
    for drive in Drive:
        result = call([0.4, 0, 0], limit=0.2, drive=drive)
        np.testing.assert_array_equal(result.commands, 0.0)


def test_noise_does_not_ratchet_a_standing_robot():
    path, _, _ = simulate([[0.34, 0, 0]], 30.0, limit_at=lambda t: 0.5, noise=0.003)
    assert path[:, 0, 0].max() < 0.36


def test_no_robots_is_fine():
    result = call(np.zeros((0, 3)))
    assert isinstance(result, TrackResult) and result.commands.shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"last": np.zeros((2, 3))}, r"commands must have shape \[1, 3\]"),
        ({"starts": np.zeros((1, 3))}, r"starts must have shape \[1, 2\]"),
        ({"drive": 2}, "drive must be 0"),
        ({"dt": 0.0}, "dt must be"),
        ({"dt": math.nan}, "dt must be"),
        ({"latency": -0.1}, "latency must be"),
        ({"arrive_tolerance": 0.01}, "arrive_tolerance must be at least 0.02"),
    ],
)
def test_bad_arguments_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        call([0, 0, 0], **changes)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "fast"])
def test_limits_are_checked(value):
    with pytest.raises(ValueError, match="max_acceleration must be a positive number"):
        MotionLimits(max_acceleration=value)
    assert MotionLimits().as_row().tolist() == [0.5, 2.0, 2.5, 3.5]


@settings(max_examples=150, deadline=None)
@given(
    st.floats(0.05, 0.6), st.floats(0.2, 1.5), st.floats(0.5, 3.0), st.integers(1, 8), st.integers(0, 7),
    st.integers(0, 120), st.booleans(),
)  # fmt: skip
def test_no_limit_is_passed_however_late_commands_are_or_if_they_cease(
    share, fastest, brakes, periods, late, lost, holonomic
):
    """Commands act after some of `latency`; from some period on none comes, and the base stops after the rest of it."""
    length, dt = 0.7, 0.05
    late = min(late, periods - 1)
    limits = MotionLimits(max_speed=fastest, max_acceleration=brakes).as_row()[None]
    pose, command, speed = np.zeros((1, 3)), np.zeros((1, 3)), 0.0
    given_so_far = []
    for tick in range(240):
        sent = np.array([v for v in given_so_far[-periods:]])
        command = track(
            pose, command, np.zeros((1, 2)), np.array([[length, 0.0]]), np.array([share]), np.zeros(1, bool),
            np.array([int(holonomic)], np.int8), limits, dt, pending=np.array([sent.sum() * dt]),
            latency=periods * dt,
        ).commands  # fmt: skip
        given_so_far.append(float(command[0, 0]))
        newest = min(tick - late, lost)
        held = tick - late - newest < periods - late
        wanted = given_so_far[newest] if newest >= 0 and held else 0.0
        for _ in range(10):
            speed += np.clip(wanted - speed, -brakes * dt / 10, brakes * dt / 10)
            pose[0, 0] += speed * dt / 10
    assert pose[0, 0] <= share * length + 0.008


def test_a_holonomic_robot_that_turns_off_while_it_rolls_stops_across_its_new_edge():
    """Driving off along the new edge must not use up the acceleration that stops the old motion: walls are near."""
    dt, limits = 0.05, MotionLimits(1.07, 1.8, 0.69, 4.5).as_row()[None]
    pose, command = np.array([[0.0, 0.03, 0.0]]), np.array([[0.0, -0.09, 0.0]])
    lowest = 0.0
    for _ in range(60):
        command = track(
            pose, command, np.zeros((1, 2)), np.array([[1.0, 0.0]]), np.ones(1), np.zeros(1, bool),
            np.array([int(Drive.HOLONOMIC)], np.int8), limits, dt, latency=0.1,
        ).commands  # fmt: skip
        pose[0, :2] += command[0, :2] * dt
        lowest = min(lowest, pose[0, 1])
    assert pose[0, 0] > 0.5 and lowest > -0.005
