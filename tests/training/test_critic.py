"""The critic's targets and its training."""

import numpy as np
import torch
from marlgpt_policy.layout import POGEMA_LAYOUT
from marlgpt_training import critic
from marlgpt_training.checkpoint import load_checkpoint, save_checkpoint
from marlgpt_training.collect import collect_shard
from marlgpt_training.model import MarlGpt, ModelConfig


def test_returns_are_discounted_sums():
    rewards = np.array([[0, 1], [1, 0], [0, 0], [1, 1]], dtype=np.float16)
    found = critic.returns(rewards, 0.5)
    assert np.allclose(found[:, 0], [0.5 + 0.125, 1 + 0.25, 0.5, 1])
    assert np.allclose(found[:, 1], [1 + 0.125, 0.25, 0.5, 1])


def test_training_moves_only_the_critic(tmp_path):
    torch.manual_seed(0)
    for k in range(2):
        collect_shard(tmp_path / "store" / f"pibt-{k}.parquet", 5 + k, 4, 80, "pibt")
    model = MarlGpt(ModelConfig(32, 2, 1, "entity"), POGEMA_LAYOUT)
    save_checkpoint(tmp_path / "policy.safetensors", model, POGEMA_LAYOUT, {"step": 1})
    args = critic.Args(
        checkpoint=tmp_path / "policy.safetensors",
        out=tmp_path / "critic.safetensors",
        store=tmp_path / "store",
        steps=3,
        batch=32,
    )
    assert critic.main(args) == 0
    trained, facts = load_checkpoint(args.out, POGEMA_LAYOUT)
    before, after = model.state_dict(), trained.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("critic") for name in changed)
    assert trained.config.value_range == (0.0, 2.0)
    assert np.isfinite(facts["critic"]["explained_variance"])
