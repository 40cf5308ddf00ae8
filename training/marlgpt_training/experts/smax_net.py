"""The network of the learned SMAX expert: one set of weights for all units and any number of them.

It sees what a student sees: the frames that the encoder keeps. Each other unit becomes one token, as it was when it was
last in sight; tokens are embedded together with the observer, pooled, and give logits of the moves; every enemy's own
embedding gives the logit of attacking it. So nothing depends on how many units there are or in which order.

Everything is a pure JAX function of a dict of arrays.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.smax import ALLY, ENEMY, MOVES, OWN

UNIT = 48
"""Width of a unit's embedding."""
TRUNK = 96
"""Width of the observer's embedding and of the critic."""
MAP = 32.0
"""Edge of SMAX's map."""
SIGHT = np.array([9.0, 10.0, 10.0, 9.0, 8.0, 9.0], dtype=np.float32)
"""Sight ranges of the six unit types, by which relative positions are scaled."""
_ALLY, _ENEMY = len(ALLY) + 2, len(ENEMY) + 3
_CENTRAL = 14
VERSION = 1


def tokens(xp, frames, visible, mask, allies: int, enemies: int):
    """(own [..., 10], allies [..., n - 1, 15], enemies [..., m, 17], seen [..., n - 1], seen [..., m]).

    Args:
        xp: ``numpy`` or ``jax.numpy``.
        frames: float32[..., H, F] newest first.
        visible: bool[..., H, F].
        mask: bool[..., 20] legal moves.
        allies: n.
        enemies: m.
    """
    own = frames[..., 0, : len(OWN)]
    sight = own[..., 4:] @ SIGHT

    def group(first, count, width):
        stop = first + count * width
        part = frames[..., first:stop].reshape(*frames.shape[:-1], count, width)
        seen = visible[..., first:stop:width]
        newest = xp.argmax(seen, axis=-2)  # [..., count]
        there = xp.take_along_axis(part, newest[..., None, :, None], axis=-3)[..., 0, :, :]
        stood = xp.take_along_axis(frames[..., 1:3], newest[..., None], axis=-2)
        moved = (stood - own[..., None, 1:3]) * MAP  # of the observer since then
        relative = (there[..., 1:3] * sight[..., None, None] + moved) / 10
        distance = xp.sqrt((relative**2).sum(axis=-1, keepdims=True) + 1e-6)
        age = newest[..., None] / 4
        return xp.concatenate([there[..., :1], relative, there[..., 3:], distance, age], -1), seen.any(-2)

    friends, friends_seen = group(len(OWN), allies - 1, len(ALLY))
    foes, foes_seen = group(len(OWN) + (allies - 1) * len(ALLY), enemies, len(ENEMY))
    foes = xp.concatenate([foes, mask[..., MOVES : MOVES + enemies, None] * 1.0], axis=-1)
    own = xp.concatenate([own[..., :1], own[..., 1:3] * 2 - 1, own[..., 3:]], axis=-1)
    return own, friends, foes, friends_seen, foes_seen


def initial(seed: int) -> dict[str, np.ndarray]:
    """Random weights of policy (``p.``) and critic (``v.``)."""
    rng = np.random.default_rng(seed)
    own, pooled = len(OWN), 4 * UNIT
    shapes = {
        "p.ally": (_ALLY, UNIT), "p.ally_own": (own, UNIT), "p.ally2": (UNIT, UNIT),
        "p.enemy": (_ENEMY, UNIT), "p.enemy_own": (own, UNIT), "p.enemy2": (UNIT, UNIT),
        "p.trunk": (own + pooled, TRUNK), "p.trunk2": (TRUNK, TRUNK), "p.move": (TRUNK, MOVES),
        "p.attack": (UNIT, UNIT), "p.attack_own": (TRUNK, UNIT), "p.attack2": (UNIT, 1),
        "v.unit": (_CENTRAL, UNIT), "v.unit2": (UNIT, UNIT), "v.trunk": (pooled + 1, TRUNK),
        "v.trunk2": (TRUNK, TRUNK), "v.out": (TRUNK, 1),
    }  # fmt: skip
    weights = {}
    for name, (into, out) in shapes.items():
        scale = 0.05 if name in ("p.move", "p.attack2", "v.out") else np.sqrt(2.0)
        weights[name] = (rng.standard_normal((into, out)) * scale / np.sqrt(into)).astype(np.float32)
        weights[name + ".b"] = np.zeros(out, dtype=np.float32)
    return weights


def _layer(w, name, x):
    return x @ w[name] + w[name + ".b"]


def _pool(xp, units, seen):
    """Sum (over five, a usual number) and maximum over the units that are there."""
    units = xp.where(seen[..., None], units, 0.0)  # not negative: 0 never exceeds a maximum
    if units.shape[-2] == 0:
        return [xp.zeros((*units.shape[:-2], units.shape[-1]))] * 2
    return [units.sum(axis=-2) / 5, units.max(axis=-2)]


def logits(xp, w, seen, mask):
    """Logits [..., 5 + m] of the moves, -1e9 where not legal; ``seen`` from :func:`tokens`."""

    def relu(x):
        return xp.maximum(x, 0.0)

    own, friends, foes, friends_seen, foes_seen = seen
    friends = relu(_layer(w, "p.ally", friends) + (_layer(w, "p.ally_own", own))[..., None, :])
    friends = relu(_layer(w, "p.ally2", friends))
    foes = relu(_layer(w, "p.enemy", foes) + (_layer(w, "p.enemy_own", own))[..., None, :])
    foes = relu(_layer(w, "p.enemy2", foes))
    pooled = [own, *_pool(xp, friends, friends_seen), *_pool(xp, foes, foes_seen)]
    trunk = relu(_layer(w, "p.trunk", xp.concatenate(pooled, axis=-1)))
    trunk = relu(_layer(w, "p.trunk2", trunk))
    attack = relu(_layer(w, "p.attack", foes) + _layer(w, "p.attack_own", trunk)[..., None, :])
    attack = _layer(w, "p.attack2", attack)[..., 0]
    out = xp.concatenate([_layer(w, "p.move", trunk), attack], axis=-1)
    return xp.where(mask[..., : out.shape[-1]], out, -1e9)


def central(rules, game):
    """(units float32[n + m, 14], clock) of one game for the critic, which sees everything."""
    xp, state = rules.np, game["smax"].state
    kinds = state.unit_types
    one_hot = (kinds[:, None] == xp.arange(6)) * 1.0
    aims = (state.prev_attack_actions >= MOVES) * 1.0
    rows = [
        state.unit_health / rules.env.unit_type_health[kinds],
        state.unit_health / 100,
        state.unit_positions[:, 0] / MAP * 2 - 1,
        state.unit_positions[:, 1] / MAP * 2 - 1,
        xp.clip(state.unit_weapon_cooldowns / rules.env.unit_type_weapon_cooldowns[kinds], 0.0, 1.0),
        aims,
        state.unit_alive * 1.0,
        (xp.arange(len(kinds)) < rules.allies) * 1.0,
    ]
    units = xp.concatenate([xp.stack(rows, axis=1), one_hot], axis=1)
    return units * state.unit_alive[:, None], state.step / 100


def value(xp, w, units, clock, allies: int):
    """Expected return [...] of the team."""
    alive = units[..., 6] > 0
    units = xp.maximum(_layer(w, "v.unit", units), 0.0)
    units = xp.maximum(_layer(w, "v.unit2", units), 0.0)
    sides = [
        *_pool(xp, units[..., :allies, :], alive[..., :allies]),
        *_pool(xp, units[..., allies:, :], alive[..., allies:]),
        clock[..., None],
    ]
    trunk = xp.maximum(_layer(w, "v.trunk", xp.concatenate(sides, axis=-1)), 0.0)
    trunk = xp.maximum(_layer(w, "v.trunk2", trunk), 0.0)
    return _layer(w, "v.out", trunk)[..., 0]


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write ``arrays`` to ``path`` (.npz) in one go: a killed run leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, version=np.int64(VERSION), **arrays)
    temporary.replace(path)


LARGEST = 2**28
"""Bytes of all arrays of an expert."""


def load(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a file written by :func:`save`.

    Raises:
        ValueError: Not such a file, or one of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(entry.file_size for entry in file.zip.infolist())
            if size > LARGEST:
                raise ValueError(f"{size} bytes unpacked, at most {LARGEST} are read")
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # NumPy and zipfile raise many types for damaged files
        raise ValueError(f"{path}: not a SMAX expert ({error})") from error
    if not np.array_equal(arrays.pop("version", -1), VERSION):
        raise ValueError(f"{path}: a SMAX expert of another version; train it again with smax_ppo")
    return arrays
