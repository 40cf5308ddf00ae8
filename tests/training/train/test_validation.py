"""Validation rollouts: deterministic, and better drivers get more done."""

import numpy as np
from marlgpt_policy.policy.onnx_policy import choose_from_logits
from marlgpt_training.model.checkpoint import torch_forward
from marlgpt_training.train import validation as rollout
from marlgpt_training.train.validation import throughput


def test_throughput_is_deterministic_and_ranks_drivers(small_model):
    forward = torch_forward(small_model())
    random = throughput(forward, "random", 16, 2, 48, True)
    assert random == throughput(forward, "random", 16, 2, 48, True)
    pibt = throughput(None, "random", 16, 2, 48, False)
    assert pibt > 2 * random and pibt > 0.5


def test_shield_follows_a_perfect_ranking(monkeypatch):
    """A student whose logits point down the cost-to-go does better with the shield than a random one."""

    def downhill(values, valid, mask):
        logits = np.full((len(values), 20), -1e9, dtype=np.float32)
        logits[:, 1:5] = 8 * values[:, 121 + 14 : 121 + 18]  # the self token's "closer" flags
        logits[:, 0] = 1
        return np.where(mask, logits, np.float32(-1e9))

    sharp = lambda logits, *_: choose_from_logits(logits, 0.1, np.random.default_rng(0))  # noqa: E731
    monkeypatch.setattr(rollout, "choose_from_logits", sharp)
    shielded = throughput(downhill, "random", 24, 2, 64, True)
    assert shielded > 0.75 * throughput(None, "random", 24, 2, 64, False)
