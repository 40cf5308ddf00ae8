"""One small interface for every game: reset, step, observe; what an episode came to; snapshots where there are any.

An environment is one module in this package with a subclass of :class:`Environment`, one token layout in
``marlgpt_policy`` and one line in :data:`REGISTRY`; a game in a package of its own has an entry point instead
(docs/new-environment.md). Everything else (collection, training, evaluation) works through this interface. A game's
package is imported when an environment is made, never before.
"""

from __future__ import annotations

import abc
import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import ClassVar, Protocol

import numpy as np
from marlgpt_policy.encoders.frames import FrameEncoder

REGISTRY = {
    "smax": ("marlgpt_training.environments.smax", "Smax"),
    "grf": ("marlgpt_training.environments.grf", "Grf"),
    "smacv2": ("marlgpt_training.environments.smacv2", "Smacv2"),
    "pogema": ("marlgpt_training.environments.pogema", "Pogema"),
}
"""Name of a game -> (module, class)."""
GROUP = "marlgpt.games"
"""Group of the entry points by which other packages add environment classes."""


class MissingExtra(ImportError):
    """A game's package is not installed; the message is one line that says what to install."""


class NoSnapshot(RuntimeError):
    """The game cannot save and restore its state."""


@dataclass
class Observation:
    """What n agents see before they move, as the game's encoder takes it.

    Attributes:
        features: float32[n, F] the newest frame, in the order of the encoder's slots.
        visible: bool[n, F] features that mean something (a unit in sight); False ones become no tokens.
        action_mask: bool[n, 20] moves that the game allows; every agent has at least one.
        active: bool[n] agents that act at all (alive, on the field); the others' moves do not count.
    """

    features: np.ndarray
    visible: np.ndarray
    action_mask: np.ndarray
    active: np.ndarray


@dataclass
class Step:
    """What a joint move led to.

    Attributes:
        rewards: float32[n] as the environment's module documents them; returns stay within 0..2.
        ended: The game is over by its own rules: nothing follows.
        cut: The step limit was reached: the game would have gone on.
    """

    rewards: np.ndarray
    ended: bool
    cut: bool

    @property
    def over(self) -> bool:
        """Whether the episode is finished."""
        return self.ended or self.cut


class Environment(abc.ABC):
    """One running game of n cooperating agents.

    Attributes:
        game: Name in :data:`REGISTRY`.
        scenario: Scenario name.
        encoder: Turns histories of frames into token values; ``encoder.layout`` is the token layout.
        agents: Number of agents n.
        experts: Names of the game's experts, the default first.
    """

    game: str
    scenario: str
    encoder: FrameEncoder
    agents: int
    experts: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def expert(cls, name: str, seed: int = 0) -> Player:
        """The expert ``name`` of :attr:`experts`; by default from this project's module of the game's experts."""
        return importlib.import_module(f"marlgpt_training.experts.{cls.game}_play").player(name)

    @abc.abstractmethod
    def reset(self, seed: int) -> Observation:
        """Begin an episode; equal seeds give equal episodes for equal moves."""

    @abc.abstractmethod
    def step(self, actions: np.ndarray) -> tuple[Observation, Step]:
        """Move all agents at once; ``actions`` int[n]. A move outside the mask raises ``ValueError``."""

    @abc.abstractmethod
    def metrics(self) -> dict[str, float]:
        """Of the episode so far; ``success`` (0 or 1: won, scored) is always among them."""

    def snapshot(self) -> object:
        """The whole state, for :meth:`restore`; the game goes on exactly as it would have.

        Raises:
            NoSnapshot: The game has none.
        """
        raise NoSnapshot(f"{self.game} cannot save its state")

    def restore(self, state: object) -> Observation:
        """Go back to ``state``, what the agents see there.

        Raises:
            NoSnapshot: The game has none.
        """
        raise NoSnapshot(f"{self.game} cannot restore a state")

    def close(self) -> None:  # noqa: B027 (most games hold nothing)
        """Free what the game holds (processes, windows, sockets)."""

    def __enter__(self) -> Environment:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def environment_class(game: str) -> type[Environment]:
    """The class of ``game``, from :data:`REGISTRY` or an installed package; the game itself is not imported.

    Raises:
        ValueError: Unknown game.
    """
    if game in REGISTRY:
        module, name = REGISTRY[game]
        return getattr(importlib.import_module(module), name)
    for entry in entry_points(group=GROUP, name=game):
        return entry.load()
    known = ", ".join([*REGISTRY, *sorted(entry_points(group=GROUP).names)])
    raise ValueError(f"unknown game '{game}'; choose one of {known}")


def make(game: str, scenario: str, **options) -> Environment:
    """The environment ``scenario`` of ``game``.

    Raises:
        ValueError: Unknown game or scenario.
        MissingExtra: The game's package is not installed.
    """
    return environment_class(game)(scenario, **options)


class History:
    """The last frames of one episode, newest first, as :meth:`FrameEncoder.encode` takes them."""

    def __init__(self, encoder: FrameEncoder, agents: int) -> None:
        """Nothing seen yet."""
        shape = (agents, encoder.frames, encoder.features)
        self.encoder = encoder
        self.values = np.zeros(shape, dtype=np.float32)
        self.visible = np.zeros(shape, dtype=np.bool_)

    def add(self, observation: Observation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Note the newest frame; values float32[n, L], valid bool[n, L], action_mask bool[n, 20]."""
        for kept, newest in ((self.values, observation.features), (self.visible, observation.visible)):
            kept[:, 1:] = kept[:, :-1].copy()
            kept[:, 0] = newest
        values, valid = self.encoder.encode(self.values, self.visible)
        return values, valid, observation.action_mask


class Player(Protocol):
    """Whoever decides with the whole game in view: an expert, a script, a random player."""

    def act(self, env: Environment, observation: Observation) -> np.ndarray:
        """int[n] moves in the environment's current state, -1 where it does not know.

        A player that also has ``begin(env, seed)`` is told of every episode that begins.
        """
