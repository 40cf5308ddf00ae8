"""Quick validation rollouts on held-out generated maps, for choosing checkpoints while training."""

from __future__ import annotations

import numpy as np
from marlgpt_policy.encoders import pogema
from marlgpt_policy.fleet.fleet_config import SHARP
from marlgpt_policy.mapf.pibt_shield import shielded
from marlgpt_policy.policy.onnx_policy import choose_from_logits

from marlgpt_training.collection import dagger
from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.grid_env import GridEnv
from marlgpt_training.experts.pibt import Pibt
from marlgpt_training.model.checkpoint import torch_forward
from marlgpt_training.model.model import MarlGpt
from marlgpt_training.seeds import GAME_VALIDATION, validation_seed


def throughput(
    forward, family: str, agents: int, episodes: int, steps: int, shield: bool, temperature: float = 1.0
) -> float:
    """Mean of :func:`throughputs`."""
    return float(np.mean(throughputs(forward, family, agents, episodes, steps, shield, temperature)))


def throughputs(
    forward, family: str, agents: int, episodes: int, steps: int, shield: bool, temperature: float = 1.0
) -> list[float]:
    """Goals per step of ``forward`` (None: PIBT) on each of ``episodes`` held-out maps, all in one batch."""
    environments, drivers = [], []
    for k in range(episodes):
        seed = validation_seed(agents, k)
        free = maps.generate(family, seed)
        while free.sum() < 2 * agents:
            seed += 100_000
            free = maps.generate(family, seed)
        environments.append(GridEnv.sample(free, agents, True, seed))
        drivers.append(Pibt(environments[-1].moves, agents, seed))
    rng = np.random.default_rng(agents)
    waited = [rng.random(agents) for _ in environments]
    for _ in range(steps):
        if forward is None:
            for env, pibt in zip(environments, drivers, strict=True):
                env.step(pibt.act(env.cells, env.fields, env.field_of, env.arrived))
            continue
        observed = [pogema.encode(e.fields, e.cells, e.goals, e.history, e.moves) for e in environments]
        logits = forward(*(np.concatenate(parts) for parts in zip(*observed, strict=True)))
        proposed = choose_from_logits(logits[:, :5], temperature, rng)
        for k, env in enumerate(environments):
            own = slice(k * agents, (k + 1) * agents)
            action = proposed[own]
            if shield:
                seed = int(rng.integers(2**32))
                action = shielded(logits[own], action, observed[k][2], env.cells, waited[k], env.moves, seed)
            env.step(action)
            waited[k] = np.where(env.arrived, rng.random(agents), waited[k] + 1)
    return [float(env.reached.sum() / steps) for env in environments]


def validate(model: MarlGpt, tasks: list[dagger.Task], episodes: int) -> dict[str, float]:
    """What the model reaches in held-out episodes, and the ``score`` that checkpoints are chosen by.

    POGEMA: goals per step on random maps and mazes with shield, and unshielded on random maps. Other games: share of
    ``episodes`` with success. The score is the mean over the games.
    """
    result, scores = {}, []
    for task in tasks:
        forward = torch_forward(model, "cpu", task.layout.name)
        if task.game == "pogema":
            found = {
                "random32_shield": throughput(forward, "random", 32, 6, 128, True, SHARP),
                "random64_shield": throughput(forward, "random", 64, 6, 128, True, SHARP),
                "random32_sampled": throughput(forward, "random", 32, 6, 128, False),
                "maze32_shield": throughput(forward, "maze", 32, 6, 128, True, SHARP),
            }
        else:
            seeds = [GAME_VALIDATION + k for k in range(episodes)]
            played = games.play(task.game, seeds, None, forward, SHARP)
            found = {task.game: float(np.mean([episode.spec["metrics"]["success"] for episode in played]))}
        result |= found
        scores.append(np.mean(list(found.values())))
    return {**result, "score": float(np.mean(scores))}
