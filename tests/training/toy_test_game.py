"""A tiny game for the tests of everything that plays games: agents on a line walk to its right end."""

import numpy as np
from marlgpt_policy.encoders.frames import FrameEncoder, Slot
from marlgpt_policy.encoders.token_layout import MAX_ACTIONS
from marlgpt_training.environments.base import Environment, Observation, Step

STAY, LEFT, RIGHT = range(3)
LIMIT = 6
ENCODER = FrameEncoder("toy-1", 1, 3, [Slot(0, 1, 0, 0), Slot(1, 1, 0, 0), Slot(2, 0, 0, 1)], 2)


class Walker:
    """Walks right; remembers nothing."""

    def act(self, env, observation):
        return np.full(env.agents, RIGHT)


class Clueless:
    """Knows no move."""

    def act(self, env, observation):
        return np.full(env.agents, -1)


class Toy(Environment):
    """``toy/N``: N agents on cells 0..4, of which 4 is the goal; whoever is there no longer acts.

    Seeds that 4 divides begin too far to the left for the six steps there are. Each step at the goal pays 0.1.
    """

    game = "toy"
    encoder = ENCODER
    experts = ("walker", "clueless")
    running = 0
    """Games that are not closed."""

    def __init__(self, scenario):
        self.scenario, self.agents = scenario, int(scenario)
        type(self).running += 1

    @classmethod
    def expert(cls, name, seed=0):
        return Walker() if name == "walker" else Clueless()

    def reset(self, seed):
        random = np.random.default_rng(seed)
        self.cells = np.full(self.agents, -4) if seed % 4 == 0 else random.integers(0, 3, self.agents)
        self.steps = 0
        return self._see()

    def _see(self):
        active = self.cells < 4
        mask = np.zeros((self.agents, MAX_ACTIONS), dtype=bool)
        mask[:, STAY] = True
        mask[:, RIGHT] = active
        mask[:, LEFT] = active & (self.cells > 0)
        features = np.stack([self.cells / 4, active, np.full(self.agents, self.steps / 8)], axis=1)
        visible = np.ones(features.shape, dtype=bool)
        visible[:, 1] = self.steps % 2 == 0
        return Observation(features.astype(np.float32), visible, mask, active)

    def step(self, actions):
        mask = self._see().action_mask
        if not mask[np.arange(self.agents), actions].all():
            raise ValueError(f"moves {actions} outside the mask")
        self.cells = self.cells + np.array([0, -1, 1])[actions]
        self.steps += 1
        done = bool((self.cells == 4).all())
        rewards = 0.1 * (self.cells == 4).astype(np.float32)
        return self._see(), Step(rewards, done, not done and self.steps == LIMIT)

    def metrics(self):
        """``slack`` has no value in lost games; there are no ``steps``, which nobody promises."""
        won = bool((self.cells == 4).all())
        return {"success": np.float32(won), "slack": LIMIT - self.steps if won else float("nan")}

    def close(self):
        type(self).running -= 1


def right(values, valid, mask):
    """A student that walks right where it can."""
    logits = np.full(mask.shape, -1e9, dtype=np.float32)
    logits[mask] = 0
    logits[:, RIGHT] = np.where(mask[:, RIGHT], 9, -1e9)
    return logits
