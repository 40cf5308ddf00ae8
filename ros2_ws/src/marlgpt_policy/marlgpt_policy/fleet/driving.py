"""From edges to velocities: where each robot's way leads, how far it is free, and the command that follows it."""

from __future__ import annotations

import numpy as np

from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.fleet.localisation import Localisation
from marlgpt_policy.grid.geometry import along_ways
from marlgpt_policy.motion.docking import DOCKING_SPEED, Docking
from marlgpt_policy.motion.edge_coupling import Edges
from marlgpt_policy.motion.floor import Floor
from marlgpt_policy.motion.protective_stop import free_ways
from marlgpt_policy.motion.tracker import APPROACH_PERIODS, CREEP, track
from marlgpt_policy.motion.velocity_limiter import limit
from marlgpt_policy.robots.robot_state import Robots


class Driving:
    """Commands ``robots``, and is the only one that writes what they are commanded."""

    def __init__(
        self,
        robots: Robots,
        floor: Floor,
        edges: Edges,
        docking: Docking,
        localisation: Localisation,
        config: FleetConfig,
    ) -> None:
        """Nobody is commanded yet."""
        self.robots, self.floor, self.config = robots, floor, config
        self.edges, self.docking_places, self.localisation = edges, docking, localisation

    def drive(self, fresh: np.ndarray, fit: np.ndarray, now: float) -> None:
        """Update the commands of all robots.

        Args:
            fresh: bool[n] robots whose place is known.
            fit: bool[n] robots that may drive; the others stop at once.
            now: s.
        """
        robots, localisation, period = self.robots, self.localisation, self.config.control_period
        active = (robots.docked | robots.docking) & robots.seen
        straight = self.edges.straight
        starts, ends = self._ways(active, straight)
        edges = np.where(straight, 2.0, 1.0)  # on the way that is tracked
        share = np.where(robots.docking, 1.0, self.edges.limits()) / edges
        here = robots.poses[:, :2] + robots.driven[:, :2]
        free = free_ways(robots, ends, active, self._reach())
        along, length = along_ways(here, starts, ends)
        clear = along + free
        under_way = robots.moving | robots.docking
        obstructed = np.where(under_way, clear < share * length, np.isfinite(free))
        share = np.where(obstructed, np.clip(clear / length, 0.0, 1.0), share)
        # Who stands may only go back to its centre: where that is obstructed it stays.
        in_the_way = self.docking_places.in_the_way(ends) | (obstructed & ~under_way)
        in_the_way |= robots.seen & self._disoriented(now)
        limits = robots.limits.copy()
        limits[robots.docking, 0] = np.minimum(limits[robots.docking, 0], DOCKING_SPEED)
        # A robot brakes by where its commands have taken it since its pose was measured, not by where it was then.
        result = track(
            robots.poses + robots.driven, robots.commands, starts, ends, np.minimum(share, 1.0),
            ~fit | ~active | in_the_way, robots.drive, limits, period,
            rolling=robots.rolling, pending=self._pending(), latency=localisation.latency,
            turn_latency=self._turn_latency(), arrive_tolerance=self.config.arrive_tolerance,
        )  # fmt: skip
        self.edges.measure(fresh, starts, ends, edges, now)
        limited = (share * edges < np.minimum(edges, robots.progress + 0.1)) | in_the_way
        self.edges.note_failures(fit & robots.docked & ~limited, now)
        self.edges.turn_back(fit, limited, now)
        self.docking_places.note_blocked(fit & obstructed, now)
        robots.commands[:] = limit(
            result.commands, robots.commands, robots.limits, period,
            ~fit | ~active | (obstructed & (free <= 0.0)),
        )  # fmt: skip
        self._roll(period, now)

    def _ways(self, active: np.ndarray, straight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64[n, 2] starts and ends of the straight ways that robots are on, m; a point where they are on none."""
        robots, n = self.robots, len(self.robots)
        starts, ends = np.zeros((n, 2)), np.zeros((n, 2))
        starts[active] = self.floor.centre(robots.cells[active])
        ends[active] = self.floor.centre(
            np.where(straight[:, None], robots.next_targets, robots.targets)[active]
        )
        starts[robots.docking] = robots.dock_from[robots.docking]
        starts[~active] = ends[~active] = robots.poses[~active, :2]
        return starts, ends

    def start_anew(self, gap: float, now: float) -> None:
        """Bases have stopped by themselves for want of commands, or are about to: robots start from a standstill.

        Args:
            gap: s since the last control period; of a clock that jumped ahead they have not passed.
            now: s.
        """
        robots = self.robots
        robots.commands[:] = 0.0
        robots.rest_at[robots.rest_at > now - gap] += gap
        self._roll(min(gap, self.config.pose_timeout) - self.localisation.latency, now)

    def stand(self, robot: int | None = None) -> None:
        """Take one robot's command, or all, to be zero from now on: somebody else has sent that."""
        self.robots.commands[slice(None) if robot is None else robot] = 0.0

    def clock_set_back(self, now: float) -> None:
        """Whoever rolls comes to rest later by the new clock."""
        robots = self.robots
        robots.rest_at[np.isfinite(robots.rest_at)] = (
            now + self.localisation.latency + self.config.control_period
        )

    def lookahead(self) -> np.ndarray:
        """float64[n] m before its cell's centre at which a robot must know whether to drive on."""
        robots, period = self.robots, self.config.control_period
        speed = np.hypot(robots.rolling[:, 0], robots.rolling[:, 1])
        wait = self.localisation.latency + (1 + APPROACH_PERIODS) * period + self.config.step_minimum
        return speed**2 / (2 * robots.limits[:, 2]) + speed * wait

    def _disoriented(self, now: float) -> np.ndarray:
        """bool[n] robots that do not know how far they have turned, and might get beside their ways."""
        robots = self.robots
        speed = np.hypot(robots.rolling[:, 0], robots.rolling[:, 1])
        return self.localisation.reckoning.disoriented(
            robots.pose_time,
            now,
            self.localisation.latency,
            self.config.control_period,
            speed,
            robots.limits[:, 2],
        )

    def _pending(self) -> np.ndarray:
        """float64[n] m that commands may still carry the robots that had not acted when their poses were measured."""
        measured = self.robots.pose_time
        return self.localisation.reckoning.driven_between(measured - self.localisation.latency, measured)

    def _roll(self, seconds: float, now: float) -> None:
        """Let the velocities that the robots have at most follow their commands, for ``seconds``."""
        robots = self.robots
        nobody = np.zeros(len(robots), dtype=bool)
        robots.rolling[:] = limit(robots.commands, robots.rolling, robots.limits, max(seconds, 0.0), nobody)
        rolls = np.hypot(robots.rolling[:, 0], robots.rolling[:, 1]) >= CREEP
        robots.rest_at[rolls] = now + self.localisation.latency + self.config.control_period

    def _reach(self) -> np.ndarray:
        """float64[n] m that each robot keeps from the places of others, whatever it may do there by its claims.

        Between robots on the grid coupling keeps all of the reserve; this is to act only where that has failed.
        """
        floor = self.floor
        return 2 * floor.radius + floor.margins.reserve * np.where(self.robots.docking, 1.0, 0.5)

    def _turn_latency(self) -> float:
        """Seconds until a turn takes effect, as usual; never more than the latency."""
        turn = self.config.turn_latency
        return min(self.localisation.latency, 2 * self.config.control_period if turn is None else turn)
