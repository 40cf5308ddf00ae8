"""The interface of all games: made by name, one line when a package is missing, histories newest first."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders import registry
from marlgpt_policy.encoders.frames import FrameEncoder, Slot
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT, LayoutError
from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.environments import base
from marlgpt_training.environments.base import Environment, History, NoSnapshot, Observation, Step

SCENARIOS = {
    "smax": ("5v5", "jaxmarl"),
    "grf": ("pass_and_shoot", "gfootball"),
    "smacv2": ("terran_5v5", "smacv2"),
    "pogema": ("random_8", "pogema"),
}
WITHOUT = """
import importlib.abc, json, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"jaxmarl", "gfootball", "smacv2", "pogema"}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Blocker())
from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.environments import base
found = {}
for game, (scenario, _) in json.loads(sys.argv[1]).items():
    try:
        base.make(game, scenario)
    except base.MissingExtra as error:
        found[game] = [str(error), games.experts_of(game)]
print(json.dumps(found))
"""


class Counting(Environment):
    """A game of two agents that only counts."""

    game = "counting"
    scenario = "up"
    agents = 2
    encoder = FrameEncoder("counting-1", 4, 2, [Slot(0, 1, 0, 0)], 3)
    closed = False

    def reset(self, seed):
        self.count = seed
        return self.observe()

    def observe(self):
        features = np.full((2, 1), self.count, dtype=np.float32)
        mask = np.arange(20) < np.array([[2], [2]])
        return Observation(features, np.ones_like(features, dtype=bool), mask, np.ones(2, dtype=bool))

    def step(self, actions):
        self.count += 1
        return self.observe(), Step(np.zeros(2, dtype=np.float32), False, self.count > 5)

    def metrics(self):
        return {"success": 1.0}

    def close(self):
        self.closed = True


def test_every_game_says_in_one_line_what_to_install():
    """With the packages out of reach; experts are still known, so that commands can refuse wrong ones."""
    assert set(SCENARIOS) == set(base.REGISTRY)
    command = [sys.executable, "-c", WITHOUT, json.dumps(SCENARIOS)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    for game, (_, package) in SCENARIOS.items():
        message, experts = found[game]
        assert "\n" not in message and "run 'make " in message and package in message, message
        assert experts[-1] == ("pibt" if game == "pogema" else "random")


def test_unknown_games():
    with pytest.raises(ValueError, match="unknown game 'chess'; choose one of smax, grf, smacv2, pogema"):
        base.make("chess", "8x8")
    with pytest.raises(ValueError, match="unknown game 'chess'; choose one of pogema, smax, smacv2, grf"):
        registry.layout_of("chess/8x8")
    with pytest.raises(LayoutError, match="unknown token layout 'chess-1'"):
        registry.layout_named("chess-1")
    with pytest.raises(ValueError, match="unknown scenario 'five' of smax"):
        registry.layout_of("smax/five")
    with pytest.raises(ValueError, match="unknown game"):
        games.experts_of("chess/8x8")


def test_every_game_has_its_experts():
    assert games.default_expert("smax/5v5") == "ppo" and games.default_expert("grf/corner") == "script"
    assert games.default_expert("pogema") == "lns"
    assert games.experts_of("pogema") == ("lns", "pibt")
    assert games.experts_of("pogema/random_8") == ("lns", "pibt", "random")
    assert games.experts_of("smacv2/terran_5v5") == ("random",)
    assert isinstance(games.expert("smax", "random", 3), games.RandomPlayer)
    with pytest.raises(ValueError, match="grf has no expert 'ppo'; choose script or search or random"):
        games.expert("grf", "ppo")


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_history_is_newest_first(data):
    """Values stand feature by feature, each with its last frames; frames before the episode are not valid."""
    agents, features, frames = (
        data.draw(st.integers(1, 4), name) for name in ("agents", "features", "frames")
    )
    seen = data.draw(st.integers(1, 6), "observations")
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    encoder = FrameEncoder("any-1", 4, 3, [Slot(k, 1, 0, 0) for k in range(features)], frames)
    history = History(encoder, agents)
    past = []
    for _ in range(seen):
        values = random.uniform(-1, 1, (agents, features)).astype(np.float32)
        visible = random.random((agents, features)) < 0.7
        mask = random.random((agents, 20)) < 0.5
        past.insert(0, (values.copy(), visible.copy()))
        found, valid, allowed = history.add(Observation(values, visible, mask, np.ones(agents, dtype=bool)))
        values[:] = 9  # the history keeps its own copies
        assert (allowed == mask).all()
        assert found.shape == valid.shape == (agents, features * frames + 1)
        assert (found[:, -1] == encoder.layout.environment_value).all() and valid[:, -1].all()
        for f in range(features):
            for t in range(frames):
                k = f * frames + t
                known = past[t][1][:, f] if t < len(past) else np.zeros(agents, dtype=bool)
                assert (valid[:, k] == known).all()
                assert (found[:, k] == (np.where(known, past[t][0][:, f], 0) if t < len(past) else 0)).all()


def test_values_of_another_encoder_pass_through():
    encoder = FrameEncoder.of_values(POGEMA_LAYOUT)
    assert (encoder.features, encoder.frames, encoder.layout) == (355, 1, POGEMA_LAYOUT)
    values = np.random.default_rng(0).uniform(-2, 2, (3, 1, 355)).astype(np.float32)
    found, valid = encoder.encode(values, values > 0)
    assert (found[:, :-1] == np.where(values > 0, values, 0)[:, 0]).all()
    assert (valid[:, :-1] == (values > 0)[:, 0]).all() and valid[:, -1].all()


def test_defaults_of_an_environment():
    with Counting() as env:
        env.reset(3)
        for use in (env.snapshot, lambda: env.restore(None)):
            with pytest.raises(NoSnapshot, match="counting cannot"):
                use()
        over = [env.step(np.zeros(2, dtype=int))[1].over for _ in range(3)]
        assert over == [False, False, True]
    assert env.closed and env.experts == ()
