"""The decoder against a tokeniser of the test's own, and thereby against our encoder.

The tokeniser is written from the description of the format, with its own shortest paths, and shares no code with the
decoder or with our encoder. The decoder was also compared once with the public generator of MAPF-GPT (commit f771c3b,
its two compiled parts replaced by Python): 1,404 observations of 30 random worlds, all equal to our encoder's.
"""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders import pogema
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_training.dataloader.samples import compress
from marlgpt_training.environments.grid_env import edges
from marlgpt_training.published.mapf_gpt_tokens import DataFormatError, decode_tokens

VOCABULARY = {
    token: n
    for n, token in enumerate(
        [
            *range(-20, 21),
            -80,
            -40,
            40,
            "n",
            "w",
            "u",
            "d",
            "l",
            "r",
            *(format(i, "04b") for i in range(16)),
            "!",
        ]
    )
}
STEPS = {"u": (-1, 0), "d": (1, 0), "l": (0, -1), "r": (0, 1)}


def distances(free, goal):
    """Path lengths to ``goal`` by cell; unreachable cells are missing."""
    found, queue = {goal: 0}, deque([goal])
    while queue:
        r, c = queue.popleft()
        for dr, dc in STEPS.values():
            near = (r + dr, c + dc)
            if (
                0 <= near[0] < free.shape[0]
                and 0 <= near[1] < free.shape[1]
                and free[near]
                and near not in found
            ):
                found[near] = found[r, c] + 1
                queue.append(near)
    return found


def tokenise(free, cells, goals, history, observer):
    """The 256 tokens of one observer; ``history`` a string of moves per agent, oldest first."""
    r, c = cells[observer]
    costs = distances(free, goals[observer])
    words = []
    for row in range(r - 5, r + 6):
        for col in range(c - 5, c + 6):
            delta = costs[row, col] - costs[r, c] if (row, col) in costs else -80
            words.append(delta if -20 <= delta <= 20 or delta == -80 else 40 if delta > 0 else -40)
    from_here = distances(free, (r, c))
    near = [j for j, (row, col) in enumerate(cells) if abs(row - r) <= 5 and abs(col - c) <= 5]
    near = sorted((from_here[cells[j]], j) for j in near if cells[j] in from_here)
    for _, j in near[:13]:
        words += [cells[j][0] - r, cells[j][1] - c]
        words += [max(-20, min(20, goals[j][axis] - (r, c)[axis])) for axis in (0, 1)]
        words += list(history[j].rjust(5, "n")[-5:])
        theirs = distances(free, goals[j])
        row, col = cells[j]
        words.append(
            "".join(
                str(int(theirs.get((row + dr, col + dc), 10**9) < theirs[cells[j]]))
                for dr, dc in STEPS.values()
            )
        )
    words += ["!"] * (256 - len(words))
    return [VOCABULARY[word] for word in words]


def world(rng, size, density, agents):
    """(free, cells, goals, histories) with everything in one connected piece."""
    free = rng.random((size, size)) > density
    free[size // 2, size // 2] = True
    piece = sorted(distances(free, (size // 2, size // 2)))
    agents = min(agents, len(piece))
    cells = [piece[k] for k in rng.permutation(len(piece))[:agents]]
    goals = [piece[k] for k in rng.integers(len(piece), size=agents)]
    histories = ["".join(rng.choice(list("wudlr"), rng.integers(0, 7))) for _ in range(agents)]
    return free, cells, goals, histories


def ours(free, cells, goals, histories):
    """The same world by our encoder: packed values and masks."""
    moves = edges(free)
    history = np.full((len(cells), 5), -1, dtype=np.int8)
    for j, past in enumerate(histories):
        newest = ["wudlr".index(move) for move in reversed(past)][:5]
        history[j, : len(newest)] = newest
    fields = CostToGo(moves, capacity=64).fields(np.array(goals))
    values, valid, masks = pogema.encode(fields, np.array(cells), np.array(goals), history, moves)
    return compress(values, valid), masks


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(3, 30), st.floats(0, 0.45), st.integers(1, 13))
def test_same_world_same_values(seed, size, density, agents):
    free, cells, goals, histories = world(np.random.default_rng(seed), size, density, agents)
    tokens = np.array([tokenise(free, cells, goals, histories, i) for i in range(len(cells))], dtype=np.int8)
    packed, masks = decode_tokens(tokens)
    expected, allowed = ours(free, cells, goals, histories)
    assert np.array_equal(packed, expected)
    assert np.array_equal(masks, allowed)


def test_far_and_blocked_cells():
    free = np.ones((11, 11), dtype=bool)
    free[1::4, :-1] = free[3::4, 1:] = False  # a path that winds from the top left to the bottom left corner
    cells, goals = [(0, 0), (10, 0), (4, 5)], [(10, 0), (0, 0), (0, 0)]
    tokens = np.array([tokenise(free, cells, goals, ["", "w", "uuddlr"], i) for i in range(3)])
    assert {41, 42, 43} <= set(tokens.ravel().tolist())
    assert np.array_equal(decode_tokens(tokens)[0], ours(free, cells, goals, ["", "w", "uuddlr"])[0])


def test_crowds_keep_thirteen():
    rng = np.random.default_rng(0)
    free, cells, goals, histories = world(rng, 9, 0.0, 60)
    tokens = np.array([tokenise(free, cells, goals, histories, i) for i in range(len(cells))])
    packed, _ = decode_tokens(tokens)
    expected, _ = ours(free, cells, goals, histories)
    # On an empty map paths are Manhattan distances: the two agree but for ties of the farthest kept.
    assert np.array_equal(packed[:, :121], expected[:, :121])
    agents = packed[:, 121:-1].reshape(len(cells), 13, 18)
    place = agents[:, :, :2].astype(int) // 4
    far = np.abs(place).sum(axis=2)
    assert (np.diff(far, axis=1) >= 0).all() and (far[:, 0] == 0).all()
    assert np.array_equal(
        far, np.abs(expected[:, 121:-1].reshape(far.shape + (18,))[:, :, :2] // 4).sum(axis=2)
    )


@pytest.fixture
def tokens():
    """Forty observations."""
    free, cells, goals, histories = world(np.random.default_rng(3), 12, 0.3, 40)
    return np.array([tokenise(free, cells, goals, histories, i) for i in range(40)], dtype=np.int8)


@pytest.mark.parametrize(
    "place, token, reason",
    [
        (3, 44, r"token 44 at place 3; expected a cost-to-go"),
        (60, 21, r"token 21 at place 60; expected the cost-to-go of the own cell"),
        (121, 21, r"token 21 at place 121; expected the observer at \(0, 0\)"),
        (122, 66, r"token 66 at place 122; expected a position"),
        (131, 26, r"token 26 at place 131; expected a position within 5"),
        (123, 41, r"token 41 at place 123; expected a goal within 20"),
        (127, 50, r"token 50 at place 127; expected a move"),
        (130, 49, r"token 49 at place 130; expected a set of moves"),
        (255, 0, r"token 0 at place 255; expected padding"),
        (17, 67, r"token 67 at place 17; tokens are 0..66"),
        (17, -1, r"token -1 at place 17; tokens are 0..66"),
    ],
)
def test_refuses_tokens_out_of_place(tokens, place, token, reason):
    tokens[7, place] = token
    with pytest.raises(DataFormatError, match=f"observation 7: {reason}"):
        decode_tokens(tokens)


def test_refuses_other_lengths():
    with pytest.raises(DataFormatError, match=r"\(2, 128\), expected \(n, 256\)"):
        decode_tokens(np.zeros((2, 128)))
