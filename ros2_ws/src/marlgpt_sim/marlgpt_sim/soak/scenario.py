"""What one run of the soak is: everything that was drawn for it, as one value that can be written down and cut down."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from marlgpt_policy.motion.safety_margins import smallest_margin

from marlgpt_sim.soak.drawn_maps import FAMILIES, PIXEL_FAMILIES
from marlgpt_sim.world.fault_config import KINDS

PERIOD = 0.05
"""s of a control period."""
OPERATOR_KINDS = (
    "goal_replaced", "goal_cancelled", "robot_stopped", "fleet_stopped", "process_killed", "map_replaced",
    "corrupt_model",
)  # fmt: skip
"""What operators and processes do."""
FLEET_KINDS = ("clock_jump", "fleet_stopped", "process_killed", "map_replaced", "corrupt_model")
"""Rates of these are per fleet and hour, of all others per robot and hour."""
AIMS = (
    "push_beside_docking", "set_down_ahead", "stop_in_convoy", "stall_in_queue", "stall_at_limit",
    "fleet_stop_in_motion",
)  # fmt: skip
"""What the adversarial operator does at the worst moment, per fleet and hour."""
LONE_KINDS = (
    "pose_dropout", "pose_delay", "pose_noise", "pose_bias", "pose_duplicate", "pose_reorder", "cmd_loss",
    "cmd_duplicate", "cmd_reorder", "stall", "slip", "slow", "goal_replaced", "goal_cancelled", "robot_stopped",
    "fleet_stopped", "process_killed",
)  # fmt: skip
"""Kinds that the decentralised mode's guarantee covers (docs/decentralised.md)."""
LONE_AIMS = ("stop_in_convoy", "stall_in_queue", "fleet_stop_in_motion")
LATE_TO_KNOW = {"pose_dropout", "pose_delay", "pose_jump", "process_killed", "join", "removal"}
"""With these a fleet that has just started must stand until it surely knows where everybody is (``first_settle``)."""
ONE_WIDE = ("corridor", "maze", "rings", "comb")
PROFILES = ("none", *2 * ("mild", "all", "all", "few", "few", "one", "stalls", "stops", "stops"))
"""How faults are mixed, see :func:`_rates`; one run in nineteen has none."""
MOST_ROBOTS = 80
MOST_CELLS = 1000
DURATIONS = {
    "pose_dropout": (0.2, 3.0), "pose_delay": (2.0, 10.0), "pose_jump": (0.2, 3.0), "pose_noise": (2.0, 20.0),
    "pose_bias": (30.0, 120.0), "pose_duplicate": (1.0, 5.0), "pose_reorder": (1.0, 5.0), "cmd_loss": (0.1, 2.0),
    "cmd_duplicate": (1.0, 5.0), "cmd_reorder": (1.0, 5.0), "stall": (1.0, 10.0), "slip": (1.0, 10.0),
    "slow": (5.0, 30.0), "push": (0.7, 1.3), "removal": (10.0, 60.0), "robot_stopped": (2.0, 20.0),
    "fleet_stopped": (1.0, 8.0), "process_killed": (0.5, 3.0),
}  # fmt: skip
"""s, least and most; of what happens at once, none."""


@dataclass(frozen=True)
class Event:
    """One thing that goes wrong, or that somebody does.

    Attributes:
        tick: control period at whose beginning it begins.
        kind: one of ``KINDS``, ``OPERATOR_KINDS`` or "set_down".
        robot: number of the robot; of the first one for what concerns the fleet.
        duration: s, 0 for what happens at once.
        size: magnitudes by the names in ``KINDS``; of "set_down" x, y (m) and yaw (rad) in the map frame.
        aim: what the adversary meant by it, one of ``AIMS``; empty for chance.
    """

    tick: int
    kind: str
    robot: int
    duration: float = 0.0
    size: dict[str, float] = field(default_factory=dict)
    aim: str = ""


@dataclass(frozen=True)
class Scenario:
    """Everything that a run depends on, beside the code.

    Attributes:
        seed: of everything random in the run.
        family: kind of map, see ``soak_maps``. cells: about its size. tight: whether cells are the smallest allowed.
        map_seed: of the map. origin: its x, y (m) and yaw (rad).
        placed: how many robots were placed; ``robots`` names those that take part, so that the others can be left out.
        waiting: robots among these that are not there at the start.
        radius, margin, pose_error: m, as in ``build_grid`` and ``FleetConfig``.
        noise: m, bound of the noise of every pose in x and in y; 0 for none.
        holonomic: share of the robots that are holonomic: 0, 1, or every other one.
        limits: rows of speed, yaw rate, acceleration, yaw acceleration; robots take them in turn.
        latency, cmd_delay, cmd_timeout: s; what the fleet is told, what commands take, and when a base stops by itself.
        first_settle: s, as in ``FleetConfig``.
        execution: as in ``FleetConfig``. mode: "centralised" or "decentralised".
        policy: "shipped", "random", or "stampeding": straight to the goal, at temperature 0.
        ticks: control periods.
        rates: events per robot (or fleet) and hour, by kind. aims: the adversary's, per fleet and hour.
        network_loss, network_delay: share of lost messages and most periods that others take (decentralised).
        events: what happens, if it has been written down; None draws it from ``rates`` and ``aims``.
    """

    seed: int
    family: str = "hall"
    cells: int = 64
    tight: bool = True
    map_seed: int = 0
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    placed: int = 8
    robots: tuple[int, ...] = tuple(range(8))
    waiting: tuple[int, ...] = ()
    radius: float = 0.22
    margin: float = 0.05
    pose_error: float = 0.0
    noise: float = 0.0
    holonomic: float = 0.0
    limits: tuple[tuple[float, float, float, float], ...] = ((0.5, 2.0, 2.5, 3.5),)
    latency: float = 0.2
    cmd_delay: float = 0.0
    cmd_timeout: float = 0.2
    first_settle: float = 4.0
    execution: str = "asynchronous"
    mode: str = "centralised"
    policy: str = "stampeding"
    ticks: int = 12000
    rates: dict[str, float] = field(default_factory=dict)
    aims: dict[str, float] = field(default_factory=dict)
    network_loss: float = 0.0
    network_delay: int = 1
    events: tuple[Event, ...] | None = None

    @property
    def hours(self) -> float:
        """Robot-hours, if nobody were ever away."""
        return len(self.robots) * self.ticks * PERIOD / 3600.0

    @property
    def fill(self) -> float:
        """Share of the free cells that have a robot, about."""
        return self.placed / max(self.cells, 1)

    def row(self, robot: int) -> tuple[float, float, float, float]:
        """Limits of a robot."""
        return self.limits[robot % len(self.limits)]

    def is_holonomic(self, robot: int) -> bool:
        """Whether a robot drives in any direction."""
        return self.holonomic == 1.0 or (self.holonomic > 0.0 and robot % 2 == 1)

    def to_json(self) -> str:
        """The scenario as JSON; events one a line."""
        values = dataclasses.asdict(self)
        events = values.pop("events")
        text = json.dumps(values, indent=1)
        if events is None:
            return text + "\n"
        rows = ",\n".join("  " + json.dumps(event) for event in events)
        return text.removesuffix("\n}") + f',\n "events": [\n{rows}\n ]\n}}\n'

    @staticmethod
    def from_json(text: str) -> Scenario:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not JSON, or names that a scenario does not have.
        """
        values = json.loads(text)
        values = values.get("scenario", values)
        known = {entry.name for entry in dataclasses.fields(Scenario)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"a scenario has no {unknown[0]!r}; it has {', '.join(sorted(known))}")
        for name in ("origin", "robots", "waiting"):
            if name in values:
                values[name] = tuple(values[name])
        if "limits" in values:
            values["limits"] = tuple(tuple(row) for row in values["limits"])
        if values.get("events") is not None:
            values["events"] = tuple(Event(**event) for event in values["events"])
        return Scenario(**values)

    def replace(self, **changes: Any) -> Scenario:
        """The same with other values."""
        return dataclasses.replace(self, **changes)


def draw(seed: int, minutes: float | None = None, mode: str | None = None) -> Scenario:
    """Draw the run that belongs to a seed.

    Args:
        seed: the same seed and options give the same run.
        minutes: simulated minutes; drawn from 2 to 9 if None: many different runs find more than few long ones.
        mode: "centralised" or "decentralised"; every eighth run or so is decentralised if None.
    """
    random = np.random.default_rng((seed, 5))
    drawn = "decentralised" if random.random() < 0.12 else "centralised"
    mode = mode or drawn
    lone = mode == "decentralised"
    families = (*FAMILIES, *ONE_WIDE, *PIXEL_FAMILIES)
    family = str(random.choice(families))
    placed, cells = _size(random, family, lone)
    pose_error = float(random.choice((0.0, random.uniform(0.0, 0.03))))
    margin = float(smallest_margin(pose_error))
    if random.random() < 0.4:  # the default, or more than needed
        margin = max(margin, float(random.choice((0.05, random.uniform(0.05, 0.2)))))
    latency = float(random.choice((0.1, 0.15, 0.2, 0.2, 0.2, 0.3, 0.4)))
    cmd_delay = float(random.uniform(0.0, max(latency - 0.1, 0.0))) * (random.random() < 0.4)
    timing = {"latency": latency, "cmd_delay": cmd_delay, "cmd_timeout": max(latency - cmd_delay, 0.1)}
    rates, profile = _rates(random, lone, timing, pose_error)
    aims = {}
    if profile != "none" and random.random() < 0.95:
        aims = {aim: float(random.uniform(20.0, 240.0)) for aim in (LONE_AIMS if lone else AIMS)}
        if random.random() < 0.4:
            alone = str(random.choice(list(aims)))
            aims = {alone: aims[alone] * 2}
    noise = float(pose_error / math.sqrt(2) * random.choice((0.0, 0.5, 1.0))) if profile != "none" else 0.0
    if noise:
        rates.pop("pose_noise", None)
    if noise > 0.5 * pose_error / math.sqrt(2):
        rates.pop("pose_bias", None)
    waiting = placed // 16 if "join" in rates else 0
    return Scenario(
        seed=seed, family=family, cells=cells, tight=bool(random.random() < 0.6), map_seed=int(random.integers(2**31)),
        origin=(float(random.uniform(-20, 20)), float(random.uniform(-20, 20)),
                float(random.uniform(-np.pi, np.pi)) * bool(random.random() < 0.5)),
        placed=placed, robots=tuple(range(placed)), waiting=tuple(range(placed - waiting, placed)),
        radius=float(random.choice((0.22, random.uniform(0.15, 0.4)))), margin=margin, pose_error=pose_error,
        noise=noise, holonomic=float(random.choice((0.0, 0.0, 1.0, 0.5))), limits=_limits(random), **timing,
        first_settle=4.0 if rates.keys() & LATE_TO_KNOW else float(random.choice((0.0, 1.0, 4.0))),
        execution=str(random.choice(("asynchronous", "asynchronous", "synchronous"))), mode=mode,
        policy=str(random.choice(("shipped", "shipped", "random", "stampeding", "stampeding"))),
        ticks=round(60.0 * (minutes or random.uniform(2.0, 9.0)) / PERIOD), rates=rates, aims=aims,
        network_loss=float(random.choice((0.0, 0.2, 0.5, 0.9))) * lone,
        network_delay=int(random.integers(1, 12)) if lone else 1,
    )  # fmt: skip


def _size(random: np.random.Generator, family: str, lone: bool) -> tuple[int, int]:
    """How many robots, and on how many cells: 5 to 90 % of them are taken."""
    if lone:
        placed = int(random.integers(3, 17))
        return placed, max(12, round(placed / random.uniform(0.05, 0.5)))
    small = random.random() < 0.2
    placed = int(random.integers(3, 13)) if small else int(random.triangular(12, 30, MOST_ROBOTS))
    if family == "warehouse":
        return placed, 850
    fill = float(random.uniform(0.05, 0.9))
    cells = min(MOST_CELLS, max(9, round(placed / fill)))
    return min(placed, int(0.9 * cells)), cells


def _limits(random: np.random.Generator) -> tuple[tuple[float, float, float, float], ...]:
    """Equal robots, half of the time with the defaults, or two to four kinds of robots."""
    if random.random() < 0.4:
        return ((0.5, 2.0, 2.5, 3.5),)
    kinds = int(random.choice((1, 2, 3, 4)))
    low, high = (0.25, 0.8, 0.6, 2.0), (1.5, 2.5, 3.0, 6.0)
    return tuple(tuple(float(v) for v in random.uniform(low, high)) for _ in range(kinds))


def _rates(
    random: np.random.Generator, lone: bool, timing: dict[str, float], pose_error: float
) -> tuple[dict[str, float], str]:
    """Rates by kind, and how they were chosen: none, every kind, a few kinds, or one thing alone."""
    kinds = list(LONE_KINDS if lone else (*KINDS, *OPERATOR_KINDS))
    if pose_error == 0.0:
        kinds = [kind for kind in kinds if kind not in ("pose_noise", "pose_bias")]
    if cmd_lag(timing["latency"], timing["cmd_delay"]) < 0.02:
        kinds = [kind for kind in kinds if kind not in ("cmd_duplicate", "cmd_reorder")]
    profile = str(random.choice(PROFILES))
    high = float(random.uniform(5.0, 60.0))
    if profile == "none":
        return {}, profile
    if profile == "mild":
        return dict.fromkeys(kinds, 2.0), profile
    if profile == "all":
        return dict.fromkeys(kinds, high), profile
    if profile == "stalls":
        return {"stall": high}, profile
    if profile == "stops":
        return {"robot_stopped": high, "fleet_stopped": float(random.choice((0.0, high)))}, profile
    count = 1 if profile == "one" else int(random.integers(2, 5))
    chosen = random.choice(kinds, count, replace=False)
    return {str(kind): float(random.uniform(10.0, 60.0)) for kind in chosen}, profile


def cmd_lag(latency: float, cmd_delay: float) -> float:
    """Seconds by which a single command may be late within what the fleet is told."""
    return latency - cmd_delay - PERIOD


def least_jump(scenario: Scenario) -> tuple[float, float]:
    """Metres and radians by which a pose must jump for dead reckoning to notice, however the robot drives.

    Commands of a reaction time explain some way and turn, and 30 % more; ``jump_distance`` is 0.1 m and 0.2 rad.
    """
    reaction = scenario.latency + 5 * PERIOD
    speed, rate = (max(row[k] for row in scenario.limits) for k in (0, 1))
    return max(0.3, 0.1 + 1.3 * speed * reaction), max(0.3, 0.2 + 1.3 * rate * reaction)


def draw_events(scenario: Scenario) -> list[Event]:
    """What happens by chance in a scenario, in order: a Poisson process for each kind and robot."""
    random = np.random.default_rng((scenario.seed, 11))
    hours = scenario.ticks * PERIOD / 3600.0
    events = []
    long_stalls = random.random() < 0.3
    for kind, rate in scenario.rates.items():
        whose = scenario.robots
        if kind in FLEET_KINDS:
            whose = scenario.robots[:1]
        elif kind == "join":
            whose = scenario.waiting
        for robot in whose:
            for tick in sorted(random.integers(scenario.ticks, size=random.poisson(rate * hours)).tolist()):
                duration, size = draw_fault(random, kind, scenario)
                if kind == "stall" and long_stalls:
                    duration = float(random.uniform(10.0, 600.0))
                events.append(Event(tick, kind, robot, duration, size))
    events.sort(key=lambda event: event.tick)
    return events


def draw_fault(random: np.random.Generator, kind: str, scenario: Scenario) -> tuple[float, dict[str, float]]:
    """Duration in s and magnitudes of one event of a kind, within the scenario's bounds."""
    duration = float(random.uniform(*DURATIONS[kind])) if kind in DURATIONS else 0.0

    def vector(least: float, most: float) -> dict[str, float]:
        length, angle = random.uniform(least, most), random.uniform(-np.pi, np.pi)
        return {"x": float(length * math.cos(angle)), "y": float(length * math.sin(angle))}

    def even(least: float, most: float) -> float:
        return float(random.uniform(least, most))

    lag = cmd_lag(scenario.latency, scenario.cmd_delay)
    left = scenario.pose_error - math.sqrt(2) * scenario.noise
    sign = float(random.choice((-1.0, 1.0)))
    share = 0.5 if "pose_noise" in scenario.rates and "pose_bias" in scenario.rates else 1.0
    size: dict[str, float] = {}
    if kind == "pose_delay":
        size = {"lag": even(0.1, 0.6)}
    elif kind == "pose_jump":
        way, turn = least_jump(scenario)
        place = random.random() < 0.5 or turn > 3.0
        size = vector(way, 2.0) if place else {"x": 0.0, "y": 0.0}
        size["yaw"] = 0.0 if place else sign * even(turn, 3.1)
    elif kind == "pose_noise":
        size = {"xy": share * scenario.pose_error / math.sqrt(2), "yaw": even(0.0, 0.01)}
    elif kind == "pose_bias":
        size = vector(0.0, share * left)
    elif kind == "pose_duplicate":
        size = {"lag": even(0.05, 0.3)}
    elif kind == "pose_reorder":
        size = {"share": even(0.1, 0.5), "lag": even(0.06, 0.3)}
    elif kind == "cmd_duplicate":
        size = {"lag": even(0.01, max(lag, 0.01))}
    elif kind == "cmd_reorder":
        size = {"share": even(0.1, 0.5), "lag": even(0.01, max(lag, 0.01))}
    elif kind == "slip":
        size = {"share": even(0.3, 0.9), "yaw": sign * even(0.0, 0.3)}
    elif kind == "slow":
        size = {"factor": even(0.3, 0.8)}
    elif kind == "push":
        size = {**vector(0.1, 0.5), "yaw": sign * even(0.0, 0.3)}
    elif kind == "clock_jump":
        size = {"seconds": sign * even(0.5, 5.0)}
    elif kind == "corrupt_model":
        size = {"cut": even(0.0, 1.0)}
    return duration, size
