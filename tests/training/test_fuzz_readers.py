"""Fuzzed files: whatever is in a shard, a checkpoint or a data set, its reader returns or raises its own error."""

import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzzing import damaged, fuzz  # noqa: E402
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training.dataloader.episode_unrolling import unroll
from marlgpt_training.evaluation.finished_episodes import FinishedEpisodes
from marlgpt_training.evaluation.map_files import read_maps
from marlgpt_training.experts import smax_net
from marlgpt_training.model.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    trained_layouts,
)
from marlgpt_training.published import checkpoint as published
from marlgpt_training.published.datasets import read_arrow, read_chunk
from marlgpt_training.published.mapf_gpt_tokens import DataFormatError, decode_tokens
from marlgpt_training.store.sample_shards import (
    SampleShard,
    is_sample_shard,
    read_samples,
    read_spec,
    shard_layout,
    write_samples,
)
from marlgpt_training.store.shards import StoreError, encode_shard, layout_of, read_shard
from marlgpt_training.train import learning_curve as curve
from marlgpt_training.train import run_state
from marlgpt_training.train.run_log import RunLog
from safetensors.torch import load_file, save_file


def attempt(read, path, error):
    """What ``read(path)`` returns; None where it raises ``error``, which has to name the file."""
    try:
        return read(path)
    except error as reason:
        assert path.name in str(reason)
        return None


# Stores --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shard_bytes(shard, frame_episode):
    """A shard of either kind, uncompressed so that damage gets past the decompressor, and as it is written."""
    frames = encode_shard([frame_episode(seed=k) for k in range(2)])
    found = [shard.read_bytes(), frames]
    for data in list(found):
        sink = pa.BufferOutputStream()
        pq.write_table(pq.read_table(pa.BufferReader(data)), sink, compression="none")
        found.append(sink.getvalue().to_pybytes())
    return found


def read_episodes(path):
    """All episodes; every one that is accepted can be replayed and encoded."""
    for episode in attempt(read_shard, path, StoreError) or []:
        assert isinstance(episode.spec, dict) and isinstance(episode.source, str)
        if episode.actions.size and episode.free.size if episode.kind == "grid" else episode.actions.size:
            try:
                unroll(episode).encode(0)
            except StoreError:
                pass


@fuzz(250)
@given(data=st.data())
def test_damaged_shards(tmp_path, shard_bytes, data):
    path = tmp_path / "a.parquet"
    path.write_bytes(data.draw(st.sampled_from(shard_bytes).flatmap(damaged) | st.binary(max_size=200)))
    read_episodes(path)
    attempt(layout_of, path, StoreError)
    attempt(shard_layout, path, StoreError)


VALUES = {
    pa.int32(): st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 5),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.string(): st.text(max_size=9)
    | st.sampled_from(["{", "3", "null", "[" * 99_999, "smax-2v3-1", "grf-1"]),
    pa.binary(): st.binary(max_size=40),
    pa.bool_(): st.booleans(),
}


@fuzz(150)
@given(data=st.data(), kind=st.integers(0, 1))
def test_shards_with_other_values(tmp_path, shard_bytes, data, kind):
    table = pq.read_table(pa.BufferReader(shard_bytes[kind])).slice(0, 1)
    for index in data.draw(st.lists(st.integers(0, table.num_columns - 1), min_size=1, max_size=3)):
        field = table.schema.field(index)
        values = data.draw(st.none() | VALUES[field.type])
        table = table.set_column(index, field, pa.array([values], field.type))
    pq.write_table(table, tmp_path / "a.parquet")
    read_episodes(tmp_path / "a.parquet")


@fuzz(60)
@given(data=st.data(), kind=st.integers(0, 1))
def test_shards_with_other_columns(tmp_path, shard_bytes, data, kind):
    table = pq.read_table(pa.BufferReader(shard_bytes[kind])).slice(0, 2)
    index = data.draw(st.integers(0, table.num_columns - 1))
    other = data.draw(
        st.sampled_from([
            pa.nulls(len(table)), pa.array([1.5] * len(table)), pa.array([[1]] * len(table)),
            pa.array([{"a": 1}] * len(table)), pa.array(["x"] * len(table)).dictionary_encode(),
        ])
    )  # fmt: skip
    table = table.set_column(index, table.schema.names[index], other)
    pq.write_table(table, tmp_path / "a.parquet")
    read_episodes(tmp_path / "a.parquet")


@pytest.fixture
def samples_file(tmp_path):
    masks = np.zeros((40, 20), dtype=bool)
    masks[:, :3] = True
    packed = np.random.default_rng(0).integers(-20, 21, (40, len(POGEMA_LAYOUT))).astype(np.int8)
    shard = SampleShard(
        packed, masks, np.ones(40, np.int8), "pogema-1", POGEMA_LAYOUT.hash, "maze", "test", {"a": 1}
    )
    write_samples(tmp_path / "s.parquet", shard)
    return tmp_path / "s.parquet"


def read_all_of_samples(path):
    is_sample_shard(path)
    attempt(read_spec, path, StoreError)
    attempt(shard_layout, path, StoreError)
    found = attempt(read_samples, path, StoreError)
    if found is not None:
        assert found.packed.shape[0] == len(found) == len(found.masks)
        assert isinstance(found.spec, dict)


@fuzz(150)
@given(data=st.data(), plain=st.booleans())
def test_damaged_samples(tmp_path, samples_file, data, plain):
    path, content = tmp_path / "d.parquet", samples_file.read_bytes()
    if plain:
        sink = pa.BufferOutputStream()
        pq.write_table(pq.read_table(samples_file), sink, compression="none", use_dictionary=False)
        content = sink.getvalue().to_pybytes()
    path.write_bytes(data.draw(damaged(content)))
    read_all_of_samples(path)


@fuzz(60)
@given(
    column=st.sampled_from(["observation", "mask", "label"]),
    values=st.sampled_from([
        pa.nulls(40), pa.array([1.5] * 40), pa.array(["x"] * 40), pa.array([b"xy"] * 40, pa.binary(2)),
        pa.array([b""] * 40, pa.binary()), pa.array([None] * 39 + [1]), pa.array([300] * 40),
        pa.array([[1]] * 40), pa.array([float("nan")] * 40),
    ]),
    metadata=st.dictionaries(
        st.sampled_from([b"spec", b"layout", b"layout_hash", b"source"]),
        st.sampled_from([b"\xff", b"3", b"[" * 99_999, b""]), max_size=1,
    ),
    rows=st.sampled_from([0, 40]),
)  # fmt: skip
def test_samples_with_other_values(tmp_path, samples_file, column, values, metadata, rows):
    table = pq.read_table(samples_file)
    table = table.set_column(table.schema.names.index(column), column, values).slice(0, rows)
    table = table.replace_schema_metadata({**pq.read_schema(samples_file).metadata, **metadata})
    pq.write_table(table, tmp_path / "d.parquet")
    read_all_of_samples(tmp_path / "d.parquet")


# Checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path, small_model):
    save_checkpoint(tmp_path / "c.safetensors", small_model(), POGEMA_LAYOUT, {"steps": 3})
    return tmp_path / "c.safetensors"


def read_checkpoint(path):
    attempt(trained_layouts, path, CheckpointError)
    return attempt(lambda path: load_checkpoint(path, POGEMA_LAYOUT), path, ValueError)


@fuzz(120)
@given(data=st.data())
def test_damaged_checkpoints(tmp_path, checkpoint, data):
    content, path = checkpoint.read_bytes(), tmp_path / "d.safetensors"
    head = 8 + int.from_bytes(content[:8], "little")
    damage = damaged(content[:head]).map(lambda found: found + content[head:])
    path.write_bytes(data.draw(damage | damaged(content) | st.binary(max_size=99)))
    read_checkpoint(path)


@fuzz(60)
@given(
    changes=st.dictionaries(
        st.sampled_from(["width", "heads", "shared", "bins", "tables", "value_range", "reading", "more"]),
        st.integers(-2, 2**70) | st.floats().map(float) | st.none() | st.booleans() | st.text(max_size=5)
        | st.sampled_from(["scalar", [1, 0], [0, 1e308], {}, 30_000, 10**6, [10**400, 1]]),
        min_size=1, max_size=2,
    )
)  # fmt: skip
def test_checkpoints_of_other_sizes(tmp_path, checkpoint, small_model, changes):
    """A configuration that claims sizes which the weights do not have takes neither memory nor time."""
    metadata = {
        "config": json.dumps({**small_model().config.to_dict(), **changes}), "layout": "pogema-1",
        "layout_hash": POGEMA_LAYOUT.hash, "facts": "{}",
    }  # fmt: skip
    save_file(load_file(checkpoint), tmp_path / "d.safetensors", metadata)
    read_checkpoint(tmp_path / "d.safetensors")


@pytest.mark.parametrize("key", ["config", "facts", "layouts"])
@pytest.mark.parametrize("text", ["[" * 99_999, "3", "", "{", '{"width": 1e999}', "null", '"' + "9" * 5000])
def test_checkpoints_with_other_metadata(tmp_path, checkpoint, key, text):
    metadata = {"config": "{}", "layout": "pogema-1", "layout_hash": POGEMA_LAYOUT.hash, "facts": "{}"}
    save_file(load_file(checkpoint), tmp_path / "d.safetensors", {**metadata, key: text})
    assert read_checkpoint(tmp_path / "d.safetensors") is None


# PyTorch and NumPy files ---------------------------------------------------------------------------------

READERS = {
    "state": (lambda path: run_state.load_state(path, "cpu"), run_state.RunStateError),
    "published": (published.load_published, CheckpointError),
    "chunk": (lambda path: read_chunk(path).describe(), DataFormatError),
    "smax": (smax_net.load, ValueError),
}


@pytest.fixture
def arrays(tmp_path):
    """Files of every kind that a reader may be given, new and old format."""
    content = {
        "model": {"w": torch.ones(3)}, "model_args": {"n_layer": 8}, "step": 3, "config": {},
        "actions": torch.tensor([1, 2]), "dones": torch.tensor([0, 1]),
    }  # fmt: skip
    chunk = {name: content[name] for name in ("actions", "dones")}
    torch.save(content, tmp_path / "a.pt")
    torch.save(content, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    torch.save(chunk, tmp_path / "c.pt")
    torch.save(chunk, tmp_path / "d.pt", _use_new_zipfile_serialization=False)
    smax_net.save(tmp_path / "e.npz", {"w": np.ones((3, 4), np.float32)})
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as file:
        file.writestr("w.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': "
                      b"(99999999999999,)}".ljust(128))  # fmt: skip
    return [(tmp_path / name).read_bytes() for name in ("a.pt", "b.pt", "c.pt", "d.pt", "e.npz", "f.npz")]


@pytest.mark.parametrize("reader", READERS)
@fuzz(150)
@given(data=st.data())
def test_damaged_arrays(tmp_path, arrays, reader, data):
    path = tmp_path / "x.pt"
    content = st.sampled_from(arrays)
    path.write_bytes(data.draw(content | content.flatmap(damaged) | st.binary(max_size=99)))
    attempt(READERS[reader][0], path, READERS[reader][1])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["gone", "folder", "x" * 300, "a\0b"])
def test_no_file(tmp_path, reader, name):
    (tmp_path / "folder").mkdir()
    assert attempt(READERS[reader][0], tmp_path / name, READERS[reader][1]) is None


# Published data ------------------------------------------------------------------------------------------


def arrow(tokens, moves):
    sink = pa.BufferOutputStream()
    table = pa.table(
        {"input_tensors": pa.array(tokens, pa.list_(pa.int8())), "gt_actions": pa.array(moves, pa.int8())}
    )
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return sink.getvalue().to_pybytes()


@fuzz(250)
@given(data=st.data())
def test_damaged_arrow_files(tmp_path, data):
    path, good = tmp_path / "a.arrow", arrow([[20] * 256] * 7, [0] * 7)
    path.write_bytes(data.draw(damaged(good) | st.binary(max_size=99)))
    for tokens, moves in attempt(lambda path: list(read_arrow(path)), path, DataFormatError) or []:
        assert tokens.shape == (len(moves), 256) and tokens.dtype == moves.dtype == np.int8


@pytest.mark.parametrize("shift", [2**30, 10**6, 256, 1, -1, -256, -(2**30)])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_arrow_files_that_point_beyond_their_end(tmp_path, shift, first):
    """Arrow files are mapped into memory: lists at places outside the file must not be followed."""
    good, ends = arrow([[20] * 256] * 3, [0] * 3), np.array([0, 256, 512, 768], np.int32)
    assert good.count(ends.tobytes()) == 1
    wrong = ends.copy()
    wrong[first:] += np.int32(shift)
    (tmp_path / "a.arrow").write_bytes(good.replace(ends.tobytes(), wrong.tobytes()))
    assert attempt(lambda path: list(read_arrow(path)), tmp_path / "a.arrow", DataFormatError) is None


@fuzz(120)
@given(
    seed=st.integers(0, 2**32 - 1), low=st.integers(-130, 60), high=st.integers(20, 130), places=st.integers(0, 9),
    shape=st.sampled_from([(2, 256), (0, 256), (2, 255), (256,)]),
)  # fmt: skip
def test_any_tokens(seed, low, high, places, shape):
    rng = np.random.default_rng(seed)
    tokens = np.full(shape, 66, dtype=np.int64)
    tokens[..., :121] = 20
    tokens.flat[rng.integers(0, max(1, tokens.size), places if tokens.size else 0)] = rng.integers(
        min(low, high), max(low, high) + 1, places if tokens.size else 0
    )
    try:
        packed, masks = decode_tokens(tokens)
    except DataFormatError:
        return
    assert packed.shape == (len(tokens), 356) and masks.shape == (len(tokens), 20)


# Maps and logs -------------------------------------------------------------------------------------------

MAPS = "one: |\n  ..#\n  #..\ntwo: |\n  a.A\n  b.B\nthree: |\n  @#$\n  ...\n"


@fuzz(250)
@given(data=st.data())
def test_map_files(tmp_path, data):
    path = tmp_path / "maps.yaml"
    text = st.text(".#@$!aAbB \n\t\0é&*[]{}:|>-'\"%", max_size=80).map(lambda t: f'one: "{t}"'.encode())
    path.write_bytes(data.draw(damaged(MAPS.encode()) | text | st.binary(max_size=99)))
    for world in attempt(read_maps, path, ValueError) or []:
        assert world.free.ndim == 2 and world.free.size and world.room >= 0


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 99_999, "{" * 3000, 'a: ".\\0."', "? [a]\n: b", "a: &x [*x]", "<<: {a: b}", "!!set {a}", "!x a",
        "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else '0'] * 9)}]\n" for i in range(10)),
    ],
)  # fmt: skip
def test_strange_map_files_are_refused(tmp_path, text):
    path = tmp_path / "maps.yaml"
    path.write_text(text)
    assert attempt(read_maps, path, ValueError) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["key", "a", "metrics"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["key", "metrics", "step", "samples", "score", "format"]), inner)
    ),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())
LINES = st.lists(
    JSON | st.binary(max_size=20) | st.sampled_from([b"[" * 99_999, b"9" * 5000]), max_size=5
).map(b"\n".join)


@fuzz(150)
@given(lines=LINES, head=st.booleans())
def test_logs_and_journals(tmp_path, lines, head):
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines)
    attempt(lambda folder: curve.read([folder], 0), tmp_path, ValueError)
    path.write_bytes((b'{"format": 1}\n' if head else b"") + lines)
    journal = attempt(lambda path: FinishedEpisodes(path, {}), path, ValueError)
    if journal is not None:
        journal.add("again", {})
        journal.close()


@fuzz(10)
@given(lines=LINES)
def test_a_run_goes_on_after_a_damaged_log(tmp_path, lines):
    (tmp_path / "log.jsonl").write_bytes(lines)
    log = RunLog(tmp_path, 3, 4)
    log.bar.close()
    log._board.close()
    log._file.close()
