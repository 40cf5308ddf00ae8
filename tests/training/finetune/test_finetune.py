"""Fine-tuning on imported episodes: the real command with a tiny budget, sites, replay data, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_training.environments.grid_env import edges
from marlgpt_training.experts.lns import LnsExpert
from marlgpt_training.finetune import finetune, tuning_data, tuning_evaluation
from marlgpt_training.finetune.recorded_site import Site, SiteEnv, sites_of, throughput
from marlgpt_training.finetune.tuning_evaluation import Budget, Job, Notes
from marlgpt_training.model.checkpoint import load_checkpoint, save_checkpoint
from marlgpt_training.model.model import MarlGpt, ModelConfig
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.shards import StoreError, read_shard, shards, write_shard

FREE = np.ones((4, 6), dtype=bool)
FREE[1, 1:5] = FREE[2, 1:5] = False
"""A ring of one cell's width: rows 0 and 3 are joined by columns 0 and 5."""


def one_way():
    """The ring's moves, but nobody drives left in row 0."""
    moves = edges(FREE)
    moves[0, 1:, 3] = False
    return moves


def ring_episode(steps=60, agents=3, seed=1):
    """Agents that keep to the rule between goals in the corners' columns."""
    from marlgpt_policy.grid.cost_to_go import CostToGo

    moves = one_way()
    places = np.array([(r, c) for c in (0, 5) for r in range(4)])
    site = Site(edges(FREE), places, agents, np.zeros((*FREE.shape, 5), int))
    env, costs, own = SiteEnv(site, agents, seed), CostToGo(moves), np.arange(agents)
    expert = LnsExpert(moves, agents, window=12, seed=seed)
    starts, events = env.cells.copy(), [(0, i, *env.goals[i]) for i in range(agents)]
    actions, rewards = [], []
    for step in range(1, steps + 1):
        before = env.goals
        actions.append(env.step(expert.act(env.cells, env.goals, costs.fields(env.goals), own)))
        rewards.append(env.arrived)
        events += [(step, i, *env.goals[i]) for i in np.flatnonzero((env.goals != before).any(axis=1))]
    actions = np.array(actions)
    return Episode(
        FREE, starts.astype(np.int16), np.array(events, np.int16), actions, actions, np.array(rewards, np.float16),
        False, "bag", "ring", seed, {"lifelong": True},
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    write_shard(folder / "a.parquet", [ring_episode(seed=s) for s in (1, 2)])
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "start.safetensors"
    model = MarlGpt(ModelConfig(width=16, heads=2, shared=1, reading="entity"), [POGEMA_LAYOUT])
    save_checkpoint(path, model, [POGEMA_LAYOUT], {"step": 5, "samples": 10})
    return path


@pytest.fixture(scope="module")
def tiny(store, checkpoint):
    """The least that the command does."""
    return finetune.Args(
        store=[str(store)], checkpoint=checkpoint, original_shards=1, original_episodes=1, steps=6, batch=32,
        evaluate=Budget(driven=0, grid=2, family=2, steps=8, agents=8), device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """The command, stopped after two steps and run again."""
    args = dataclasses.replace(tiny, out=tmp_path_factory.mktemp("tuned"), dagger=1)
    assert finetune.main(dataclasses.replace(args, minutes=0)) == finetune.STOPPED
    assert not (args.out / "policy.onnx").exists()
    assert finetune.main(args) == 0
    return args


def test_the_site_is_what_was_recorded(store):
    (site,) = sites_of([store])
    assert (site.moves == edges(FREE)).all() and site.agents == 3
    assert set(site.places[:, 1].tolist()) <= {0, 5}
    assert site.made.sum() == 2 * 60 * 3


def test_the_rules_that_robots_kept_are_read_off_their_moves(store):
    (site,) = sites_of([store])
    kept = site.kept()
    assert not kept[0, 2:, 3].any() and kept[0, 1:4, 4].all() and kept[3, 2:5, 3].all()
    nothing = dataclasses.replace(site, made=np.zeros_like(site.made))
    assert (nothing.kept() == site.moves).all(), "moves that lead nowhere are no rule"


def test_an_empty_store_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"no readable episode.*import-bag"):
        sites_of([tmp_path])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"torn\.parquet"):
        sites_of([tmp_path])


def test_goals_and_starts_lie_at_the_sites_places(store):
    (site,) = sites_of([store])
    env = SiteEnv(site, 3, 7)
    places = {tuple(p) for p in site.places.tolist()}
    for _ in range(30):
        assert {tuple(g) for g in env.goals.tolist()} <= places
        env.step(np.zeros(3, np.int8))
    assert len(SiteEnv(site, 500, 0).cells) == len(site.places) - 1


def test_the_search_does_better_than_nothing(store):
    (site,) = sites_of([store])
    assert throughput(None, site, 3, 40) > 0.1
    assert throughput(None, site, 3, 40) == throughput(None, site, 3, 40)


def test_the_command_trains_resumes_evaluates_and_exports(finished):
    out = finished.out
    summary = json.loads((out / "summary.json").read_text())
    assert {"grid", "forgetting", "random", "maze", "warehouse", "rooms"} <= summary.keys()
    assert summary["grid"]["runs"] == 2 and summary["forgetting"]["runs"] == 8
    assert len(summary["grid"]["search"]) == 2 and "driven" not in summary
    policy = OnnxPolicy(out / "policy.onnx", POGEMA_LAYOUT, ("CPUExecutionProvider",), 1)
    facts = json.loads(policy.metadata["metrics"])
    assert facts["fine_tuned_from"] == "start.safetensors" and facts["evaluation"]["grid"]["runs"] == 2
    assert "fine-tuned from start.safetensors: 192 samples" in policy.metadata["training"]
    before, after = (
        load_checkpoint(path, POGEMA_LAYOUT)[0].state_dict()
        for path in (finished.checkpoint, out / "final.safetensors")
    )
    assert any((before[name] != after[name]).any() for name in before)
    assert len(shards(out / "original")) == 1 and len(shards(out / "run/dagger")) == 1


def test_what_was_played_is_not_played_again(finished, monkeypatch):
    monkeypatch.setattr(tuning_evaluation, "work", lambda task: pytest.fail("played again"))
    assert finetune.main(finished) == 0


def test_another_run_in_the_same_folder_is_refused(finished):
    with pytest.raises(ValueError, match=r"holds a run that differs in steps, batch"):
        finetune.main(dataclasses.replace(finished, steps=7, batch=64))


def test_data_aggregation_labels_by_the_rule(store):
    (site,) = sites_of([store])
    uniform = lambda values, valid, mask: np.where(mask, 0.0, -1e9).astype(np.float32)  # noqa: E731
    episode = tuning_data.site_episode(site, uniform, 3, 20, 5)
    assert episode.labels.shape == (20, 3) and (episode.labels >= 0).all()
    again = tuning_data.site_episode(site, uniform, 3, 20, 5)
    assert (again.labels == episode.labels).all() and (again.actions == episode.actions).all()


def test_replay_episodes_are_of_the_original_kind(tmp_path):
    tuning_data.original_shard((tmp_path / "o.parquet", 3, 2, 8, None))
    episodes = read_shard(tmp_path / "o.parquet")
    assert len(episodes) == 2 and all(e.source == "lns" for e in episodes)
    assert all(len(e.starts) <= tuning_data.MOST_AGENTS for e in episodes)
    assert {e.scenario for e in episodes} <= {"random", "maze", "warehouse", "rooms"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"steps": 0}, "--steps 0"),
        ({"original_share": 1.0}, "--original-share 1.0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"store": []}, "mixture is empty"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_impossible_options_are_named(tiny, tmp_path, change, reason):
    with pytest.raises(ValueError, match=reason):
        finetune.main(dataclasses.replace(tiny, out=tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_the_mixture_has_the_wanted_shares(tiny, share):
    args = dataclasses.replace(tiny, store=["x=3", "y=1"], original_share=share)
    weights = {entry.split("=")[0]: float(entry.split("=")[1]) for entry in finetune.mixture(args, ["o"])}
    assert weights["x"] == pytest.approx(0.75 * (1 - share), abs=1e-5)
    assert weights.get("o", 0.0) == pytest.approx(share, abs=1e-5)


def test_reports_pair_the_seeds_and_forgive_torn_notes(tmp_path):
    old, new = tmp_path / "old.onnx", tmp_path / "new.onnx"
    found = {}
    for seed in range(6):
        found[Job("driven", old, seed)] = [10.0 + seed, 0]
        found[Job("driven", new, seed)] = [2 * (10.0 + seed), 1]
    report = tuning_evaluation.summarise(found, old, new)
    assert report["driven"]["ratio"] == pytest.approx([2.0, 2.0, 2.0])
    assert report["contacts"] == {"before": 0, "after": 6}
    assert "| 12.5" in tuning_evaluation.lines(report)[2]
    notes = Notes(tmp_path / "notes.jsonl")
    notes.add("a", [1.0])
    with open(tmp_path / "notes.jsonl", "a") as file:
        file.write('{"key": "b", "val')
    assert Notes(tmp_path / "notes.jsonl").known == {"a": [1.0]}
