"""A fleet on its plant for tests: halls of cells, maps drawn as text, and a policy that seeks goals."""

import numpy as np
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.fleet.fleet import Fleet
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.grid.distance_field import DistanceField
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_policy.policy.onnx_policy import PolicyOutput
from marlgpt_policy.robots.robot_config import Drive, MotionLimits, RobotConfig
from marlgpt_sim.world.fleet_world import FleetWorld

RADIUS = 0.22
PERIOD = 0.05
PLAIN = {"temperature": 0.0, "latency": None, "first_settle": 0.0}
"""Most probable moves, commands that act in the next period, and poses that are believed at once."""
LIMITS = MotionLimits(1.0, 2.5, 2.0, 5.0)


class Stub:
    """Called like OnnxPolicy; prefers moves that bring a robot closer to its goal, or anything at all."""

    provider, name, layout = "StubProvider", "stub", POGEMA_LAYOUT
    sharpness = 30  # logit of a move that brings a robot closer

    def __init__(self, random_seed=None):
        self.random = None if random_seed is None else np.random.default_rng(random_seed)

    def __call__(self, values, valid, action_mask):
        n = len(values)
        logits = np.full((n, 20), -1e9, dtype=np.float32)
        if self.random is None:
            logits[:, :5] = np.pad(self.sharpness * values[:, 135:139], ((0, 0), (1, 0)))
        else:
            logits[:, :5] = self.random.normal(scale=2.0, size=(n, 5))
        logits[~action_mask] = -1e9
        shown = np.exp(logits[:, :5].astype(np.float64) - logits[:, :5].max(axis=1, keepdims=True))
        probabilities = (shown / shown.sum(axis=1, keepdims=True)).astype(np.float32)
        return PolicyOutput(logits, np.zeros((n, 20), np.float32), probabilities)


def arena(rows, cols):
    """An empty hall that holds rows x cols cells."""
    cell, body = 14, 11  # pixels: 0.7 m is the smallest cell for this radius, 0.55 m holds robot and margin
    empty = np.zeros(((rows - 1) * cell + body, (cols - 1) * cell + body), dtype=bool)
    return OccupancyMap(empty, empty, 0.05, (0.0, 0.0, 0.0))


def drawn(*lines):
    """A map of one cell per character, '#' for a wall: in the grid, cell (r, c) is line r, column c."""
    free = np.array([[character != "#" for character in line] for line in lines])
    cell, body = 14, 11
    rows, cols = free.shape
    pixels = np.ones(((rows - 1) * cell + body, (cols - 1) * cell + body), dtype=bool)
    for r, c in np.argwhere(free):
        pixels[r * cell : r * cell + body, c * cell : c * cell + body] = False
        if r + 1 < rows and free[r + 1, c]:
            pixels[r * cell : (r + 1) * cell + body, c * cell : c * cell + body] = False
        if c + 1 < cols and free[r, c + 1]:
            pixels[r * cell : r * cell + body, c * cell : (c + 1) * cell + body] = False
    return OccupancyMap(pixels[::-1], np.zeros_like(pixels), 0.05, (0.0, 0.0, 0.0))


def behind(fleet, robot, other):
    """Whether a claim of `robot` comes after one of `other`."""
    return bool((fleet.reservations.pairs()[:, :2] == (robot, other)).all(axis=1).any())


class Sim:
    """A fleet and its plant; some robots can be made deaf (to commands) or silent (no poses)."""

    def __init__(self, map, poses, policy=None, drive=Drive.DIFFERENTIAL, noise=0.0, seed=0, **config):
        self.grid = build_grid(map, RADIUS)
        n = len(poses)
        drives = np.broadcast_to(drive, n)
        robots = [RobotConfig(f"r{i}", RADIUS, Drive(drives[i]), LIMITS) for i in range(n)]
        config = FleetConfig(control_period=PERIOD, seed=seed, **{**PLAIN, **config})
        self.fleet = Fleet(self.grid, policy or Stub(), robots, config, DistanceField(map))
        self.world = FleetWorld(
            map, poses, RADIUS, drives, LIMITS.as_row(), seed, pose_noise_xy=noise, pose_noise_yaw=noise
        )
        self.deaf, self.silent, self.time = set(), set(), 0.0

    def go(self, robot, cell):
        self.fleet.set_goal(robot, *self.grid.centre(np.array(cell)))

    def tick(self):
        """One control period; returns the tick after the plant has obeyed it."""
        measured = self.world.measured_poses()
        for i, pose in enumerate(measured):
            if i not in self.silent and i < len(self.fleet):
                self.fleet.update_pose(i, *pose, self.time)
        result = self.fleet.tick(self.time)
        assert np.isfinite(result.commands).all()
        self.check_cells()
        obeyed = np.zeros((len(self.world), 3))
        obeyed[: len(result.commands)] = result.commands
        obeyed[list(self.deaf)] = 0.0
        for _ in range(5):
            self.world.step(obeyed, PERIOD / 5)
        self.time += PERIOD
        return result

    def check_cells(self):
        """No two robots end in one cell.

        Where each ends is held by itself, or by one that is coupled to it or on its way back from there.
        """
        fleet = self.fleet
        for i in np.flatnonzero(fleet.cells[:, 0] >= 0):
            holder = fleet.reservations.of(fleet.ends[i])
            coupled = behind(fleet, holder, i)
            back = fleet.returning[holder] and (fleet.cells[holder] == fleet.ends[i]).all()
            assert holder == i or coupled or back
        held = [tuple(fleet.ends[i]) for i in range(len(fleet)) if fleet.reservations.of(fleet.ends[i]) == i]
        assert len(set(held)) == len(held)

    def run(self, seconds, after=None):
        """Run; `after(result)` returning True ends it early. Returns all ticks."""
        ticks = []
        for _ in range(round(seconds / PERIOD)):
            ticks.append(self.tick())
            if after is not None and after(ticks[-1]):
                break
        return ticks

    def assert_untouched(self):
        assert self.world.contacts == []
        assert (self.world.wall_gaps() > 0).all()
        assert self.world.min_separation > 0

    def status(self, robot):
        return self.fleet.status(robot, self.time)[0]


def at_cells(map, *cells):
    """Poses float64[n, 3] at cell centres, looking along +x."""
    grid = build_grid(map, RADIUS)
    return np.array([[*grid.centre(np.array(cell)), 0.0] for cell in cells])


def hall(*cells, size=(3, 5), **options):
    """Robots on cells of an empty hall."""
    map = arena(*size)
    sim = Sim(map, at_cells(map, *cells), **options)
    assert sim.grid.shape == size
    return sim


def place(lines, *cells, **options):
    """Robots on cells of a map drawn as text."""
    map = drawn(*lines)
    sim = Sim(map, at_cells(map, *cells), **options)
    assert (sim.grid.free == np.array([[c != "#" for c in line] for line in lines])).all()
    return sim


class Right:
    """A policy that moves right."""

    provider, name, sha256, layout = "StubProvider", "right.onnx", "0" * 64, POGEMA_LAYOUT

    def __call__(self, values, valid, action_mask):
        logits = np.where(action_mask, np.eye(20, dtype=np.float32)[4] * 30, np.float32(-1e9))
        return PolicyOutput(
            logits, np.zeros_like(logits), np.tile(np.eye(5, dtype=np.float32)[4], (len(values), 1))
        )


def a_fleet(robots=3):
    """Robots on row 0, 1, ... of a hall, docked, with goals at the right end."""
    empty = np.zeros((2 * 14 + 11, 4 * 14 + 11), dtype=bool)
    map = OccupancyMap(empty, empty, 0.05, (0.0, 0.0, 0.0))
    grid = build_grid(map, 0.22)
    bodies = [RobotConfig(f"r{i}") for i in range(robots)]
    fleet = Fleet(grid, Right(), bodies, FleetConfig(**PLAIN), DistanceField(map))
    for i in range(robots):
        fleet.update_pose(i, *grid.centre(np.array([i, 0])), 0.0, 10.0)
        fleet.set_goal(i, *grid.centre(np.array([i, 4])))
    return fleet
