"""The importer, on files in the published formats made here; no published file was at hand."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from marlgpt_policy.encoders.smacv2 import smacv2_encoder
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training import cli
from marlgpt_training.published.datasets import Args, import_arrow, read_arrow, read_chunk
from marlgpt_training.published.mapf_gpt_tokens import DataFormatError, decode_tokens
from marlgpt_training.store.sample_shards import is_sample_shard, read_samples
from marlgpt_training.store.shards import StoreError, shards


@pytest.fixture
def tokens():
    """Forty observations of an agent alone, in the vocabulary of MAPF-GPT."""
    rng = np.random.default_rng(3)
    made = np.full((40, 256), 66, dtype=np.int8)
    made[:, :121] = rng.integers(0, 44, (40, 121))
    made[:, 49] = 41  # a wall above, for all
    made[:, 60] = made[:, 121] = made[:, 122] = 20
    made[:, 123:125] = rng.integers(0, 41, (40, 2))
    made[:, 125:130] = rng.integers(44, 50, (40, 5))
    made[:, 130] = rng.integers(50, 66, 40)
    return made


def write_arrow(path, tokens, moves, tokens_type=None, moves_type=None, extra=(), stream=False, batch=None):
    """A file as MAPF-GPT's data set script writes it."""
    columns = {
        "input_tensors": pa.array(np.asarray(tokens).tolist(), tokens_type or pa.list_(pa.int8())),
        "gt_actions": pa.array(np.asarray(moves).tolist(), moves_type or pa.int8()),
    }
    table = pa.table(columns | dict(extra))
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink:
        make = pa.ipc.new_stream if stream else pa.ipc.new_file
        with make(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=batch)
    return path


def legal(tokens):
    """An allowed move per observation, the last one."""
    _, masks = decode_tokens(tokens)
    return 4 - np.argmax(masks[:, 4::-1], axis=1)


@pytest.mark.parametrize("kind", [None, pa.list_(pa.int8(), 256), pa.large_list(pa.int8())])
def test_import_writes_what_the_file_says(tmp_path, tokens, kind, monkeypatch):
    monkeypatch.setattr("marlgpt_training.published.datasets.SHARD", 16)
    moves = legal(tokens)
    path = write_arrow(tmp_path / "mazes" / "part_0_0.arrow", tokens, moves, tokens_type=kind, batch=7)
    args = Args(out=tmp_path / "store")
    done = import_arrow(path, args)
    assert (done.samples, done.shards, done.dropped) == (40, 3, 0)
    assert done.labels.sum() == 40
    written = shards(tmp_path / "store")
    assert [p.name for p in written] == [f"mazes-part_0_0-{k:05d}.parquet" for k in range(3)]
    found = [read_samples(p, POGEMA_LAYOUT) for p in written]
    assert [len(shard) for shard in found] == [16, 16, 8]
    packed, masks = decode_tokens(tokens)
    assert np.array_equal(np.concatenate([shard.packed for shard in found]), packed)
    assert np.array_equal(np.concatenate([shard.masks for shard in found]), masks)
    assert np.array_equal(np.concatenate([shard.labels for shard in found]), moves)
    assert found[1].scenario == "mazes" and found[1].source == "mapf-gpt"
    assert found[1].spec == {"file": "part_0_0.arrow", "bytes": path.stat().st_size, "row": 16, "rows": 16}
    assert all(map(is_sample_shard, written))


def test_import_goes_on_where_it_stopped(tmp_path, tokens, monkeypatch):
    monkeypatch.setattr("marlgpt_training.published.datasets.SHARD", 16)
    path = write_arrow(tmp_path / "random" / "a.arrow", tokens, legal(tokens))
    import_arrow(path, Args(out=tmp_path / "store"))
    first, second, _ = shards(tmp_path / "store")
    kept, bytes_ = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    assert import_arrow(path, Args(out=tmp_path / "store")).samples == 40
    assert first.stat().st_mtime_ns == kept and second.read_bytes() == bytes_
    with pytest.raises(StoreError, match="made from another file or with another --limit"):
        import_arrow(path, Args(out=tmp_path / "store", limit=10))
    other = tmp_path / "limited"
    assert import_arrow(path, Args(out=other, limit=20, scenario="odd")).samples == 20
    assert [len(read_samples(p)) for p in shards(other)] == [16, 4]
    assert read_samples(shards(other)[0]).scenario == "odd"


def test_moves_into_walls_are_left_out(tmp_path, tokens):
    moves = legal(tokens)
    _, masks = decode_tokens(tokens)
    row, wall = np.argwhere(~masks[:, :5])[0]
    moves[row] = wall
    path = write_arrow(tmp_path / "a.arrow", tokens, moves)
    done = import_arrow(path, Args(out=tmp_path / "store"))
    assert (done.samples, done.dropped) == (39, 1)
    assert len(read_samples(shards(tmp_path / "store")[0])) == 39


def test_refuses_other_arrow_files(tmp_path, tokens):
    moves = legal(tokens)
    cases = [
        ({"tokens_type": pa.list_(pa.int16())}, "found list.*int16.*expected columns input_tensors"),
        ({"moves_type": pa.int64()}, "found list.*int64; expected"),
        (
            {"extra": [("reward", pa.array([0.0] * 40))]},
            "found columns input_tensors, gt_actions, reward; expected",
        ),
        ({"stream": True}, "not a readable Arrow IPC file"),
    ]
    for n, (options, reason) in enumerate(cases):
        path = write_arrow(tmp_path / f"{n}.arrow", tokens, moves, **options)
        with pytest.raises(DataFormatError, match=reason) as error:
            list(read_arrow(path))
        assert str(path) in str(error.value)
    extra = tmp_path / "2.arrow"
    assert len(list(read_arrow(extra, ignore=("reward",)))) == 1


def test_refuses_other_contents(tmp_path, tokens):
    def refused(reason, tokens, moves):
        path = write_arrow(tmp_path / "a.arrow", tokens, moves)
        with pytest.raises(DataFormatError, match=reason) as error:
            import_arrow(path, Args(out=tmp_path / "store"))
        assert str(path) in str(error.value) and not shards(tmp_path / "store")

    moves = legal(tokens)
    refused("found lists of 200; expected", tokens[:, :200], moves)
    refused("found no rows", tokens[:0], moves[:0])
    refused("row 3: found move 5; expected 0..4", tokens, np.where(np.arange(40) == 3, 5, moves))
    tokens[9, 0] = 50
    refused("rows from 0 on: observation 9: token 50 at place 0; expected a cost-to-go", tokens, moves)


def test_torn_files_are_refused(tmp_path, tokens):
    path = write_arrow(tmp_path / "a.arrow", tokens, legal(tokens))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataFormatError, match="not a readable Arrow IPC file"):
        list(read_arrow(path))
    import_arrow(write_arrow(tmp_path / "b.arrow", tokens, legal(tokens)), Args(out=tmp_path / "store"))
    shard = shards(tmp_path / "store")[0]
    shard.write_bytes(shard.read_bytes()[:-300])
    assert not is_sample_shard(shard)
    with pytest.raises(StoreError, match="not a readable Parquet file"):
        read_samples(shard)


def test_samples_of_another_layout_are_refused(tmp_path, tokens):
    import_arrow(write_arrow(tmp_path / "b.arrow", tokens, legal(tokens)), Args(out=tmp_path / "store"))
    with pytest.raises(StoreError, match="made for layout pogema-1 .*, needed smacv2-zerg-5v5-1"):
        read_samples(shards(tmp_path / "store")[0], smacv2_encoder("zerg", 5, 5).layout)


def test_episode_shards_are_no_samples(shard):
    assert not is_sample_shard(shard)
    with pytest.raises(StoreError, match="not a shard of samples"):
        read_samples(shard)


def test_chunks_are_described(tmp_path):
    path = tmp_path / "chunk_0_part_0.pt"
    tensors = {
        "actions": torch.tensor([1, 1, 6, 2]),
        "dones": torch.tensor([0, 0, 0, 1]),
        "strange": torch.zeros(4, 82),
    }
    torch.save(tensors, path)
    found = read_chunk(path)
    assert found.actions.tolist() == [1, 1, 6, 2] and found.dones.tolist() == [False, False, False, True]
    assert found.others == {"strange": "float32[4, 82]"}
    assert found.describe() == (
        "4 rows, 1 ends, actions {1: 0.500, 2: 0.250, 6: 0.250}, other tensors: strange float32[4, 82]"
    )
    torch.save({"actions": tensors["actions"]}, path)
    assert read_chunk(path).dones is None


@pytest.mark.parametrize(
    "content, reason",
    [
        ([1, 2], "found a list; expected a dict of tensors"),
        ({"labels": torch.zeros(3)}, "found labels; expected a dict"),
        ({"actions": torch.zeros(3)}, r"found actions float32\[3\] beyond"),
        ({"actions": torch.tensor([0, 20])}, r"found actions int64\[2\] beyond"),
        ({"actions": torch.tensor([0, 1]), "dones": torch.tensor([0, 2])}, "other than 0 and 1"),
        ({"actions": torch.tensor([0, 1]), "dones": torch.tensor([0])}, r"found shapes .*expected a dict"),
        ({"actions": torch.tensor([0, 1]), "note": "x"}, "found 'note', a str"),
        ({"actions": torch.tensor(3)}, "found shapes"),
    ],
)
def test_refuses_other_chunks(tmp_path, content, reason):
    path = tmp_path / "chunk.pt"
    torch.save(content, path)
    with pytest.raises(DataFormatError, match=reason) as error:
        read_chunk(path)
    assert str(path) in str(error.value)


class Code:
    """Pickled, this would run a function."""

    def __reduce__(self):
        return print, ("this must not run",)


def test_chunks_run_no_code(tmp_path, capsys):
    path = tmp_path / "chunk.pt"
    torch.save({"actions": torch.tensor([0]), "extra": Code()}, path)
    with pytest.raises(DataFormatError, match="not a PyTorch file of plain tensors"):
        read_chunk(path)
    path.write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataFormatError, match="not a PyTorch file of plain tensors"):
        read_chunk(path)
    with pytest.raises(DataFormatError, match="not a PyTorch file of plain tensors"):
        read_chunk(tmp_path / "nowhere.pt")
    assert "must not run" not in capsys.readouterr().out


def test_command(tmp_path, tokens, capsys, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "import-dataset", ("marlgpt_training.published.datasets", "import"))
    data = tmp_path / "data"
    write_arrow(data / "mazes" / "part_0_0.arrow", tokens, legal(tokens))
    (data / "mazes" / "torn.arrow").write_bytes(b"ARROW1 and no more")
    torch.save({"actions": torch.tensor([0, 3])}, data / "chunk_0.pt")
    write_arrow(data / "random" / "part_0_0.arrow", tokens, legal(tokens))
    out = tmp_path / "store"
    assert cli.main(["import-dataset", "--files", str(data), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert len(shards(out)) == 2 and said.out.count("40 samples in 1 shards, moves ") == 2
    refusals = said.err.splitlines()
    refusals = [line for line in refusals if line.startswith("refused: ")]
    assert len(refusals) == 2
    assert "torn.arrow: not a readable Arrow IPC file" in refusals[1]
    assert "2 rows, no 'dones'" in refusals[0] and "cannot be imported" in refusals[0]
    good = str(data / "mazes" / "part_0_0.arrow")
    assert cli.main(["import-dataset", "--files", good, "--out", str(out)]) == 0
    assert cli.main(["import-dataset", "--out", str(out)]) == 1
    (tmp_path / "empty").mkdir()
    assert cli.main(["import-dataset", "--files", str(tmp_path / "empty")]) == 1
    said = capsys.readouterr().err
    assert "no file given" in said and "no .arrow or .pt file in it" in said
