"""The layout of a shard, told from its footer."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training.store.sample_shards import SampleShard, shard_layout, write_samples
from marlgpt_training.store.shards import StoreError


def test_layout_of_samples_and_of_episodes(tmp_path, shard):
    masks = np.zeros((2, 20), dtype=bool)
    masks[:, 0] = True
    packed = np.zeros((2, len(POGEMA_LAYOUT)), dtype=np.int8)
    samples = SampleShard(packed, masks, np.zeros(2, np.int8), "pogema-1", POGEMA_LAYOUT.hash, "maze", "test")
    path = tmp_path / "deep" / "a.parquet"
    write_samples(path, samples)
    assert [p.name for p in path.parent.iterdir()] == ["a.parquet"]
    assert shard_layout(path) == shard_layout(shard) == "pogema-1"
    table = pq.read_table(path)
    later = table.replace_schema_metadata({**table.schema.metadata, b"marlgpt_samples": b"9"})
    pq.write_table(later, path)
    with pytest.raises(StoreError, match="version 9, this code reads 1"):
        shard_layout(path)
    path.write_bytes(b"torn")
    with pytest.raises(StoreError, match="not a readable Parquet file"):
        shard_layout(path)
