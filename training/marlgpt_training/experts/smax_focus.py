"""A script for SMAX that sees the whole state: concentrate fire, step back while the weapon cools down, stay together.

Each unit scores its five moves and its attacks. Targets are chosen one unit after the other, the most dangerous and
weakest enemy first, and none gets more shots than kill it. A unit whose weapon is not ready moves instead: out of the
reach of enemies that could hit it, while its target stays within reach, towards its allies, never to a wall (touching
one kills). The weights were found by a random search over whole games (see :func:`search`).
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass

import numpy as np
from marlgpt_policy.encoders.smax import MOVES

from marlgpt_training.environments.smax import Rules, SmaxBatch, rules

STEP = 0.5
"""Seconds of a step: 8 ticks of 1/16 s."""
WALL = 1.2
"""Nothing goes closer to a wall than this, in the map's units; a unit moves at most 2.1 in a step."""


@dataclass(frozen=True)
class Weights:
    """What the script trades off.

    Attributes:
        danger: Of enemies' damage that could reach a place, as a share of the own health and second.
        aimed: How much more an enemy counts that aims at this unit.
        soft: Softness of ranges, map units.
        ahead: Share of a step by which enemies are expected to come closer.
        reach: Of having a target within range when the weapon is ready.
        advance: Per map unit closer to the target.
        balance: How much the advance depends on the local balance of strength.
        together: Per map unit closer to the allies' centre, beyond ``loose`` map units from it.
        loose: See there.
        near: Radius of "local", map units.
        weak: Exponent of a target's remaining health in its value.
        crowd: Per ally that has the target in range.
        distance: Per map unit to the target.
        keep: Bonus of the target of the last step.
        shoot: Bonus of shooting over moving.
    """

    danger: float = 0.26
    aimed: float = 20.0
    soft: float = 1.2
    ahead: float = 0.26
    reach: float = 0.23
    advance: float = 0.64
    balance: float = -0.018
    together: float = 0.073
    loose: float = 0.41
    near: float = 2.4
    weak: float = 0.66
    crowd: float = 0.13
    distance: float = 0.022
    keep: float = 0.041
    shoot: float = 1.7


def script(game_rules: Rules):
    """The script as a JAX function: (game, weights as a dict of scalars) -> int32[n] legal moves of one game."""
    jax, xp, env = game_rules.jax, game_rules.np, game_rules.env
    n, m = game_rules.allies, game_rules.enemies
    directions = xp.array([[0, 1], [1, 0], [0, -1], [-1, 0], [0, 0]], dtype=xp.float32)
    size = xp.array([env.map_width, env.map_height], dtype=xp.float32)

    def act(game, w):
        state = game["smax"].state
        kinds = state.unit_types
        reach, speed = env.unit_type_attack_ranges[kinds], env.unit_type_velocities[kinds]
        attack, pause = env.unit_type_attacks[kinds], env.unit_type_weapon_cooldowns[kinds]
        dps = attack / pause
        place, health, alive = state.unit_positions, state.unit_health, state.unit_alive
        mine, foe = place[:n], place[n:]
        foe_alive, foe_dps = alive[n:], dps[n:]
        aims = n - 1 - (state.prev_attack_actions[n:] - MOVES)
        aimed = aims[None] == xp.arange(n)[:, None]  # [n, m] enemy k aims at unit i
        apart = xp.linalg.norm(mine[:, None] - foe[None], axis=-1)
        in_range = (apart < reach[:n, None]) & foe_alive[None] & alive[:n, None]
        ready = state.unit_weapon_cooldowns[:n] < STEP - 1 / 16

        # Targets, one unit after the other; no more shots than kill.
        shots = xp.ceil(STEP / pause[:n])
        left = health[n:]
        within = (apart < reach[:n, None] + 1.0) & alive[:n, None]
        crowd = (within * 1.0).sum(axis=0)
        value = xp.log(foe_dps)[None] + w["crowd"] * crowd[None] - w["distance"] * apart
        value += w["keep"] * (state.prev_attack_actions[:n, None] - MOVES == xp.arange(m)[None])
        targets = []
        for i in range(n):
            worth = value[i] - w["weak"] * xp.log(xp.maximum(left, 1.0)) - 10.0 * (left <= 0)
            worth = xp.where(in_range[i], worth, worth - 100.0)
            target = xp.argmax(xp.where(foe_alive, worth, -1e9))
            targets.append(target)
            hits = in_range[i, target] & ready[i]
            left = left.at[target].add(-xp.where(hits, attack[i] * shots[i], 0.0))
        target = xp.stack(targets)
        can_shoot = xp.take_along_axis(in_range, target[:, None], axis=1)[:, 0]

        # Moves, by what a place is worth at the end of the step.
        goes = mine[:, None] + directions[None] * speed[:n, None, None] * STEP  # [n, 5, 2]
        far = xp.linalg.norm(goes[:, :, None] - foe[None, None], axis=-1)  # [n, 5, m]
        threat = reach[n:] + w["ahead"] * speed[n:] * STEP
        hit = jax.nn.sigmoid((threat - far) / w["soft"]) * (foe_dps * foe_alive)
        hit = hit * xp.where(aimed, 1.0 + w["aimed"], 1.0)[:, None]
        danger = hit.sum(axis=2) / xp.maximum(health[:n, None], 1.0)
        to_target = xp.take_along_axis(far, target[:, None, None], axis=2)[:, :, 0]
        offence = jax.nn.sigmoid((reach[:n, None] - 0.2 - to_target) / 0.3)
        strength = xp.sqrt(dps * health) * alive
        centre = (mine * alive[:n, None]).sum(axis=0) / xp.maximum(alive[:n].sum(), 1)
        spot = foe[target]  # [n, 2]
        ours = ((xp.linalg.norm(spot[:, None] - mine[None], axis=-1) < w["near"]) * strength[:n]).sum(axis=1)
        theirs = ((xp.linalg.norm(spot[:, None] - foe[None], axis=-1) < w["near"]) * strength[n:]).sum(axis=1)
        balance = xp.log((ours + 1.0) / (theirs + 1.0))
        gain = xp.maximum(to_target - reach[:n, None] + 0.5, 0.0)
        score = -w["danger"] * danger + w["reach"] * offence
        score -= (w["advance"] + w["balance"] * balance)[:, None] * gain
        score -= w["together"] * xp.maximum(xp.linalg.norm(goes - centre, axis=-1) - w["loose"], 0.0)
        wall = ((goes < WALL) | (goes > size - WALL)).any(axis=-1)
        depth = xp.minimum(goes, size - goes).min(axis=-1)
        score = xp.where(wall, -100.0 + depth, score)
        move = xp.argmax(score, axis=1)
        fire = can_shoot & (ready & (w["shoot"] > score.max(axis=1) - score[:, 4]))
        action = xp.where(fire, MOVES + target, move)
        action = xp.where(can_shoot & (move == 4), MOVES + target, action)  # shooting costs nothing
        return xp.where(alive[:n], action, 4).astype(xp.int32)

    return act


@functools.cache
def _batched(scenario: str):
    game_rules = rules(scenario)
    return game_rules.jax.jit(game_rules.jax.vmap(script(game_rules), in_axes=(0, None)))


def focus(batch: SmaxBatch, weights: Weights | None = None) -> np.ndarray:
    """The script's moves in every game of ``batch``, int32[B, n]."""
    return np.asarray(_batched(batch.scenario)(batch.state["games"], asdict(weights or Weights())))


@functools.cache
def _played(scenario: str):
    """(seeds [B], dict of weights [B]) -> won bool[B], whole episodes in one compiled call."""
    game_rules = rules(scenario)
    jax, xp = game_rules.jax, game_rules.np
    act = script(game_rules)

    def play(seeds, w):
        def step(carry):
            games, over, won = carry
            moves = jax.vmap(act)(games, w)
            games, _, ended, cut = jax.vmap(game_rules.step)(games, moves)
            wins = ended & jax.vmap(game_rules.alive)(games)[:, : game_rules.allies].any(axis=1)
            return games, over | ended | cut, xp.where(over, won, wins)

        games = jax.vmap(game_rules.reset)(seeds)
        games = jax.tree.map(lambda leaf: xp.asarray(leaf, dtype=leaf.dtype), games)
        none = xp.zeros(len(seeds), dtype=bool)
        return jax.lax.while_loop(lambda carry: ~carry[1].all(), step, (games, none, none))[2]

    return jax.jit(play)


def wins(scenario: str, seeds: np.ndarray, weights: Weights | dict[str, np.ndarray]) -> np.ndarray:
    """bool[B] episodes won by the script; ``weights`` of all, or a dict of float[B] with those of each episode."""
    if isinstance(weights, Weights):
        weights = asdict(weights)
    each = {name: np.broadcast_to(np.float32(value), len(seeds)) for name, value in weights.items()}
    return np.asarray(_played(scenario)(np.asarray(seeds, dtype=np.uint32), each))


def search(
    scenarios: list[str], rounds: int, start: Weights, seed: int, episodes: int = 1024, spread: float = 0.25
):
    """Yield (weights, share won) after each round of a stochastic ascent of the win rate.

    Every episode is played with weights of its own, scattered around the mean by ``spread`` (a factor; ``balance``
    and ``advance`` by a share of 0.1). The mean moves along the correlation of scatter and success.
    """
    rng = np.random.default_rng(seed)
    names = list(asdict(start))
    mean, rate = np.zeros(len(names)), 1.0
    base = np.array(list(asdict(start).values()))
    speed = np.zeros(len(names))
    for k in range(rounds):
        noise = rng.standard_normal((episodes // 2, len(names)))
        noise = np.concatenate([noise, -noise])
        values = base * np.exp(mean + spread * noise)
        additive = names.index("balance")
        values[:, additive] = base[additive] + 0.1 * (mean[additive] + spread * noise[:, additive])
        first = int(rng.integers(2**31))
        seeds = np.tile(np.arange(first, first + episodes // 2), 2)
        won = wins(scenarios[k % len(scenarios)], seeds, dict(zip(names, values.T, strict=True)))
        half = episodes // 2
        gradient = ((won[:half] * 1.0 - won[half:])[:, None] * noise[:half]).mean(axis=0) / 2 / spread
        speed = 0.8 * speed + gradient
        mean = mean + rate * speed
        centre = base * np.exp(mean)
        centre[additive] = base[additive] + 0.1 * mean[additive]
        yield Weights(**dict(zip(names, centre.tolist(), strict=True))), float(won.mean())
