"""Google Research Football (gfootball 2.10.2): the own team's players, but the keeper, against the game's own AI.

Observations are ``simple115v2``; the tokens are those of :mod:`marlgpt_policy.encoders.grf`. Agent k plays one and the
same player throughout: the agents are the last n players of the own team. Left to itself the game would also hand
agents the keeper, 85 metres from the play, and change who plays whom. The others, the keeper among them, are played
by the game's AI.

Rewards, the same for all agents (a return is within 0..2):
    - 1 for the first goal; the k-th one (in a whole match) pays 2 ** -k, together at most 1/2.
    - Up to 1/2 for bringing the ball nearer to the goal than it ever was in the episode, paid while the own team has
      it: the share of the way from where it began to within 0.2 of the goal. A goal pays what is left of that.
    - Losing the ball or conceding costs nothing but the end of an academy episode.

An academy episode ends by its own rules with a goal, a ball out of play or (but for ``corner``) one lost to the
opponents; 400 steps cut it. A match ends after 3,000 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from marlgpt_policy.encoders import grf as layout
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS

from marlgpt_training.environments.base import Environment, Observation, Step
from marlgpt_training.environments.grf_gym import import_gfootball

SCENARIOS = {  # short name: (the game's name, agents)
    "pass_and_shoot": ("academy_pass_and_shoot_with_keeper", 2),
    "run_pass_and_shoot": ("academy_run_pass_and_shoot_with_keeper", 2),
    "3_vs_1": ("academy_3_vs_1_with_keeper", 3),
    "counterattack_easy": ("academy_counterattack_easy", 4),
    "corner": ("academy_corner", 10),
    "11_vs_11_easy": ("11_vs_11_easy_stochastic", 10),
}
"""As many agents as in published work: all but the keeper, in ``counterattack_easy`` the four foremost."""

IDLE, LEFT, TOP_LEFT, TOP, TOP_RIGHT, RIGHT, BOTTOM_RIGHT, BOTTOM, BOTTOM_LEFT = range(9)
LONG_PASS, HIGH_PASS, SHORT_PASS, SHOT = 9, 10, 11, 12
SPRINT, RELEASE_DIRECTION, RELEASE_SPRINT, SLIDING, DRIBBLE, RELEASE_DRIBBLE = 13, 14, 15, 16, 17, 18

GOAL = np.array([1.0, 0.0])
"""Centre of the goal that the own team attacks; the field is [-1, 1] x [-0.42, 0.42]."""
NEAR = 0.2
CARRIED = 0.5
"""Reward for the whole way of the ball."""


def scenario_name(name: str) -> str:
    """The short name of ``name``, which may also be the game's own.

    Raises:
        ValueError: There is no such scenario; the message lists them.
    """
    for short, (long, _) in SCENARIOS.items():
        if name in (short, long):
            return short
    raise ValueError(f"unknown football scenario '{name}'; choose one of {', '.join(SCENARIOS)}")


def _configuration(level: str, agents: int):
    """The game's configuration of ``level`` with fixed players for the agents (see the module)."""
    from gfootball.env import config, scenario_builder

    left = scenario_builder.Team.e_Left
    values = {
        "level": level,
        "players": [f"agent:left_players={agents},right_players=0"],
        "game_engine_random_seed": 0,
    }
    own = len(config.Config(dict(values)).ScenarioConfig().left_team)

    class Scenario(scenario_builder.Scenario):
        added = 0

        def AddPlayer(self, x, y, role, lazy=False, controllable=True):  # noqa: N802 (the game's name)
            if self._active_team == left:
                controllable = self.added >= own - agents
                self.added += 1
            super().AddPlayer(x, y, role, lazy, controllable)

    class Config(config.Config):
        def NewScenario(self, inc=1):  # noqa: N802 (the game's name)
            self._values["episode_number"] = self._values.get("episode_number", 0) + inc
            self._scenario_values = {}
            self._scenario_cfg = Scenario(self).ScenarioConfig()

    return Config(values)


@dataclass(frozen=True)
class Snapshot:
    """State of a :class:`Grf`: the engine's own and what is counted around it."""

    scenario: str
    engine: bytes
    counters: tuple


class Grf(Environment):
    """One scenario; see the module for rewards and ends.

    Attributes:
        raw: The game's observation: ``ball``, ``left_team``, ``ball_owned_team`` ... as its documentation names them.
        controlled: int[n] player that each agent controls, -1 for none.
        sticky: bool[n, 10] what lasts until released: 8 directions (left, then clockwise), sprint, dribble.
        steps: Steps of the episode so far.
        seed: Seed of the episode.
    """

    game = "grf"
    experts = ("script", "search")
    encoder = layout.ENCODER
    experts = ("script", "search")

    def __init__(self, scenario: str = "pass_and_shoot", steps: int | None = None) -> None:
        """Start the engine.

        Args:
            scenario: A name in :data:`SCENARIOS`, or the game's own name for it.
            steps: Step limit, if not the scenario's own.

        Raises:
            ValueError: Unknown scenario, or a limit below 1.
            MissingExtra: gfootball is not installed.
        """
        self.scenario = scenario_name(scenario)
        if steps is not None and steps < 1:
            raise ValueError(f"steps {steps}: at least 1 is needed")
        import_gfootball()
        from gfootball.env import football_env_core

        level, self.agents = SCENARIOS[self.scenario]
        self._config = _configuration(level, self.agents)
        self._core = football_env_core.FootballEnvCore(self._config)
        self._limit = steps
        self.seed = 0
        self._begin()

    def _begin(self) -> None:
        self.steps, self._over = 0, False
        self._read()
        own, opponents = len(self.raw["left_team"]), len(self.raw["right_team"])
        self._present = layout.present(own, opponents)
        self._start = self._distance()
        self._nearest = self._start
        self._score = (0, 0)

    def _read(self) -> None:
        self.raw = self._core._observation
        self.controlled = np.array(self.raw["left_agent_controlled_player"], dtype=np.int64)
        self.sticky = np.array(self.raw["left_agent_sticky_actions"], dtype=np.bool_)

    def _distance(self) -> float:
        return float(np.hypot(*(self.raw["ball"][:2] - GOAL)))

    def reset(self, seed: int) -> Observation:
        """Begin an episode; equal seeds give equal episodes for equal moves. A seed also decides who kicks off."""
        self.seed = seed = int(seed) % 2**31
        self._config["game_engine_random_seed"] = seed
        self._config["reverse_team_processing"] = bool(seed % 2)
        self._config["episode_number"] = seed // 2 % 2
        self._core.reset(inc=0)
        self._begin()
        return self.observation()

    def simple115v2(self) -> np.ndarray:
        """float32[n, 115] of the current state, in the game's own order."""
        raw = self.raw
        common = np.full(layout.FEATURES, -1.0, dtype=np.float32)
        for first, name in (
            (layout.LEFT, "left_team"),
            (layout.LEFT_DIRECTION, "left_team_direction"),
            (layout.RIGHT, "right_team"),
            (layout.RIGHT_DIRECTION, "right_team_direction"),
            (layout.BALL_AT, "ball"),
            (layout.BALL_DIRECTION_AT, "ball_direction"),
        ):
            values = np.ravel(raw[name])
            common[first : first + len(values)] = values
        common[layout.OWNER_AT :] = 0.0
        common[layout.OWNER_AT + 1 + raw["ball_owned_team"]] = 1.0
        common[layout.MODE_AT + raw["game_mode"]] = 1.0
        vectors = np.tile(common, (self.agents, 1))
        playing = np.flatnonzero(self.controlled >= 0)
        vectors[playing, layout.ACTIVE_AT + self.controlled[playing]] = 1.0
        return vectors

    def action_mask(self) -> np.ndarray:
        """bool[n, 20]: all 19 actions but those that change nothing, pressing what is pressed and the like."""
        mask = np.ones((self.agents, MAX_ACTIONS), dtype=np.bool_)
        mask[:, layout.ACTIONS :] = False
        directed, sprinting, dribbling = self.sticky[:, :8].any(axis=1), self.sticky[:, 8], self.sticky[:, 9]
        mask[:, SPRINT], mask[:, RELEASE_SPRINT] = ~sprinting, sprinting
        mask[:, DRIBBLE], mask[:, RELEASE_DRIBBLE] = ~dribbling, dribbling
        mask[:, RELEASE_DIRECTION] = directed
        mask[~self.active(), 1:] = False
        return mask

    def active(self) -> np.ndarray:
        """bool[n] agents that control a player on the field."""
        on_field = np.append(self.raw["left_team_active"].astype(np.bool_), False)
        return on_field[self.controlled]

    def observation(self) -> Observation:
        """What the agents see in the current state."""
        features = self.simple115v2()[:, layout.ORDER]
        visible = np.tile(self._present, (self.agents, 1))
        return Observation(features, visible, self.action_mask(), self.active())

    def step(self, actions: np.ndarray) -> tuple[Observation, Step]:
        """Move all agents at once; ``actions`` int[n].

        Raises:
            ValueError: A move outside the mask.
            RuntimeError: The episode is over.
        """
        if self._over:
            raise RuntimeError("the football episode is over; call reset")
        actions = np.asarray(actions, dtype=np.int64)
        if actions.shape != (self.agents,) or not ((actions >= 0) & (actions < MAX_ACTIONS)).all():
            raise ValueError(f"actions {actions.tolist()}: {self.agents} numbers in 0..18 are needed")
        allowed = self.action_mask()[np.arange(self.agents), actions]
        if not allowed.all():
            agent = int(np.argmin(allowed))
            raise ValueError(f"agent {agent}: move {actions[agent]} is not in its action mask")
        _, _, done, _ = self._core.step(actions.tolist())
        self.steps += 1
        self._read()
        reward = self._reward()
        time_up = bool(done) and self.raw["steps_left"] <= 0 and not self._decided()
        match = self.scenario == "11_vs_11_easy"
        ended = bool(done) and (match or not time_up)
        cut = not ended and (bool(done) or (self._limit is not None and self.steps >= self._limit))
        self._over = ended or cut
        return self.observation(), Step(np.full(self.agents, reward, dtype=np.float32), ended, cut)

    def _decided(self) -> bool:
        """Whether the last step ended an academy episode by a goal or a ball out of play."""
        return sum(self._score) > 0 or self.raw["game_mode"] != 0

    def _reward(self) -> float:
        """Of the last step; notes score and nearest distance."""
        goals, conceded = self.raw["score"]
        reward = sum(1.0 if k == 1 else 2.0**-k for k in range(self._score[0] + 1, goals + 1))
        nearest = self._nearest
        if goals > self._score[0]:
            nearest = 0.0
        elif self.raw["ball_owned_team"] == 0:
            nearest = min(nearest, self._distance())
        way = max(self._start - NEAR, 1e-6)
        carried = (max(self._nearest, NEAR) - max(nearest, NEAR)) / way
        self._nearest, self._score = nearest, (goals, conceded)
        return reward + CARRIED * carried

    def metrics(self) -> dict[str, float]:
        """Of the episode so far.

        Returns:
            success: 1 if the own team scored (in the match: leads), score: goals less those conceded, goals, steps.
        """
        goals, conceded = self._score
        won = goals > conceded if self.scenario == "11_vs_11_easy" else goals > 0
        return {
            "success": float(won),
            "score": float(goals - conceded),
            "goals": float(goals),
            "steps": float(self.steps),
        }

    def snapshot(self) -> Snapshot:
        """The whole state, random numbers included; :meth:`restore` goes on exactly from there."""
        counters = (self.seed, self.steps, self._over, self._start, self._nearest, self._score)
        return Snapshot(self.scenario, self._core.get_state({}), counters)

    def restore(self, state: Snapshot) -> Observation:
        """Go back to ``state``, which may come from another :class:`Grf` of the same scenario.

        Raises:
            ValueError: It is of another scenario.
        """
        if state.scenario != self.scenario:
            raise ValueError(f"a snapshot of '{state.scenario}' cannot be restored in '{self.scenario}'")
        self._core.set_state(state.engine)
        self.seed, self.steps, self._over, self._start, self._nearest, self._score = state.counters
        self._read()
        return self.observation()

    def close(self) -> None:
        """Hand the engine back; the next environment of this process uses it."""
        self._core.close()
