"""Fixtures of the training tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from marlgpt_policy.encoders.registry import frame_encoder
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training.collection.pogema_rollouts import collect_shard
from marlgpt_training.model.model import MarlGpt, ModelConfig
from marlgpt_training.store.frame_episode import FrameEpisode

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shard(tmp_path_factory):
    """A real shard: six expert episodes of up to 40 steps."""
    path = tmp_path_factory.mktemp("store") / "lns-1-00000.parquet"
    collect_shard(path, 1, 6, 40, "lns")
    return path


@pytest.fixture(scope="session")
def small_model():
    """Random models of a few thousand parameters, by reading; not to be changed by tests."""

    def build(reading="entity", seed=0, layout=POGEMA_LAYOUT):
        torch.manual_seed(seed)
        model = MarlGpt(ModelConfig(width=32, heads=2, shared=1, reading=reading), layout)
        for parameter in model.parameters():  # far from the near-zero initialisation, so that errors show
            parameter.data.mul_(8 if parameter.dim() >= 2 else 1)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def frame_episode():
    """Random episodes of games with vector observations, in any layout; no game is needed.

    Half-precision features, a third of them invisible, random masks, the last agent dead in the second half.
    """

    def build(layout="smax-2v3-1", steps=6, agents=2, seed=0, ended=True, **fields):
        rng, encoder = np.random.default_rng(seed), frame_encoder(layout)
        shape = (steps + 1, agents)
        masks = np.zeros((*shape, 20), dtype=bool)
        masks[..., : encoder.layout.actions] = rng.random((*shape, encoder.layout.actions)) < 0.5
        masks[..., 1] = True
        active = np.ones(shape, dtype=bool)
        active[steps // 2 + 1 :, -1] = False
        moves = [
            np.argmax(masks[:-1] * rng.random((steps, agents, 20)), axis=2).astype(np.int8) for _ in "al"
        ]
        whole = {
            "environment": layout.split("-")[0], "scenario": "2v3", "layout": layout,
            "frames": (rng.random((*shape, encoder.features)) * 2 - 1).astype(np.float16),
            "visible": rng.random((*shape, encoder.features)) < 0.67,
            "masks": masks, "active": active, "actions": moves[0],
            "labels": np.where(active[:-1], moves[1], -1).astype(np.int8),
            "rewards": (rng.random((steps, agents)) / steps).astype(np.float16),
            "ended": ended, "source": "expert", "seed": seed, "spec": {"metrics": {"success": float(seed % 2)}},
        }  # fmt: skip
        return FrameEpisode(**{**whole, **fields})

    return build
