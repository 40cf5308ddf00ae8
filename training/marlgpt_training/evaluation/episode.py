"""One episode in the real ``pogema`` package and what it measured."""

from __future__ import annotations

import time

import numpy as np
from marlgpt_policy.policy.onnx_policy import OnnxPolicy

from marlgpt_training.environments.grid_env import edges
from marlgpt_training.environments.pogema_package import import_pogema
from marlgpt_training.evaluation.instances import Instance
from marlgpt_training.evaluation.map_files import GridMap
from marlgpt_training.evaluation.players import BASELINES, Contestant, Player, load

RADIUS = 5
"""Observation radius in cells; pogema's density metric counts agents inside it."""


def environment(instance: Instance):
    """The environment of ``instance`` with pogema's own metrics, density and runtime included."""
    pogema = import_pogema()
    from pogema.wrappers.metrics import AgentsDensityWrapper, RuntimeMetricWrapper

    world = instance.map
    placed = {}
    if world.agents:
        used = world.agents[: instance.agents]
        placed = {"agents_xy": [list(a) for a, _ in used], "targets_xy": [list(b) for _, b in used]}
    elif world.starts is not None:
        placed = {"possible_agents_xy": list(world.starts), "possible_targets_xy": list(world.goals)}
    config = pogema.GridConfig(
        map=(~world.free).astype(int).tolist(), num_agents=instance.agents, seed=instance.seed,
        max_episode_steps=instance.steps, obs_radius=RADIUS, collision_system="soft",
        on_target="restart" if instance.lifelong else "nothing", observation_type="MAPF", **placed,
    )  # fmt: skip
    return RuntimeMetricWrapper(AgentsDensityWrapper(pogema.pogema_v0(config)))


def play(contestant: Contestant, policy: OnnxPolicy | None, instance: Instance) -> dict[str, float]:
    """Play ``instance`` to its end.

    Returns:
        pogema's own metrics (``avg_throughput`` or ``CSR``, ``ISR``, ``SoC``, ``makespan``, ``ep_length``, and
        ``avg_agents_density``, ``runtime`` in s) and

        - ``steps``: steps played,
        - ``decision_ms``: mean time of a joint decision,
        - ``agent_collisions``, ``wall_collisions``: moves that the environment refused,
        - ``coordination``: 1 - refused moves / (agents * steps),
        - ``rescued``: share of the agents' moves that a plan for stuck robots proposed instead of the policy (behind
          the shield only),
        - ``congestion``: density of agents on the map / mean density in the agents' observations,
        - ``shortest`` (one-shot): sum of all agents' shortest paths in steps, a lower bound of SoC.
    """
    env = environment(instance)
    observed, _ = env.reset()
    moves = edges(instance.map.free)
    player = Player(
        contestant, policy, moves, instance.agents, instance.lifelong, instance.window, instance.seed
    )
    refused_by = {"agent_collisions": 0, "wall_collisions": 0}
    cells, goals = positions(observed)
    first = player.costs.fields(goals)[np.arange(len(cells)), cells[:, 0], cells[:, 1]]
    spent, steps, finished = 0.0, 0, False
    while not finished:
        started = time.perf_counter()
        action = player.act(cells, goals)
        spent += time.perf_counter() - started
        before = cells
        observed, _, terminated, truncated, info = env.step([int(a) for a in action])
        cells, goals = positions(observed)
        refused = (action != 0) & (cells == before).all(axis=1)
        into_wall = refused & ~moves[before[:, 0], before[:, 1], action]
        refused_by["wall_collisions"] += int(into_wall.sum())
        refused_by["agent_collisions"] += int((refused & ~into_wall).sum())
        finished = all(terminated) or all(truncated)
        steps += 1
    metrics = {key: float(value) for key, value in info[0]["metrics"].items()}
    density = instance.agents / instance.map.free.sum()
    metrics |= refused_by | {
        "steps": steps,
        "decision_ms": spent / steps * 1e3,
        "coordination": 1 - sum(refused_by.values()) / (instance.agents * steps),
        "rescued": player.planned / (instance.agents * steps),
        "congestion": float(density / metrics["avg_agents_density"]),
    }
    if not instance.lifelong:
        metrics["shortest"] = int(first.sum())
    return metrics


def positions(observed: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Cells and goals of all agents, int[n, 2] each, without pogema's border."""
    cells = np.array([o["global_xy"] for o in observed]) - RADIUS
    goals = np.array([o["global_target_xy"] for o in observed]) - RADIUS
    return cells, goals


_POLICIES: dict[str, OnnxPolicy | None] = {}


def play_in_worker(job: tuple[Contestant, Instance]) -> dict[str, float]:
    """``play`` in a worker process, which keeps its loaded policies.

    The first episode of a policy in a process is preceded by a tiny one, so that neither compilation nor
    loading counts as decision time.
    """
    contestant, instance = job
    name = contestant.name
    if name not in _POLICIES:
        _POLICIES[name] = None if name in BASELINES else load(name)
        tiny = GridMap("warm-up", np.ones((8, 8), dtype=bool))
        for shield in (True, False):
            who = Contestant(name, shield, contestant.sample, contestant.temperature)
            for lifelong in (True, False):
                play(who, _POLICIES[name], Instance(tiny, 2, 0, lifelong, 3, instance.window))
    try:
        return play(contestant, _POLICIES[name], instance)
    except (OverflowError, AssertionError) as error:
        raise ValueError(
            f"map '{instance.map.name}' with {instance.agents} agents: pogema cannot place them ({error})"
        ) from error
