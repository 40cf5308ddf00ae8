"""Episodes of games with vector observations: played by an expert or a student, labelled, recorded."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np
from marlgpt_policy.policy.onnx_policy import choose_from_logits

from marlgpt_training.environments.base import (
    Environment,
    History,
    Observation,
    Player,
    environment_class,
    make,
)
from marlgpt_training.store.frame_episode import FrameEpisode

SIDE_BY_SIDE = 8
"""Games that are played at the same time, so that the student answers for all of them at once."""


class RandomPlayer:
    """Uniform over the allowed moves."""

    def __init__(self, seed: int) -> None:
        """Draws depend on ``seed`` and the episode's, not on which other episodes run beside it."""
        self.seed = seed
        self._running: weakref.WeakKeyDictionary[Environment, np.random.Generator]
        self._running = weakref.WeakKeyDictionary()

    def begin(self, env: Environment, seed: int) -> None:
        """The episode of ``seed`` begins in ``env``."""
        self._running[env] = np.random.default_rng([self.seed, seed])

    def act(self, env: Environment, observation: Observation) -> np.ndarray:
        """Draw a move for every agent."""
        if env not in self._running:
            self.begin(env, 0)
        mask = observation.action_mask
        return np.argmax(mask * (1 + self._running[env].random(mask.shape)), axis=1)


def split(game: str) -> tuple[str, str]:
    """('smax', '5v5') of 'smax/5v5'.

    Raises:
        ValueError: Not of that form.
    """
    name, _, scenario = game.partition("/")
    if not name or not scenario:
        raise ValueError(f"game '{game}': write GAME/SCENARIO, for example smax/5v5 or grf/pass_and_shoot")
    return name, scenario


def experts_of(game: str) -> tuple[str, ...]:
    """Experts of a game or GAME/SCENARIO, the default first; ``random`` plays all but plain ``pogema``.

    Raises:
        ValueError: Unknown game.
    """
    experts = environment_class(game.partition("/")[0]).experts
    return experts if game == "pogema" else (*experts, "random")


def default_expert(game: str) -> str:
    """Who labels if nobody is named."""
    return experts_of(game)[0]


def expert(game: str, name: str, seed: int = 0) -> Player:
    """The expert ``name`` of ``game`` as a player of single games, or the random player.

    Raises:
        ValueError: The game has no such expert.
    """
    if name == "random":
        return RandomPlayer(seed)
    if name not in experts_of(game):
        raise ValueError(f"{game} has no expert '{name}'; choose {' or '.join(experts_of(game))}")
    return environment_class(game).expert(name, seed)


def won(episode: FrameEpisode) -> bool:
    """Whether the episode was a success."""
    return episode.spec["metrics"]["success"] > 0


class Recording:
    """One running episode, kept for the trajectory store."""

    def __init__(self, env: Environment, seed: int, source: str) -> None:
        """Begin the episode of ``seed`` in ``env``; ``source`` says who drives and who labels."""
        self.env, self.seed, self.source = env, seed, source
        self.history = History(env.encoder, env.agents)
        self.observations, self.actions, self.labels, self.rewards = [], [], [], []
        self._see(env.reset(seed))
        self.ended = False

    def _see(self, observation: Observation) -> None:
        self.observations.append(observation)
        self.values, self.valid, self.mask = self.history.add(observation)

    def ask(self, teacher: Player | None) -> np.ndarray:
        """int[n] the teacher's moves in the current state, -1 for agents that do not act or without a teacher."""
        now = self.observations[-1]
        moves = teacher.act(self.env, now) if teacher else np.full(self.env.agents, -1)
        return np.where(now.active, moves, -1)

    def advance(self, actions: np.ndarray, labels: np.ndarray) -> bool:
        """Make the joint move; True when the episode is over."""
        observation, step = self.env.step(actions)
        self._see(observation)
        self.actions.append(actions)
        self.labels.append(labels)
        self.rewards.append(step.rewards)
        self.ended = step.ended
        return step.over

    def episode(self) -> FrameEpisode:
        """What happened so far, with the game's metrics in ``spec``."""
        seen = self.observations
        return FrameEpisode(
            environment=self.env.game,
            scenario=self.env.scenario,
            layout=self.env.encoder.layout.name,
            frames=np.array([o.features for o in seen], dtype=np.float16),
            visible=np.array([o.visible for o in seen]),
            masks=np.array([o.action_mask for o in seen]),
            active=np.array([o.active for o in seen]),
            actions=np.array(self.actions, dtype=np.int8),
            labels=np.array(self.labels, dtype=np.int8),
            rewards=np.array(self.rewards, dtype=np.float16),
            ended=self.ended,
            source=self.source,
            seed=self.seed,
            spec={"metrics": {name: float(value) for name, value in self.env.metrics().items()}},
        )


Forward = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""A student: (values, valid, mask) -> logits [n, 20]."""


def allowed(moves: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``moves`` with those that the mask forbids (or that are unknown, -1) replaced by the first allowed one."""
    good = (moves >= 0) & np.take_along_axis(mask, np.maximum(moves, 0)[:, None].astype(np.int64), axis=1)[
        :, 0
    ]
    return np.where(good, moves, mask.argmax(axis=1))


def play(
    game: str,
    seeds: list[int],
    teacher: Player | None,
    student: Forward | None = None,
    temperature: float | list[float] = 1.0,
    share: float = 1.0,
    keep: Callable[[FrameEpisode], bool] | None = None,
) -> list[FrameEpisode]:
    """Finished episodes of the given seeds.

    Args:
        game: GAME/SCENARIO.
        seeds: One per episode.
        teacher: Labels every state; drives where there is no student.
        student: Drives, sampling at ``temperature`` (one of them per episode).
        temperature: 0 takes the most probable move.
        share: Share of the episodes that the student drives.
        keep: Which finished episodes to return; all if not given.

    Raises:
        ValueError: Nobody to drive, an unknown game or scenario.
        MissingExtra: The game's package is not installed.
    """
    if teacher is None and (student is None or share < 1):
        raise ValueError(f"{game}: nobody drives; name a teacher, or a student for all episodes")
    name, scenario = split(game)
    waiting, found = list(reversed(seeds)), []
    with _Pool(name, scenario, min(SIDE_BY_SIDE, len(seeds))) as environments:
        running: list[tuple[Recording, bool, float, np.random.Generator]] = []
        while waiting or running:
            while waiting and len(running) < len(environments):
                seed = waiting.pop()
                random = np.random.default_rng([seed, 7])
                drives = student is not None and random.random() < share
                source = "student" if drives else "expert"
                env = next(e for e in environments if all(e is not r.env for r, *_ in running))
                heat = float(random.choice(np.atleast_1d(temperature)))
                running.append((Recording(env, seed, source), drives, heat, random))
                if hasattr(teacher, "begin"):
                    teacher.begin(env, seed)
            logits = _ask(student, running) if any(drives for _, drives, *_ in running) else None
            still = []
            for k, one in enumerate(running):
                recording, drives, heat, random = one
                labels = recording.ask(teacher)
                actions = choose_from_logits(logits[k], heat, random) if drives else labels
                if not recording.advance(allowed(actions, recording.mask), labels):
                    still.append(one)
                    continue
                episode = recording.episode()
                if keep is None or keep(episode):
                    found.append(episode)
            running = still
    return found


def _ask(student: Forward, running: list) -> list[np.ndarray]:
    """Logits for each running episode, from one forward pass."""
    parts = [(r.values, r.valid, r.mask) for r, *_ in running]
    logits = student(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    return np.split(logits, np.cumsum([len(part[0]) for part in parts])[:-1])


class _Pool:
    """A few environments of one scenario, closed together."""

    def __init__(self, name: str, scenario: str, count: int) -> None:
        self.environments = []
        try:
            for _ in range(count):
                self.environments.append(make(name, scenario))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> list[Environment]:
        return self.environments

    def __exit__(self, *_) -> None:
        for env in self.environments:
            env.close()
