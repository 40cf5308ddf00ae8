"""POGEMA behind the games' interface: the robots' own observation, the replay's rewards, pogema's own metrics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders import pogema as encoder
from marlgpt_policy.grid.cost_to_go import CostToGo
from marlgpt_policy.grid.moves import HISTORY
from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.dataloader.episode_unrolling import UnrolledEpisode
from marlgpt_training.environments import map_families as maps
from marlgpt_training.environments.base import History, MissingExtra, NoSnapshot, make
from marlgpt_training.environments.grid_env import edges
from marlgpt_training.environments.pogema import Pogema, free_cells, parse
from marlgpt_training.evaluation.episode import environment, positions
from marlgpt_training.evaluation.instances import Instance
from marlgpt_training.evaluation.map_files import GridMap
from marlgpt_training.seeds import HELD_OUT
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.shards import encode_shard

try:
    make("pogema", "random_1")
except MissingExtra as error:
    pytest.skip(f"{error}", allow_module_level=True)


def play(env, seed, player):
    """(seen, moves, steps) of one episode."""
    seen, moves, steps = [env.reset(seed)], [], []
    while not steps or not steps[-1].over:
        moves.append(player.act(env, seen[-1]))
        observation, step = env.step(moves[-1])
        seen.append(observation)
        steps.append(step)
    return seen, moves, steps


@pytest.mark.parametrize("scenario", ["random_12", "maze_12_oneshot"])
def test_history_gives_what_the_encoder_gives(scenario):
    """Bit for bit over an episode of random moves, against pogema as evaluations set it up."""
    env = Pogema(scenario, steps=60)
    observation = env.reset(7)
    history = History(env.encoder, env.agents)
    world = environment(Instance(GridMap("same", env.free), env.agents, 7, env.lifelong, 60, 14))
    cells, goals = positions(world.reset()[0])
    moves = edges(env.free)
    costs, past = CostToGo(moves, capacity=4096), np.full((env.agents, HISTORY), -1, dtype=np.int8)
    player, changed = games.RandomPlayer(0), 0
    for _ in range(60):
        found = history.add(observation)
        expected = encoder.encode(costs.fields(goals), cells, goals, past, moves)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype and (ours == theirs).all()
        action = player.act(env, observation)
        observation, step = env.step(action)
        before, aims = cells, goals
        seen, _, _, truncated, info = world.step(action.tolist())
        cells, goals = positions(seen)
        changed += int((aims != goals).any(axis=1).sum())
        done = [int(np.flatnonzero((encoder.MOVES == move).all(axis=1))[0]) for move in cells - before]
        past = np.concatenate([np.array(done, dtype=np.int8)[:, None], past[:, :-1]], axis=1)
        assert step.over == all(truncated)
    assert step.cut and not step.ended
    metrics, theirs = env.metrics(), info[0]["metrics"]
    if env.lifelong:
        assert changed > 0 and metrics["throughput"] == pytest.approx(theirs["avg_throughput"])
    else:
        assert (metrics["ISR"], metrics["success"]) == pytest.approx((theirs["ISR"], theirs["CSR"]))


@pytest.mark.parametrize("scenario", ["random_10", "random_10_oneshot", "maze_6_oneshot"])
def test_rewards_are_the_replays(scenario):
    env = Pogema(scenario, steps=80)
    player = games.expert("pogema", "lns")
    observation = env.reset(11)
    starts, events, actions, steps = env.cells.copy(), [(0, i, *g) for i, g in enumerate(env.goals)], [], []
    while not steps or not steps[-1].over:
        before, goals = env.cells, env.goals
        observation, step = env.step(player.act(env, observation))
        steps.append(step)
        actions.append(env.history[:, 0].copy())
        assert (env.cells - before == encoder.MOVES[actions[-1]]).all()
        events += [(len(steps), i, *env.goals[i]) for i in np.flatnonzero((env.goals != goals).any(axis=1))]
    arrived = np.array([step.rewards for step in steps]) > 0
    episode = Episode(
        env.free, starts, np.array(events), np.array(actions), np.array(actions), arrived, steps[-1].ended,
        "lns", scenario, 11, {"lifelong": env.lifelong},
    )  # fmt: skip
    rewards = np.array([step.rewards for step in steps])
    assert rewards == pytest.approx(UnrolledEpisode(episode).rewards(0.95))
    assert steps[-1].ended == (not env.lifelong) and steps[-1].cut == env.lifelong
    if not env.lifelong:
        worth = (0.95 ** np.arange(len(steps)) @ rewards).max()
        assert env.metrics() == {"success": 1.0, "ISR": 1.0, "steps": len(steps)} and 0 < worth <= 1 + 1e-6


def test_equal_seeds_are_equal_episodes():
    one, two = (play(Pogema("warehouse_8", steps=20), 3, games.RandomPlayer(5)) for _ in range(2))
    assert all((a.features == b.features).all() for a, b in zip(one[0], two[0], strict=True))
    assert (one[1][0] == two[1][0]).all()
    env = Pogema("random_8")
    seen = [env.reset(seed).features for seed in (1, 2, 1)]
    assert (seen[0] == seen[2]).all() and not (seen[0] == seen[1]).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(maps.FAMILIES), st.integers(1, 9999), st.booleans())
def test_scenarios_are_read_back(family, agents, lifelong):
    assert parse(f"{family}_{agents}{'' if lifelong else '_oneshot'}") == (family, agents, lifelong)


@pytest.mark.parametrize(
    "name", ["random", "random_0", "random_x", "city_4", "random_4_twoshot", "random_04", ""]
)
def test_other_scenarios_are_refused(name):
    with pytest.raises(ValueError, match="unknown POGEMA scenario .* random_32"):
        make("pogema", name)


def test_maps_of_a_seed_stay_in_their_block(monkeypatch):
    """Training never draws a map of an evaluation in search of room, nor the other way round."""
    drawn = []
    real = maps.generate
    monkeypatch.setattr(maps, "generate", lambda family, seed: drawn.append(seed) or real(family, seed))
    for seed in (HELD_OUT - 1, HELD_OUT + 5):
        drawn.clear()
        with pytest.raises(ValueError, match="none of 200 generated 'maze' maps has room for 900 agents"):
            free_cells("maze", 900, seed)
        assert len(set(drawn)) == 200 and drawn[0] == seed
        assert {one // HELD_OUT for one in drawn} == {seed // HELD_OUT}


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="steps 0"):
        Pogema("random_4", steps=0)
    env = Pogema("random_4", steps=1)
    masks = (env.reset(seed).action_mask for seed in range(50))
    mask = next(mask for mask in masks if not mask[:, :5].all())
    agent = int(np.argmin(mask[:, :5].all(axis=1)))
    into_wall = np.zeros(4, dtype=int)
    into_wall[agent] = np.argmin(mask[agent, :5])
    with pytest.raises(ValueError, match=f"agent {agent}: move {into_wall[agent]} is not in its action mask"):
        env.step(into_wall)
    for actions in (np.zeros(3), np.full(4, 5), np.full(4, -1)):
        with pytest.raises(ValueError, match="4 numbers in 0..4 are needed"):
            env.step(actions)
    assert env.step(np.zeros(4))[1].cut
    with pytest.raises(ValueError, match="over"):
        env.step(np.zeros(4))
    with pytest.raises(NoSnapshot):
        env.snapshot()


def test_a_student_plays_but_no_frames_are_stored(small_model):
    """What a student sees in games.play is what it was trained on; the store keeps POGEMA as maps and moves."""
    from marlgpt_training.model.checkpoint import torch_forward

    forward = torch_forward(small_model())
    played = games.play("pogema/random_6_oneshot", [1, 2], games.expert("pogema", "pibt"), forward, 0.5)
    assert {episode.source for episode in played} == {"student"}
    assert all(episode.labels.min() >= 0 and 0 <= episode.spec["metrics"]["ISR"] <= 1 for episode in played)
    with pytest.raises(ValueError, match="kept as maps and moves: collect them as game 'pogema'"):
        encode_shard(played)
