"""Fixtures of the training tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from marlgpt_policy.layout import POGEMA_LAYOUT
from marlgpt_training.collect import collect_shard
from marlgpt_training.model import MarlGpt, ModelConfig

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
