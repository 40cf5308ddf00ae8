"""The stand-in for gym: what gfootball asks of it, and that it leaves no trace."""

import importlib
import importlib.util
import sys

import pytest
from marlgpt_training.environments.base import MissingExtra, make
from marlgpt_training.environments.grf_gym import (
    Env,
    ObservationWrapper,
    RewardWrapper,
    Wrapper,
    import_gfootball,
    stand_in,
)

needs_stand_in = pytest.mark.skipif(
    importlib.util.find_spec("gym") is not None, reason="gym is installed and used as it is"
)


class Counter(Env):
    """Counts its steps; the old interface of four results."""

    count = 0
    closed = False

    def reset(self, **options):
        self.count = options.get("start", 0)
        return self.count

    def step(self, action):
        self.count += action
        return self.count, 1.0, self.count > 3, {"action": action}

    def close(self):
        self.closed = True


class Doubled(ObservationWrapper):
    def observation(self, observation):
        return 2 * observation


class Negative(RewardWrapper):
    def reward(self, reward):
        return -reward


@needs_stand_in
def test_gym_is_there_inside_only():
    gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is missing: run 'make setup'")
    with stand_in():
        gym = importlib.import_module("gym")
        registration = importlib.import_module("gym.envs.registration")
        assert gym.spaces is gymnasium.spaces and gym.Wrapper is Wrapper
        assert registration.register(id="any-v0", entry_point="any:thing") is None
    assert not [name for name in sys.modules if name == "gym" or name.startswith("gym.")]


@needs_stand_in
def test_an_error_inside_leaves_no_trace():
    with pytest.raises(RuntimeError), stand_in():
        raise RuntimeError
    assert "gym" not in sys.modules


def test_a_gym_that_is_there_is_used(monkeypatch):
    real = object()
    monkeypatch.setitem(sys.modules, "gym", real)
    with stand_in():
        assert sys.modules["gym"] is real
    assert sys.modules["gym"] is real


def test_wrappers_pass_on_and_change():
    inner = Counter()
    env = Negative(Doubled(Wrapper(inner)))
    assert env.reset(start=1) == 2
    assert env.step(2) == (6, -1.0, False, {"action": 2})
    assert env.unwrapped is inner and env.count == 3
    with pytest.raises(AttributeError, match="Negative"):
        env._secret  # noqa: B018
    env.close()
    assert inner.closed


def test_a_missing_package_is_one_line_that_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "gfootball", None)
    monkeypatch.setitem(sys.modules, "gfootball.env", None)
    for attempt in (import_gfootball, lambda: make("grf", "pass_and_shoot")):
        with pytest.raises(MissingExtra, match="make envs") as caught:
            attempt()
        assert "\n" not in str(caught.value)
