"""A scripted footballer: what each agent does is a function of the current observation and a few tuned numbers.

The one with the ball shoots where the goal is near and wide enough, passes when an opponent closes in and a mate stands
better, and otherwise dribbles round the opponents towards the goal; without the ball one agent fetches it and the
others run into position. No memory and no randomness, so that a student can learn it from what it sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlgpt_training.environments.grf import (
    BOTTOM_LEFT,
    HIGH_PASS,
    IDLE,
    LONG_PASS,
    RELEASE_DIRECTION,
    RELEASE_SPRINT,
    SHORT_PASS,
    SHOT,
    SPRINT,
    Grf,
)

METRES = np.array([54.4, 83.6])
"""Metres per unit of the field's two axes."""
GOAL = np.array([54.4, 0.0])
SPRINTS = 8
"""Index of the sprint among what lasts."""
POSTS = np.array([[54.4, -3.66], [54.4, 3.66]])

ROLL = 0.965
"""What a rolling ball keeps of its speed from step to step (measured on passes)."""
HORIZON = 40
REACH = 0.5
"""Metres from which a player takes a ball."""


@dataclass(frozen=True)
class Style:
    """Numbers of the script; lengths in metres, angles in degrees.

    Attributes:
        shoot_range: Shoot from within this distance to the goal ...
        shoot_angle: ... where the posts are at least this angle apart ...
        shoot_now: ... or in any case from within this distance.
        pressed: An opponent who is not the keeper counts as pressing within this distance and not behind.
        gain: A mate must be this much nearer to the goal (may be negative) to get a pass ...
        free: ... with no opponent within this distance ...
        longest: ... and at most this far away.
        lane: Opponents this near to the line of a pass block it.
        aim: Dribble towards this far beside the middle of the goal, on the own side (negative: the other side).
        stop: Dribble to this far before the goal line.
        avoid: How strongly opponents within `reach` push the dribbler away; 0 not at all.
        reach: See ``avoid``.
        ahead: Mates run straight on to this far ahead of the ball, ...
        wide: ... at most this far beside the middle ...
        deepest: ... and this far away from the goal line.
        speed: Speed, in metres per step, that agents count on when they run for a ball.
        meet: Who runs for a ball aims at where it will be with this weight and at the goal with what is left of 1:
            the game leads the nearest player to a loose ball whatever it aims at, and the aim turns the first touch.
        volley: Who runs for a ball shoots when it is this near, where the one with the ball would shoot, too.
        sprint: Whether to sprint with the ball.
        hurry: Whether to sprint without it.
        through: Whether passes are long ones, into the run of the mate ...
        high: ... or high ones, which come first.
    """

    shoot_range: float = 16.0
    shoot_angle: float = 15.0
    shoot_now: float = 14.0
    pressed: float = 4.0
    gain: float = -4.0
    free: float = 3.0
    longest: float = 35.0
    lane: float = 1.0
    aim: float = 0.0
    stop: float = 3.0
    avoid: float = 0.5
    reach: float = 5.0
    ahead: float = 12.0
    wide: float = 12.0
    deepest: float = 8.0
    speed: float = 0.6
    meet: float = 0.1
    volley: float = 0.0
    sprint: bool = True
    hurry: bool = False
    through: bool = False
    high: bool = True


def octant(vector: np.ndarray) -> int:
    """Move (1..8) nearest to a direction in metres, x to the opponents' goal and y to the bottom of the field."""
    angle = np.arctan2(-vector[1], vector[0])  # counter-clockwise from the right
    return 1 + int(round((np.pi - angle) / (np.pi / 4))) % 8


def opening(place: np.ndarray) -> float:
    """Angle between the goal's posts seen from ``place``, in degrees."""
    a, b = POSTS - place
    cosine = a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def clearance(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Distance of the nearest of ``points`` to the segment from a to b; infinite without points."""
    if not len(points):
        return np.inf
    way = b - a
    along = np.clip((points - a) @ way / max(way @ way, 1e-9), 0, 1)
    return float(np.linalg.norm(points - (a + along[:, None] * way), axis=1).min())


class Scene:
    """The current state in metres, seen by the own team."""

    def __init__(self, env: Grf) -> None:
        raw = env.raw
        self.own = raw["left_team"] * METRES
        self.opponents = raw["right_team"] * METRES
        self.outfield = self.opponents[1:]  # without the keeper
        self.ball = raw["ball"][:2] * METRES
        self.ball_step = raw["ball_direction"][:2] * METRES
        self.controlled = env.controlled
        self.owner = int(raw["ball_owned_player"]) if raw["ball_owned_team"] == 0 else -1
        self.set_piece = raw["game_mode"] != 0

    def meet(self, player: int, speed: float) -> tuple[int, np.ndarray]:
        """When and where ``player`` can first get the rolling ball, at ``speed`` metres per step: (steps, place)."""
        steps = np.arange(HORIZON)
        places = self.ball + self.ball_step * ((1 - ROLL**steps) / (1 - ROLL))[:, None]
        in_time = np.linalg.norm(places - self.own[player], axis=1) <= speed * steps + REACH
        first = int(np.argmax(in_time)) if in_time.any() else HORIZON - 1
        return first, places[first]

    def fetcher(self, speed: float) -> tuple[int, np.ndarray]:
        """The agents' player who gets the ball first if no mate has it, and where; -1 without players."""
        meetings = [(*self.meet(player, speed), player) for player in self.controlled if player >= 0]
        if not meetings:
            return -1, self.ball
        _, place, player = min(meetings, key=lambda m: (m[0], np.linalg.norm(m[1] - self.own[m[2]])))
        return int(player), place


class GrfScript:
    """The script with one :class:`Style`."""

    def __init__(self, style: Style | None = None, scenario: str = "pass_and_shoot") -> None:
        """Use ``style``, or what was tuned for ``scenario``."""
        self.style = style or STYLES.get(scenario, Style())

    def act(self, env: Grf) -> np.ndarray:
        """Moves int[n] in the current state; all are within the action mask."""
        scene, style = Scene(env), self.style
        mask, sprinting = env.action_mask(), env.sticky[:, SPRINTS]
        fetcher, meeting = scene.fetcher(style.speed) if scene.owner < 0 else (-1, scene.ball)
        actions = np.zeros(env.agents, dtype=np.int64)
        for agent, player in enumerate(scene.controlled):
            if player < 0 or not mask[agent, 1]:
                continue
            if player == scene.owner:
                action = self._with_ball(scene, player)
                run = style.sprint
            elif player == fetcher:
                action, run = self._fetch(scene, player, meeting), style.hurry
            else:
                action, run = self._support(scene, player), style.hurry
            if action <= BOTTOM_LEFT and action != IDLE and run != sprinting[agent]:
                action = SPRINT if run else RELEASE_SPRINT
            actions[agent] = action if mask[agent, action] else IDLE
        return actions

    def _shoots(self, place: np.ndarray) -> bool:
        """Whether a ball at ``place`` is to be shot."""
        style, distance = self.style, float(np.linalg.norm(GOAL - place))
        return distance < style.shoot_now or (
            distance < style.shoot_range and opening(place) > style.shoot_angle
        )

    def _passing(self) -> int:
        return HIGH_PASS if self.style.high else LONG_PASS if self.style.through else SHORT_PASS

    def _with_ball(self, scene: Scene, player: int) -> int:
        style, place = self.style, scene.own[player]
        if self._shoots(place):
            return SHOT
        gaps = scene.outfield - place
        near = (np.linalg.norm(gaps, axis=1) < style.pressed) & (gaps[:, 0] > -1.0)
        if scene.set_piece or (near.any() and self._mate(scene, player) >= 0):
            return self._passing()
        return octant(self._way(scene, place))

    def _fetch(self, scene: Scene, player: int, meeting: np.ndarray) -> int:
        """Move of who runs for the ball."""
        place = scene.own[player]
        gap = float(np.linalg.norm(scene.ball - place))
        if gap < self.style.volley and self._shoots(place):
            return SHOT
        if scene.set_piece and gap < 2.0:
            return self._passing()
        there, goal = meeting - place, GOAL - place
        weight = np.clip(self.style.meet, 0.0, 1.0)
        way = weight * there / max(np.linalg.norm(there), 1e-6)
        return octant(way + (1 - weight) * goal / max(np.linalg.norm(goal), 1e-6))

    def _mate(self, scene: Scene, player: int) -> int:
        """The best player to pass to, or -1."""
        style, place = self.style, scene.own[player]
        best, best_distance = -1, float(np.linalg.norm(GOAL - place)) - style.gain
        for mate in scene.controlled:
            if mate in (player, -1):
                continue
            there = scene.own[mate]
            distance = float(np.linalg.norm(GOAL - there))
            if (
                distance < best_distance
                and np.linalg.norm(there - place) < style.longest
                and np.linalg.norm(scene.outfield - there, axis=1).min(initial=np.inf) > style.free
                and clearance(scene.outfield, place, there) > style.lane
            ):
                best, best_distance = int(mate), distance
        return best

    def _way(self, scene: Scene, place: np.ndarray) -> np.ndarray:
        """Direction of a dribble."""
        style = self.style
        side = 1.0 if place[1] >= 0 else -1.0
        target = np.array([GOAL[0] - style.stop, side * style.aim])
        way = (target - place) / max(np.linalg.norm(target - place), 1e-6)
        for opponent in scene.outfield:
            gap = place - opponent
            size = float(np.linalg.norm(gap))
            if 1e-6 < size < style.reach and gap @ way < 0.5 * size:
                way = way + style.avoid * (1 - size / style.reach) * gap / size
        return way

    def _support(self, scene: Scene, player: int) -> int:
        """Move of a player without the ball."""
        style, place = self.style, scene.own[player]
        x = min(scene.ball[0] + style.ahead, GOAL[0] - style.deepest)
        gap = np.array([x, np.clip(place[1], -style.wide, style.wide)]) - place
        return octant(gap) if np.linalg.norm(gap) > 1.0 else RELEASE_DIRECTION


STYLES: dict[str, Style] = {
    "pass_and_shoot": Style(
        shoot_range=22.0,
        shoot_angle=34.7,
        shoot_now=15.4,
        pressed=4.29,
        gain=-3.86,
        free=2.27,
        longest=12.4,
        lane=1.15,
        aim=-0.0211,
        stop=1.98,
        avoid=0.411,
        reach=12.4,
        ahead=23.8,
        wide=11.8,
        deepest=8.69,
        speed=0.687,
        meet=0.96,
        sprint=False,
    ),
    "run_pass_and_shoot": Style(
        shoot_range=5.87,
        shoot_angle=28.7,
        shoot_now=15.0,
        pressed=3.68,
        gain=-0.813,
        free=6.02,
        longest=41.3,
        lane=2.96,
        aim=0.373,
        stop=1.71,
        avoid=0.0603,
        reach=3.48,
        ahead=22.1,
        wide=11.5,
        deepest=5.75,
        speed=0.829,
        meet=0.532,
        high=False,
    ),
    "3_vs_1": Style(
        shoot_range=20.3,
        shoot_angle=7.47,
        shoot_now=10.4,
        pressed=12.2,
        gain=-2.43,
        free=3.56,
        longest=46.9,
        lane=0.39,
        aim=0.129,
        stop=1.65,
        avoid=0.59,
        reach=4.68,
        ahead=12.6,
        wide=12.3,
        deepest=4.94,
        speed=0.607,
        meet=0.0409,
        sprint=False,
    ),
    "counterattack_easy": Style(
        shoot_range=30.7,
        shoot_angle=72.4,
        shoot_now=12.4,
        pressed=3.37,
        gain=-3.74,
        free=3.3,
        longest=15.5,
        lane=1.27,
        aim=-0.334,
        stop=2.21,
        avoid=0.168,
        reach=11.6,
        ahead=24.3,
        wide=8.99,
        deepest=6.56,
        speed=0.485,
        meet=1.0,
        sprint=False,
        high=False,
    ),
    "corner": Style(
        shoot_range=14.8,
        shoot_angle=10.1,
        shoot_now=21.4,
        pressed=1.91,
        gain=-1.98,
        free=2.61,
        longest=82.6,
        aim=0.383,
        stop=3.66,
        avoid=0.925,
        reach=5.44,
        ahead=7.91,
        wide=12.3,
        deepest=5.22,
        speed=0.416,
        meet=0.0,
        high=False,
    ),
}
"""Styles tuned by ``grf_tune`` for a scenario each."""
