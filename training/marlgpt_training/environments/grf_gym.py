"""Importing ``gfootball`` (2.10.2) without the abandoned ``gym`` package that it asks for.

gfootball uses four classes, the spaces and ``register`` of gym. Where gym is not installed, a stand-in over
gymnasium's spaces takes its name while gfootball is imported, and only then: other packages that look for gym find
what they would have found anyway.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator

from marlgpt_training.environments.base import MissingExtra

HOW = "run 'make envs', which compiles and installs Google Research Football"


class Env:
    """What gfootball expects of ``gym.Env``."""

    metadata: dict = {}
    reward_range = (-float("inf"), float("inf"))

    @property
    def unwrapped(self) -> Env:
        """The innermost environment."""
        return self


class Wrapper(Env):
    """``gym.Wrapper``: passes on what it does not define, in the old interface (``step`` returns four things)."""

    def __init__(self, env: Env) -> None:
        self.env = env

    def __getattr__(self, name: str):
        if name.startswith("_") or name == "env":
            raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
        return getattr(self.env, name)

    @property
    def unwrapped(self) -> Env:
        """The innermost environment."""
        return self.env.unwrapped

    def reset(self, **options):
        """Begin an episode."""
        return self.env.reset(**options)

    def step(self, action):
        """Observation, reward, done, info."""
        return self.env.step(action)

    def close(self) -> None:
        """Free the engine."""
        self.env.close()


class ObservationWrapper(Wrapper):
    """``gym.ObservationWrapper``: changes what is observed."""

    def observation(self, observation):
        """The changed observation."""
        raise NotImplementedError

    def reset(self, **options):
        """Begin an episode."""
        return self.observation(self.env.reset(**options))

    def step(self, action):
        """Observation, reward, done, info."""
        observation, reward, done, info = self.env.step(action)
        return self.observation(observation), reward, done, info


class RewardWrapper(Wrapper):
    """``gym.RewardWrapper``: changes the reward."""

    def reward(self, reward):
        """The changed reward."""
        raise NotImplementedError

    def step(self, action):
        """Observation, reward, done, info."""
        observation, reward, done, info = self.env.step(action)
        return observation, self.reward(reward), done, info


def _modules() -> dict[str, types.ModuleType]:
    """The stand-in's modules by name."""
    from gymnasium import spaces

    gym, envs, registration = (types.ModuleType(n) for n in ("gym", "gym.envs", "gym.envs.registration"))
    gym.Env, gym.Wrapper = Env, Wrapper
    gym.ObservationWrapper, gym.RewardWrapper = ObservationWrapper, RewardWrapper
    gym.spaces, gym.envs, envs.registration = spaces, envs, registration
    registration.register = lambda *args, **options: None  # nothing is made by name here
    return {"gym": gym, "gym.spaces": spaces, "gym.envs": envs, "gym.envs.registration": registration}


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """``import gym`` works inside, by the stand-in unless gym is installed; afterwards all is as before."""
    if "gym" in sys.modules or importlib.util.find_spec("gym") is not None:
        yield
        return
    modules = _modules()
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def import_gfootball() -> types.ModuleType:
    """The package ``gfootball.env``, with its engine and the modules that it loads late.

    Raises:
        MissingExtra: It is not installed or does not load; one line that says what to do.
    """
    try:
        with stand_in():
            environment = importlib.import_module("gfootball.env")
            importlib.import_module("gfootball.env.players.agent")
            importlib.import_module("gfootball.env.scenario_builder")
    except ImportError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingExtra(f"Google Research Football is not installed ({reason}); {HOW}") from error
    return environment
