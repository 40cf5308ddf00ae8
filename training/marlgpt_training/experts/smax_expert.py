"""SMAX's experts behind one function, and their win rates.

An expert says what every unit should do in the games of a batch as they are now, whoever brought them there: so it
labels its own games and, for DAgger, those of a student.

Win rates over 1024 episodes (seeds 0 to 1023): heuristic .479 on 5v5, .159 on 5v6, .480 on 10v10; focus .862, .572,
.890; ppo .877, .681, .892. The shipped ppo weights were trained on 5v5 and 5v6 only: 10v10 is new to them.

    python -m marlgpt_training.experts.smax_expert --kind ppo --scenario 5v5 5v6 10v10 --episodes 1024
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.smax import MOVES, STOP
from tqdm import tqdm

from marlgpt_training.environments.base import MissingExtra
from marlgpt_training.environments.smax import SCENARIOS, Smax, SmaxBatch, rules
from marlgpt_training.experts import smax_focus, smax_net

KINDS = ("ppo", "focus", "heuristic")
WEIGHTS = Path(__file__).with_name("smax_expert.npz")
"""Weights of the learned expert that the project ships."""

Expert = Callable[[SmaxBatch | Smax], np.ndarray]


def smax_expert(kind: str, weights: Path = WEIGHTS) -> Expert:
    """An expert: a function of a :class:`SmaxBatch` (or :class:`Smax`) -> legal moves int32[B, n] (or [n]).

    Args:
        kind: ``ppo``, the learned expert, sees what a student sees; ``focus``, the script, sees the whole state;
            ``heuristic`` is what the enemies play, a baseline that sees what a unit sees. Only the heuristic
            remembers anything between calls: call it once for every step of a batch, from the first step on.
        weights: File of the learned expert.

    Raises:
        ValueError: Unknown kind, or not a file of a learned expert.
        FileNotFoundError: No such file.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown SMAX expert '{kind}'; choose one of {', '.join(KINDS)}")
    if kind == "ppo":
        if not weights.exists():
            raise FileNotFoundError(f"{weights} is missing; train it with marlgpt_training.experts.smax_ppo")
        arrays = smax_net.load(weights)
        act = functools.partial(learned, {name: np.float32(array) for name, array in arrays.items()})
    else:
        act = smax_focus.focus if kind == "focus" else Heuristic()

    def expert(game: SmaxBatch | Smax) -> np.ndarray:
        return act(game.batch)[0] if isinstance(game, Smax) else act(game)

    return expert


def learned_logits(weights: dict[str, np.ndarray], batch: SmaxBatch) -> np.ndarray:
    """The learned policy's logits float32[B, n, 5 + m] in every game; -1e9 where a move is not legal."""
    mask = batch.observe().action_mask
    frames, visible = batch.frames
    seen = smax_net.tokens(np, frames, visible, mask, batch.agents, batch.rules.enemies)
    return smax_net.logits(np, weights, seen, mask)


def learned(weights: dict[str, np.ndarray], batch: SmaxBatch) -> np.ndarray:
    """The most likely moves int32[B, n]."""
    return learned_logits(weights, batch).argmax(axis=2).astype(np.int32)


class Heuristic:
    """JaxMARL's own heuristic on our side: shoots the closest enemy until it is dead, else walks to one."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._memory, self._functions = None, {}

    def __call__(self, batch: SmaxBatch) -> np.ndarray:
        """Legal moves int32[B, n]; games in their first step begin with an empty memory."""
        if batch.scenario not in self._functions:
            self._functions[batch.scenario] = _heuristic(batch.scenario)
        empty, act = self._functions[batch.scenario]
        games = batch.state["games"]
        new = np.asarray(games["smax"].state.step) == 0
        if self._memory is None or len(self._memory.last_attacked_enemy) != batch.count or new.all():
            self._memory = empty(batch.count)
        moves, self._memory = act(games, self._memory)
        moves = np.asarray(moves)
        legal = np.take_along_axis(batch.observe().action_mask, moves[..., None], axis=2)[..., 0]
        return np.where(legal, moves, STOP).astype(np.int32)


def _heuristic(scenario: str):
    """(count -> empty memory, (games, memory) -> (moves, memory)) in JAX."""
    game_rules = rules(scenario)
    jax, xp, n = game_rules.jax, game_rules.np, game_rules.allies
    from jaxmarl.environments.smax.heuristic_enemy import (
        create_heuristic_policy,
        get_heuristic_policy_initial_state,
    )

    policy = create_heuristic_policy(game_rules.env._env, 0)

    def empty(count: int):
        one = get_heuristic_policy_initial_state()
        return jax.tree.map(lambda leaf: xp.broadcast_to(xp.asarray(leaf), (count, n, *xp.shape(leaf))), one)

    def one_game(game, memory):
        step = game["smax"].state.step
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(game["key"], step), MOVES), n)
        seen = game_rules.env.get_obs(game["smax"])
        seen = xp.stack([seen[agent] for agent in game_rules.env.agents])
        return jax.vmap(policy)(keys, memory, seen)

    return empty, jax.jit(jax.vmap(one_game))


def measure(expert: Expert, scenario: str, seeds: np.ndarray, count: int = 256) -> dict[str, float]:
    """Mean metrics over one episode of each of ``seeds``, ``count`` games at a time."""
    batch = SmaxBatch(scenario, min(count, len(seeds)))
    found = []
    for first in tqdm(range(0, len(seeds), batch.count), desc=scenario, unit="batch"):
        some = seeds[first : first + batch.count]
        batch.reset(np.resize(some, batch.count))  # the last batch is filled up with repetitions
        while not batch.over.all():
            batch.step(expert(batch))
        found.append({name: values[: len(some)] for name, values in batch.metrics().items()})
    return {name: float(np.concatenate([f[name] for f in found]).mean()) for name in found[0]}


def main() -> None:
    """Command line: win rates of an expert."""
    parser = argparse.ArgumentParser(description="Win rates of SMAX's experts.")
    parser.add_argument("--kind", choices=KINDS, default="ppo")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="file of the learned expert")
    parser.add_argument("--scenario", nargs="+", default=list(SCENARIOS), help="such as 5v5")
    parser.add_argument("--episodes", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; the others follow")
    args = parser.parse_args()
    if args.episodes < 1:
        parser.error("--episodes must be at least 1")
    try:
        for scenario in args.scenario:
            expert = smax_expert(args.kind, args.weights)
            means = measure(expert, scenario, args.seed + np.arange(args.episodes))
            print(scenario, args.kind, " ".join(f"{name} {value:.3f}" for name, value in means.items()))
    except (ValueError, OSError, MissingExtra) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
