"""The importer, on files in the published formats made here: tokens come from a tokeniser of the test's own.

The tokeniser is written from the description of the format, with its own shortest paths, and shares no code with the
decoder or with our encoder. No published file was at hand; the decoder was compared once with the public generator of
MAPF-GPT (commit f771c3b, its two compiled parts replaced by Python): 1,404 observations of 30 random worlds, all equal
to our encoder's.
"""

from collections import deque

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.cost_to_go import CostToGo
from marlgpt_policy.encoders import pogema
from marlgpt_policy.layout import POGEMA_LAYOUT
from marlgpt_training import cli
from marlgpt_training.data import compress
from marlgpt_training.grid_env import edges
from marlgpt_training.mapf_gpt_tokens import DataFormatError, decode_tokens
from marlgpt_training.published_data import Args, import_arrow, read_arrow, read_chunk
from marlgpt_training.sample_store import is_sample_shard, read_samples
from marlgpt_training.store import StoreError, shards

VOCABULARY = {
    token: n
    for n, token in enumerate(
        [
            *range(-20, 21),
            -80,
            -40,
            40,
            "n",
            "w",
            "u",
            "d",
            "l",
            "r",
            *(format(i, "04b") for i in range(16)),
            "!",
        ]
    )
}
STEPS = {"u": (-1, 0), "d": (1, 0), "l": (0, -1), "r": (0, 1)}


def distances(free, goal):
    """Path lengths to ``goal`` by cell; unreachable cells are missing."""
    found, queue = {goal: 0}, deque([goal])
    while queue:
        r, c = queue.popleft()
        for dr, dc in STEPS.values():
            near = (r + dr, c + dc)
            if (
                0 <= near[0] < free.shape[0]
                and 0 <= near[1] < free.shape[1]
                and free[near]
                and near not in found
            ):
                found[near] = found[r, c] + 1
                queue.append(near)
    return found


def tokenise(free, cells, goals, history, observer):
    """The 256 tokens of one observer; ``history`` a string of moves per agent, oldest first."""
    r, c = cells[observer]
    costs = distances(free, goals[observer])
    words = []
    for row in range(r - 5, r + 6):
        for col in range(c - 5, c + 6):
            delta = costs[row, col] - costs[r, c] if (row, col) in costs else -80
            words.append(delta if -20 <= delta <= 20 or delta == -80 else 40 if delta > 0 else -40)
    from_here = distances(free, (r, c))
    near = [j for j, (row, col) in enumerate(cells) if abs(row - r) <= 5 and abs(col - c) <= 5]
    near = sorted((from_here[cells[j]], j) for j in near if cells[j] in from_here)
    for _, j in near[:13]:
        words += [cells[j][0] - r, cells[j][1] - c]
        words += [max(-20, min(20, goals[j][axis] - (r, c)[axis])) for axis in (0, 1)]
        words += list(history[j].rjust(5, "n")[-5:])
        theirs = distances(free, goals[j])
        row, col = cells[j]
        words.append(
            "".join(
                str(int(theirs.get((row + dr, col + dc), 10**9) < theirs[cells[j]]))
                for dr, dc in STEPS.values()
            )
        )
    words += ["!"] * (256 - len(words))
    return [VOCABULARY[word] for word in words]


def world(rng, size, density, agents):
    """(free, cells, goals, histories) with everything in one connected piece."""
    free = rng.random((size, size)) > density
    free[size // 2, size // 2] = True
    piece = sorted(distances(free, (size // 2, size // 2)))
    agents = min(agents, len(piece))
    cells = [piece[k] for k in rng.permutation(len(piece))[:agents]]
    goals = [piece[k] for k in rng.integers(len(piece), size=agents)]
    histories = ["".join(rng.choice(list("wudlr"), rng.integers(0, 7))) for _ in range(agents)]
    return free, cells, goals, histories


def ours(free, cells, goals, histories):
    """The same world by our encoder: packed values and masks."""
    moves = edges(free)
    history = np.full((len(cells), 5), -1, dtype=np.int8)
    for j, past in enumerate(histories):
        newest = ["wudlr".index(move) for move in reversed(past)][:5]
        history[j, : len(newest)] = newest
    fields = CostToGo(moves, capacity=64).fields(np.array(goals))
    values, valid, masks = pogema.encode(fields, np.array(cells), np.array(goals), history, moves)
    return compress(values, valid), masks


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(3, 30), st.floats(0, 0.45), st.integers(1, 13))
def test_same_world_same_values(seed, size, density, agents):
    free, cells, goals, histories = world(np.random.default_rng(seed), size, density, agents)
    tokens = np.array([tokenise(free, cells, goals, histories, i) for i in range(len(cells))], dtype=np.int8)
    packed, masks = decode_tokens(tokens)
    expected, allowed = ours(free, cells, goals, histories)
    assert np.array_equal(packed, expected)
    assert np.array_equal(masks, allowed)


def test_far_and_blocked_cells():
    free = np.ones((11, 11), dtype=bool)
    free[1::4, :-1] = free[3::4, 1:] = False  # a path that winds from the top left to the bottom left corner
    cells, goals = [(0, 0), (10, 0), (4, 5)], [(10, 0), (0, 0), (0, 0)]
    tokens = np.array([tokenise(free, cells, goals, ["", "w", "uuddlr"], i) for i in range(3)])
    assert {41, 42, 43} <= set(tokens.ravel().tolist())
    assert np.array_equal(decode_tokens(tokens)[0], ours(free, cells, goals, ["", "w", "uuddlr"])[0])


def test_crowds_keep_thirteen():
    rng = np.random.default_rng(0)
    free, cells, goals, histories = world(rng, 9, 0.0, 60)
    tokens = np.array([tokenise(free, cells, goals, histories, i) for i in range(len(cells))])
    packed, _ = decode_tokens(tokens)
    expected, _ = ours(free, cells, goals, histories)
    # On an empty map paths are Manhattan distances: the two agree but for ties of the farthest kept.
    assert np.array_equal(packed[:, :121], expected[:, :121])
    agents = packed[:, 121:-1].reshape(len(cells), 13, 18)
    place = agents[:, :, :2].astype(int) // 4
    far = np.abs(place).sum(axis=2)
    assert (np.diff(far, axis=1) >= 0).all() and (far[:, 0] == 0).all()
    assert np.array_equal(
        far, np.abs(expected[:, 121:-1].reshape(far.shape + (18,))[:, :, :2] // 4).sum(axis=2)
    )


@pytest.fixture
def tokens():
    """Forty observations."""
    free, cells, goals, histories = world(np.random.default_rng(3), 12, 0.3, 40)
    return np.array([tokenise(free, cells, goals, histories, i) for i in range(40)], dtype=np.int8)


@pytest.mark.parametrize(
    "place, token, reason",
    [
        (3, 44, r"token 44 at place 3; expected a cost-to-go"),
        (60, 21, r"token 21 at place 60; expected the cost-to-go of the own cell"),
        (121, 21, r"token 21 at place 121; expected the observer at \(0, 0\)"),
        (122, 66, r"token 66 at place 122; expected a position"),
        (131, 26, r"token 26 at place 131; expected a position within 5"),
        (123, 41, r"token 41 at place 123; expected a goal within 20"),
        (127, 50, r"token 50 at place 127; expected a move"),
        (130, 49, r"token 49 at place 130; expected a set of moves"),
        (255, 0, r"token 0 at place 255; expected padding"),
        (17, 67, r"token 67 at place 17; tokens are 0..66"),
        (17, -1, r"token -1 at place 17; tokens are 0..66"),
    ],
)
def test_refuses_tokens_out_of_place(tokens, place, token, reason):
    tokens[7, place] = token
    with pytest.raises(DataFormatError, match=f"observation 7: {reason}"):
        decode_tokens(tokens)


def test_refuses_other_lengths():
    with pytest.raises(DataFormatError, match=r"\(2, 128\), expected \(n, 256\)"):
        decode_tokens(np.zeros((2, 128)))


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
    monkeypatch.setattr("marlgpt_training.published_data.SHARD", 16)
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
    monkeypatch.setattr("marlgpt_training.published_data.SHARD", 16)
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
    from marlgpt_policy.encoders.smax import smax_encoder

    with pytest.raises(StoreError, match="made for layout pogema-1 .*, needed smax-5v5-1"):
        read_samples(shards(tmp_path / "store")[0], smax_encoder(5, 5).layout)


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
    monkeypatch.setitem(cli.COMMANDS, "import-dataset", ("marlgpt_training.published_data", "import"))
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
