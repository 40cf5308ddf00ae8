"""What the benchmarks share: scenes of robots, a plain NumPy encoder and a plain Python PIBT as baselines."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.pogema import _ORDER, MOVES, UNREACHABLE
from marlgpt_policy.encoders.token_layout import (
    BLOCKED,
    CLIP,
    FAR,
    MAX_ACTIONS,
    POGEMA_AGENTS,
    POGEMA_LAYOUT,
    WINDOW_RADIUS,
)
from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.grid_env import GridEnv

MODELS = Path(__file__).resolve().parents[1] / "ros2_ws/src/marlgpt_policy/models"


def options(description: str) -> argparse.Namespace:
    """Command line with ``--json OUT``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    return parser.parse_args()


def finish(args: argparse.Namespace, name: str, results: dict) -> None:
    """Say whether the machine was busy; write the results and its load where ``--json`` asks for it."""
    load = round(os.getloadavg()[0], 1)
    facts = {"cpus": os.cpu_count(), "machine": platform.machine(), "load": load}
    if load > 1.5:
        print(f"note: the machine was shared (load {load} on {os.cpu_count()} CPUs); idle, it is faster")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"benchmark": name, **facts, **results}, indent=2) + "\n")


def progress(text: str) -> None:
    """A status line on stderr that the next one overwrites on a terminal; an empty one clears it."""
    if sys.stderr.isatty():
        print(f"\r{text:<70}\r", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr)


def scene(robots: int, seed: int = 0) -> GridEnv:
    """Robots with goals and a full history in the free space of a random map, about a fifth of it taken."""
    side = max(20, round((robots * 6) ** 0.5))
    free = maps.generate("random", seed, low=side, high=side, density=0.15)
    env = GridEnv.sample(free, robots, True, seed)
    rng = np.random.default_rng(seed)
    for _ in range(6):
        env.step(rng.integers(0, 5, size=robots))
    return env


def timed(call, seconds: float, least: int = 3) -> np.ndarray:
    """Seconds [calls, 2] (wall, CPU of this process) of calls for ``seconds``, after one to warm up."""
    call()
    durations, started = [], time.perf_counter()
    while len(durations) < least or time.perf_counter() - started < seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        durations.append((time.perf_counter() - wall, time.process_time() - cpu))
    return np.array(durations)


def numpy_encode(fields, cells, goals, history, moves):
    """The POGEMA observation in vectorised plain NumPy: same result as ``pogema.encode``, no compilation."""
    n, (rows, cols) = len(cells), moves.shape[:2]
    values = np.zeros((n, len(POGEMA_LAYOUT)), dtype=np.float32)
    valid = np.zeros(values.shape, dtype=bool)
    span = np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    r, c = cells[:, 0, None, None] + span[None, :, None], cells[:, 1, None, None] + span[None, None, :]
    inside = (r >= 0) & (r < rows) & (c >= 0) & (c < cols)
    index = np.arange(n)
    cost = fields[index[:, None, None], r.clip(0, rows - 1), c.clip(0, cols - 1)]
    here = fields[index, cells[:, 0], cells[:, 1]][:, None, None]
    delta = cost - here
    window = np.where(np.abs(delta) > CLIP, FAR, delta / CLIP)
    window = np.where(inside & (cost < UNREACHABLE) & (here < UNREACHABLE), window, BLOCKED)
    values[:, :121], valid[:, :121] = window.reshape(n, -1), True

    occupant = np.full((rows, cols), -1)
    occupant[cells[:, 0], cells[:, 1]] = index
    near = cells[:, None] + _ORDER[None]
    inside = ((near >= 0) & (near < (rows, cols))).all(axis=2)
    who = np.where(inside, occupant[near[..., 0].clip(0, rows - 1), near[..., 1].clip(0, cols - 1)], -1)
    order = np.argsort(who < 0, axis=1, kind="stable")[:, :POGEMA_AGENTS]
    who = np.take_along_axis(who, order, axis=1)
    seen = who >= 0
    j = np.maximum(who, 0)
    block = np.zeros((n, POGEMA_AGENTS, 18), dtype=np.float32)
    known = np.repeat(seen[..., None], 18, axis=2)
    block[..., 0:2] = _ORDER[order] / WINDOW_RADIUS
    block[..., 2:4] = (goals[j] - cells[:, None]).clip(-CLIP, CLIP) / CLIP
    acted = history[j] >= 0
    walked = np.where(acted[..., None], MOVES[np.maximum(history[j], 0)], 0)
    block[..., 4:14] = walked.reshape(n, POGEMA_AGENTS, 10)
    known[..., 4:14] &= np.repeat(acted, 2, axis=2)
    step = cells[:, None] + MOVES[1:]
    beyond = fields[index[:, None], step[..., 0].clip(0, rows - 1), step[..., 1].clip(0, cols - 1)]
    edge = moves[cells[:, 0], cells[:, 1]]
    closer = edge[:, 1:] & (beyond < here[:, :, 0])
    block[..., 14:18] = closer[j]
    values[:, 121:-1] = np.where(known, block, 0).reshape(n, -1)
    valid[:, 121:-1] = known.reshape(n, -1)
    values[:, -1], valid[:, -1] = POGEMA_LAYOUT.environment_value, True
    mask = np.zeros((n, MAX_ACTIONS), dtype=bool)
    mask[:, :5] = edge
    return values, valid, mask


def python_pibt(cells, ranking, priority, moves):
    """PIBT over ranked moves in plain Python (recursive, dictionaries), as in textbooks; int8[n]."""
    at = {tuple(cell): i for i, cell in enumerate(cells.tolist())}
    places, wishes = cells.tolist(), ranking.tolist()
    chosen, taken = {}, {}

    def serve(i: int) -> bool:
        r, c = places[i]
        for move in wishes[i]:
            if move < 0 or not moves[r, c, move]:
                continue
            target = (r + int(MOVES[move, 0]), c + int(MOVES[move, 1]))
            if target in taken:
                continue
            j = at.get(target)
            if j is not None and j != i and taken.get((r, c)) == j:
                continue  # they would swap cells
            chosen[i], taken[target] = move, i
            if j is None or j == i or j in chosen or serve(j):
                return True
        chosen[i], taken[r, c] = 0, i
        return False

    for i in np.argsort(-priority, kind="stable").tolist():
        if i not in chosen:
            serve(i)
    return np.array([chosen[i] for i in range(len(places))], dtype=np.int8)
