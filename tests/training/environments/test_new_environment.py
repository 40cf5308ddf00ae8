"""docs/new-environment.md, as printed: its module and its package, then its commands with smaller numbers."""

import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from marlgpt_training.seeds import HELD_OUT
from places import ROOT

pytest.importorskip("mpe2", reason="mpe2 is not installed; docs/new-environment.md says how")

from marlgpt_policy.encoders import registry
from marlgpt_policy.encoders.token_layout import LayoutError
from marlgpt_policy.policy.onnx_policy import OnnxPolicy
from marlgpt_training import cli
from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.collection import job_pool as pool
from marlgpt_training.environments import base
from marlgpt_training.store.shards import read_shard, shards

PAGE = ROOT / "docs" / "new-environment.md"
SMALLER = {"--shards": "2", "--episodes": "6", "--steps": "40"}
ALSO = {
    "collect": "--workers 1",
    "train": "--batch 32 --dagger-workers 0 --evaluate-every 40 --evaluate-episodes 2 --device cpu --precision fp32",
    "evaluate": "--workers 1 --episodes 8 --json out/evaluation.json",
    "export": "--observations 500",
}


def blocks(language):
    """The page's blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def commands():
    """Arguments of every marlgpt command on the page, in order."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", "").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/marlgpt ")]


def smaller(command):
    """The command with small numbers."""
    found = [SMALLER.get(before, word) for before, word in zip(["", *command], command, strict=False)]
    return found + ALSO[command[0]].split()


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """The page's package, installed: its module and the entry points of its pyproject.toml are found."""
    folder = tmp_path_factory.mktemp("site")
    for language in ("python", "toml"):
        for block in blocks(language):
            (folder / block.split("\n", 1)[0].removeprefix("# ")).write_text(block)
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    name, version = project["project"]["name"], project["project"]["version"]
    installed = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = project["project"]["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module(project["tool"]["setuptools"]["py-modules"][0])
    registry.encoders.cache_clear()


def test_the_game_is_found_by_its_name(spread):
    assert registry.layout_named("spread-3-1") is registry.layout_of("spread/3") is spread.encoder("3").layout
    assert (
        games.experts_of("spread/3") == ("assign", "random") and games.default_expert("spread/3") == "assign"
    )
    with pytest.raises(ValueError, match="spread/7: choose 2 to 6"):
        base.make("spread", "7")
    for name in ("spread-3-2", "spread-7-1", "spread-1"):
        with pytest.raises(LayoutError, match=rf"unknown token layout '{name}'.*spread-\.\.\."):
            registry.layout_named(name)
    with pytest.raises(ValueError, match="unknown game 'chess'.*spread"):
        base.make("chess", "8")


@pytest.mark.parametrize("scenario", ["2", "3", "6"])
def test_the_module_keeps_the_pages_rules(spread, scenario):
    assert all(len(line) <= 110 for block in blocks("python") for line in block.splitlines())
    seen = []
    with base.make("spread", scenario) as env:
        for seed in (5, 5, 6):
            recording = games.Recording(env, seed, "random")
            player = games.RandomPlayer(0)
            while not recording.advance(moves := recording.ask(player), moves):
                pass
            episode = recording.episode()
            episode.check()
            seen.append(episode.frames)
            assert np.abs(episode.frames).max() <= 1 and episode.rewards.sum(axis=0).max() <= 2
            assert (episode.masks.sum(axis=2) == 5).all()
        assert seen[0].shape == seen[1].shape and (seen[0] == seen[1]).all()
        assert not (seen[0][0] == seen[2][0]).all()
        env.reset(0)
        with pytest.raises(ValueError, match="choose 0 to 4"):
            env.step(np.full(env.agents, 5))


def test_the_expert_covers_the_landmarks_that_chance_does_not(spread):
    won = {}
    for name in ("assign", "random"):
        played = games.play("spread/3", list(range(20)), games.expert("spread", name))
        won[name] = np.mean([games.won(episode) for episode in played])
        if name == "assign":
            assert all(episode.ended and episode.rewards.sum(axis=0).max() > 1.99 for episode in played)
    assert won["assign"] == 1 and won["random"] < 0.3


def test_the_pages_commands(spread, tmp_path, monkeypatch, capsys):
    """From the expert's episodes to a policy file that plays."""
    monkeypatch.chdir(tmp_path)
    steps = {command[0]: smaller(command) for command in commands()}
    assert list(steps) == ["collect", "train", "evaluate", "export"]
    assert cli.main(steps["collect"]) == 0, (
        capsys.readouterr()
    )  # in a process of its own, which finds the game too
    found = [read_shard(path) for path in shards("out/spread")]
    assert [len(episodes) for episodes in found] == [6, 6]
    assert {episode.layout for episodes in found for episode in episodes} == {"spread-3-1"}
    # The rest in this process: every new one would import PyTorch first.
    monkeypatch.setattr(pool, "run", lambda function, jobs, *_: ((job, function(job)) for job in jobs))
    for name in ("train", "evaluate", "export"):
        assert cli.main(steps[name]) == 0, capsys.readouterr()
    report = json.loads(Path("out/evaluation.json").read_text())["policies"]
    assert list(report) == ["best sampled T=0.2", "assign", "random"]
    assert report["assign"]["success"] == 1 and all(entry["episodes"] == 8 for entry in report.values())
    policy = OnnxPolicy("out/spread.onnx", spread.encoder("3").layout)
    with base.make("spread", "3") as env:
        history, observation, over = base.History(env.encoder, env.agents), env.reset(HELD_OUT), False
        while not over:
            moves = policy(*history.add(observation)).logits.argmax(axis=1)
            observation, step = env.step(moves)
            over = step.over
        assert 0 < env.metrics()["steps"] <= 50
