"""SMAX of JaxMARL (Apache-2.0): StarCraft-like micromanagement that runs anywhere, against its built-in heuristic.

Units of six types, drawn anew each episode, meet as in SMACv2: surrounded or mirrored. Results on it are results on
SMAX, never on SMACv2.

Reward, the same for all agents of the team: the share of the enemies' full health that was lost in the step (over an
episode at most 1), and 1 more in the step that kills the last enemy while an ally lives. Returns lie within 0..2.

The observation is SMAX's, with the observer first and two features made independent of unit numbering: where SMAX
tells the index of a unit's last target, an enemy says whether it aims at the observer and how many allies in sight aim
at it, an ally whether it shot. The game tells the unit itself all of this.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from marlgpt_policy.encoders.smax import ALLY, MOVES, OWN, smax_encoder
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS

from marlgpt_training.environments.base import Environment, MissingExtra, Observation, Step

SCENARIOS = ("5v5", "5v6", "10v10")
"""What results are reported on; any other 'AvB' with 1 to 10 units a side can be played as well."""
_TARGET = 5
"""Place of the last target among a unit's features in SMAX."""
_TYPES = 7
"""Place of the first type bit among a unit's features in SMAX; among the own features it is 4."""


@contextlib.contextmanager
def _quiet():
    """Without jaxmarl's notes on other games' optional packages; its import also resets ``sys.stdout`` and stderr."""
    kept = sys.stdout, sys.stderr, sys.__stdout__
    sys.stdout = sys.__stdout__ = io.StringIO()
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.__stdout__ = kept


def import_smax():
    """(jax, jaxmarl.environments.smax).

    Raises:
        MissingExtra: A package is missing.
    """
    try:
        import jax

        with _quiet():
            from jaxmarl.environments import smax
    except ImportError as error:
        raise MissingExtra(
            f"SMAX is not usable ({error}); run 'make envs', which installs jax and jaxmarl"
        ) from error
    return jax, smax


@dataclass(frozen=True)
class Frames:
    """What the n agents of each of B games see and may do.

    Attributes:
        features: float32[B, n, F] as the encoder takes them.
        visible: bool[B, n, F].
        action_mask: bool[B, n, 20].
        active: bool[B, n] alive in a game that goes on.
    """

    features: Any
    visible: Any
    action_mask: Any
    active: Any


class Rules:
    """The game of one scenario as pure JAX functions of one game; batches map them.

    A game is a pytree: SMAX's state, and the key that all randomness of the episode follows from.

    Attributes:
        allies: Number of own units n.
        enemies: Number of enemies m.
        env: JaxMARL's environment, with unit tables such as ``unit_type_attack_ranges``.
    """

    def __init__(self, scenario: str) -> None:
        """Set up ``scenario``, e.g. ``5v6``.

        Raises:
            ValueError: Not of the form AvB.
            LayoutError: Sides of other than 1 to 10 units.
            MissingExtra: A package is missing.
        """
        sides = re.fullmatch(r"(\d+)v(\d+)", scenario)
        if not sides:
            raise ValueError(
                f"unknown SMAX scenario '{scenario}'; choose {', '.join(SCENARIOS)} or another AvB"
            )
        self.allies, self.enemies = n, m = int(sides[1]), int(sides[2])
        self.encoder = smax_encoder(n, m)
        self.jax, smax = import_smax()
        self.np = self.jax.numpy
        types = self.np.zeros(n + m, dtype=self.np.uint8)
        self.env = smax.HeuristicEnemySMAX(scenario=smax.Scenario(types, n, m, True, True))

    def reset(self, seed):
        """The game of an episode; ``seed`` uint32."""
        key = self.jax.random.PRNGKey(seed)
        return {"smax": self.env.reset(key)[1], "key": key}

    def step(self, game, actions):
        """(game, reward float32, ended, cut) after the joint move ``actions`` int[n]."""
        before = game["smax"].state
        key = self.jax.random.fold_in(game["key"], before.step)
        moves = {agent: actions[i] for i, agent in enumerate(self.env.agents)}
        _, state, rewards, _, _ = self.env.step_env(key, game["smax"], moves)
        alive = state.state.unit_alive
        ended = ~alive[: self.allies].any() | ~alive[self.allies :].any()
        return {**game, "smax": state}, rewards[self.env.agents[0]], ended, state.state.done & ~ended

    def observe(self, game):
        """(features [n, F], visible [n, F], action_mask [n, 20]); all False for the dead but the stop action."""
        xp, n, m = self.np, self.allies, self.enemies
        seen = self.env.get_obs(game["smax"])
        seen = xp.stack([seen[agent] for agent in self.env.agents])
        own = seen[:, -len(OWN) :]
        units = seen[:, : -len(OWN)].reshape(n, n - 1 + m, len(ALLY))
        allies, enemies = units[:, : n - 1], units[:, n - 1 :]
        # Targets as indices again: SMAX divides the action by the number of the last one.
        shot = xp.round(allies[..., _TARGET] * (m + MOVES - 1)).astype(int) - MOVES
        mine = game["smax"].state.prev_attack_actions[:n] - MOVES
        aimed = n - 1 - (xp.round(enemies[..., _TARGET] * (n + MOVES - 1)).astype(int) - MOVES)
        focus = (shot[:, :, None] == xp.arange(m)).sum(axis=1) + (mine[:, None] == xp.arange(m))
        allies = allies.at[..., _TARGET].set(shot >= 0)
        enemies = enemies.at[..., _TARGET].set(aimed == xp.arange(n)[:, None])
        enemies = xp.concatenate([enemies, focus[..., None] / 10], axis=2)
        parts = ((own[:, None], 4), (allies, _TYPES), (enemies, _TYPES))
        in_sight = [part[..., first : first + 6].any(axis=2, keepdims=True) for part, first in parts]
        visible = [xp.broadcast_to(s, p.shape) for s, (p, _) in zip(in_sight, parts, strict=True)]
        visible = xp.concatenate([v.reshape(n, -1) for v in visible], axis=1)
        features = xp.concatenate([p.reshape(n, -1) for p, _ in parts], axis=1)
        legal = self.env.get_avail_actions(game["smax"])
        legal = xp.stack([legal[agent] for agent in self.env.agents]).astype(bool)
        mask = xp.zeros((n, MAX_ACTIONS), dtype=bool).at[:, : MOVES + m].set(legal)
        return xp.where(visible, features, 0.0), visible, mask

    def alive(self, game):
        """bool[n + m] who is alive, allies first."""
        return game["smax"].state.unit_alive


@functools.cache
def rules(scenario: str) -> Rules:
    """The one set of rules of ``scenario``, so that compiled functions are shared."""
    return Rules(scenario)


@functools.cache
def compiled(scenario: str):
    """(reset, step) over a batch, compiled once per batch size.

    ``reset(seeds)`` gives ``state``; ``step(state, actions)`` gives (state, rewards [B], 0 where an episode was over).
    A state holds the games, the newest ``seen``, and ``ended`` and ``cut`` of each episode.
    """
    game_rules = rules(scenario)
    jax, xp = game_rules.jax, game_rules.np

    def reset(seeds):
        games = jax.vmap(game_rules.reset)(seeds)
        over = xp.zeros(len(seeds), dtype=bool)
        seen = jax.vmap(game_rules.observe)(games)
        state = {"games": games, "seen": seen, "ended": over, "cut": over}
        # Python scalars leave weakly typed arrays behind, and those would make `step` compile twice.
        return jax.tree.map(lambda leaf: xp.asarray(leaf, dtype=leaf.dtype), state)

    def step(state, actions):
        held = state["ended"] | state["cut"]
        games, rewards, ended, cut = jax.vmap(game_rules.step)(state["games"], actions)

        def keep(old, new):
            return xp.where(held.reshape(-1, *[1] * (new.ndim - 1)), old, new).astype(old.dtype)

        seen = jax.vmap(game_rules.observe)(games)
        new = {"games": games, "seen": seen, "ended": ended, "cut": cut}
        return jax.tree.map(keep, state, new), xp.where(held, 0.0, rewards)

    return jax.jit(reset), jax.jit(step)


class SmaxBatch:
    """Many games of one scenario side by side. A finished game stays as it ended until the next :meth:`reset`.

    Attributes:
        scenario: E.g. ``5v5``.
        count: Number of games B.
        agents: Own units n of a game.
        encoder: Layout and encoder of the scenario.
        rules: The game itself.
        state: Of all games, a value (nothing changes it in place): keep it to come back to it.
        frames: The last frames of each game, newest first: features float32[B, n, H, F], visible bool[B, n, H, F],
            as :meth:`FrameEncoder.encode` takes them. Frames before the episode began are invisible.
    """

    def __init__(self, scenario: str, count: int) -> None:
        """Begin ``count`` games with seeds 0, 1, 2, ...

        Raises:
            ValueError: No games, or as :class:`Rules`.
            MissingExtra: A package is missing.
        """
        if count < 1:
            raise ValueError(f"{count} games: at least 1 is needed")
        self.rules = rules(scenario)
        self.scenario, self.count = scenario, count
        self.agents, self.encoder = self.rules.allies, self.rules.encoder
        self._reset, self._step = compiled(scenario)
        self.reset(np.arange(count))

    def reset(self, seeds: np.ndarray) -> Frames:
        """Begin an episode in every game; ``seeds`` int[B], equal seeds give equal episodes for equal moves."""
        seeds = np.asarray(seeds)
        if seeds.shape != (self.count,):
            raise ValueError(f"seeds {seeds.shape}, expected ({self.count},)")
        self.state = self._reset(self.rules.np.asarray(seeds % 2**32, dtype=np.uint32))
        shape = (self.count, self.agents, self.encoder.frames, self.encoder.features)
        self.frames = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.bool_)
        return self._note()

    def observe(self) -> Frames:
        """What the agents see now, as NumPy arrays."""
        features, visible, mask = (np.asarray(part) for part in self.state["seen"])
        alive = np.asarray(self.state["games"]["smax"].state.unit_alive)[:, : self.agents]
        return Frames(features, visible, mask, alive & ~self.over[:, None])

    def step(self, actions: np.ndarray) -> tuple[Frames, np.ndarray, np.ndarray, np.ndarray]:
        """Move all agents of all games; ``actions`` int[B, n], ignored in finished games and of dead agents.

        Returns:
            What they see then, rewards float32[B, n], ended bool[B], cut bool[B].

        Raises:
            ValueError: Another shape, or a move outside the mask.
        """
        actions = self._legal(np.asarray(actions))
        self.state, rewards = self._step(self.state, self.rules.np.asarray(actions, dtype=np.int32))
        rewards = np.repeat(np.asarray(rewards, dtype=np.float32)[:, None], self.agents, axis=1)
        return self._note(), rewards, np.asarray(self.state["ended"]), np.asarray(self.state["cut"])

    def restore(self, state: Any, frames: tuple[np.ndarray, np.ndarray]) -> Frames:
        """Go back to a ``state`` and ``frames`` kept from earlier."""
        self.state, self.frames = state, frames
        return self.observe()

    @property
    def over(self) -> np.ndarray:
        """bool[B] games that are finished."""
        return np.asarray(self.state["ended"] | self.state["cut"])

    def metrics(self) -> dict[str, np.ndarray]:
        """float[B] each: success (won), allies_left, enemies_left, steps."""
        state = self.state["games"]["smax"].state
        alive = np.asarray(state.unit_alive)
        allies, enemies = alive[:, : self.agents].sum(axis=1), alive[:, self.agents :].sum(axis=1)
        return {
            "success": ((enemies == 0) & (allies > 0)).astype(float),
            "allies_left": allies.astype(float),
            "enemies_left": enemies.astype(float),
            "steps": np.asarray(state.step).astype(float),
        }

    def _legal(self, actions: np.ndarray) -> np.ndarray:
        """The moves with those that do not count replaced by stopping."""
        if actions.shape != (self.count, self.agents):
            raise ValueError(f"actions {actions.shape}, expected ({self.count}, {self.agents})")
        now = self.observe()
        actions = np.where(now.active, actions, MOVES - 1)
        legal = (actions >= 0) & (actions < MAX_ACTIONS)
        legal &= np.take_along_axis(now.action_mask, np.where(legal, actions, 0)[..., None], axis=2)[..., 0]
        if not legal.all():
            game, agent = np.argwhere(~legal)[0]
            raise ValueError(
                f"game {game}: agent {agent} may not move {actions[game, agent]}; "
                f"allowed: {np.flatnonzero(now.action_mask[game, agent]).tolist()}"
            )
        return actions

    def _note(self) -> Frames:
        """Add the newest frame to the histories (copies: kept ones stay as they are)."""
        now = self.observe()
        newest = now.features[:, :, None], now.visible[:, :, None]
        self.frames = tuple(
            np.concatenate([new, kept[:, :, :-1]], axis=2)
            for new, kept in zip(newest, self.frames, strict=True)
        )
        return now


class Smax(Environment):
    """One game of SMAX: a batch of one.

    Attributes:
        batch: The batch; experts take it.
    """

    game = "smax"
    experts = ("ppo", "focus")

    def __init__(self, scenario: str) -> None:
        """Set up ``scenario``: 5v5, 5v6, 10v10 or another AvB.

        Raises:
            ValueError: Unknown scenario.
            MissingExtra: A package is missing.
        """
        self.batch = SmaxBatch(scenario, 1)
        self.scenario, self.encoder, self.agents = scenario, self.batch.encoder, self.batch.agents

    def reset(self, seed: int) -> Observation:
        """Begin the episode of ``seed``."""
        return self._first(self.batch.reset(np.array([seed])))

    def step(self, actions: np.ndarray) -> tuple[Observation, Step]:
        """Move all agents; a dead agent's move is ignored.

        Raises:
            ValueError: A move outside the mask, or the episode is over.
        """
        if self.batch.over[0]:
            raise ValueError("the episode is over; reset the environment")
        frames, rewards, ended, cut = self.batch.step(np.asarray(actions)[None])
        return self._first(frames), Step(rewards[0], bool(ended[0]), bool(cut[0]))

    def metrics(self) -> dict[str, float]:
        """Success (1: all enemies dead and an ally alive), allies_left, enemies_left, steps."""
        return {name: float(value[0]) for name, value in self.batch.metrics().items()}

    def snapshot(self) -> object:
        """State and history; both are values, so this copies nothing."""
        return self.batch.state, self.batch.frames

    def restore(self, state: object) -> Observation:
        """Go back; the episode goes on exactly as it would have, random numbers included."""
        return self._first(self.batch.restore(*state))

    @staticmethod
    def _first(frames: Frames) -> Observation:
        return Observation(frames.features[0], frames.visible[0], frames.action_mask[0], frames.active[0])
