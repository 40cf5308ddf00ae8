"""Files made to run away: views and computed columns, chains in circles, and what unpacks beyond any size."""

import sqlite3
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from marlgpt_training.bags import bag_reader as reading
from marlgpt_training.bags.bag_reader import BagError, open_bag, records
from marlgpt_training.bags.sqlite_pages import leaf_rows
from marlgpt_training.experts import smax_net
from marlgpt_training.store import episode_row
from marlgpt_training.store.grid_episode import Episode
from marlgpt_training.store.shards import StoreError, read_shard, write_shard

TOPICS = """
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT);
INSERT INTO topics VALUES (1, '/map', 'nav_msgs/msg/OccupancyGrid', 'cdr');
"""
MESSAGES = "CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);"
READ = """
import sys
from marlgpt_training.bags.bag_reader import open_bag, records
list(records(open_bag(sys.argv[1])))
"""
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"

HOSTILE = {
    "view of messages": (
        f"{TOPICS} CREATE VIEW messages AS {ENDLESS} SELECT i AS id, 1 AS topic_id, i AS timestamp, x'00' "
        "AS data FROM n;",
        "'messages' is no table with rows but a view",
    ),
    "view of topics": (
        f"{MESSAGES} CREATE VIEW topics AS {ENDLESS} SELECT i AS id, 'a' AS name, 'b' AS type, 'cdr' AS "
        "serialization_format FROM n;",
        "'topics' is no table with rows but a view",
    ),
    "view of definitions": (
        f"{TOPICS} {MESSAGES} CREATE VIEW message_definitions AS {ENDLESS} SELECT 'a' AS topic_type, 'b' AS encoding, "
        "'c' AS encoded_message_definition FROM n;",
        "'message_definitions' is no table with rows but a view",
    ),
    "virtual table": (
        f"{TOPICS} CREATE VIRTUAL TABLE messages USING fts4(id, topic_id, timestamp, data);",
        "'messages' is no table with rows but a table that computes them",
    ),
    "computed column": (
        f"{TOPICS} CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
        "data BLOB AS (zeroblob(250000000))); INSERT INTO messages (topic_id, timestamp) VALUES (1, 1);",
        "column 'data' of table 'messages' is computed",
    ),
}  # fmt: skip


def database(path, script):
    with sqlite3.connect(path) as made:
        made.executescript(script)
    made.close()
    return path


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_database_that_computes_its_rows_is_refused_at_once(tmp_path, kind):
    """In a process of its own, which a test can end if it runs away."""
    script, reason = HOSTILE[kind]
    path = database(tmp_path / "bag.db3", script)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=60)
    assert time.monotonic() - began < 30
    assert done.returncode == 1 and "BagError" in done.stderr and reason in done.stderr, done.stderr


def test_a_view_that_a_damaged_schema_hides_is_not_read(tmp_path):
    """Even if the check of the schema were deceived: reading through a view is not permitted."""
    path = database(tmp_path / "bag.db3", f"{TOPICS} {MESSAGES} CREATE VIEW v AS SELECT * FROM messages;")
    connection = sqlite3.connect(path)
    reading._bound(connection)
    assert connection.execute("SELECT id FROM messages").fetchall() == []
    for query in (
        "SELECT * FROM v",
        f"{ENDLESS} SELECT i FROM n",
        "SELECT zeroblob(9)",
        "SELECT load_extension('x')",
        "ATTACH 'other.db' AS other",
        "DELETE FROM messages",
    ):
        with pytest.raises(sqlite3.DatabaseError, match="prohibited|not authorized"):
            connection.execute(query).fetchall()
    connection.close()


def test_work_between_two_rows_is_bounded(tmp_path, monkeypatch):
    path = database(tmp_path / "bag.db3", f"{TOPICS} {MESSAGES.replace(' INTEGER PRIMARY KEY', '')}")
    with sqlite3.connect(path) as connection:  # without a key: sorted before the first row comes
        connection.executemany(
            "INSERT INTO messages VALUES (?, 1, 1, x'00')", [(-k,) for k in range(400_000)]
        )
    connection.close()
    monkeypatch.setattr(reading, "MOST_STEPS", 1)
    bag = open_bag(path)
    list(records(bag))
    assert any("interrupted" in reason for reason in bag.damage)


def test_a_row_in_circles_ends(tmp_path):
    """A cell whose overflow pages lead back to the first of them."""
    path = database(
        tmp_path / "bag.db3", f"{TOPICS} {MESSAGES} INSERT INTO messages VALUES (1, 1, 1, zeroblob(100000));"
    )
    whole = path.read_bytes()
    with open(path, "rb") as file:
        assert [len(row[3]) for row in leaf_rows(file)] == [100_000]
    size = int.from_bytes(whole[16:18], "big")
    pages = [bytearray(whole[k : k + size]) for k in range(0, len(whole), size)]
    chain = [k for k, page in enumerate(pages) if int.from_bytes(page[:4], "big") == k + 2 and k > 2]
    pages[chain[-1]][:4] = (chain[0] + 1).to_bytes(4, "big")
    path.write_bytes(b"".join(pages))
    with open(path, "rb") as file:
        assert list(leaf_rows(file)) == []


def test_rows_that_share_their_pages_end(tmp_path):
    """Thousands of cells that point to the same long row."""
    rows = ", ".join(f"({k}, 1, 1, zeroblob(3000))" for k in range(1, 400))
    path = database(tmp_path / "bag.db3", f"{TOPICS} {MESSAGES} INSERT INTO messages VALUES {rows};")
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    for start in range(size, len(data), size):
        if data[start] == 0x0D:
            first = data[start + 8 : start + 10]
            data[start + 3 : start + 5] = (400).to_bytes(2, "big")
            data[start + 8 : start + 808] = first * 400
    path.write_bytes(data)
    with open(path, "rb") as file, pytest.raises(ValueError, match="the same pages again and again"):
        total = 0
        for row in leaf_rows(file):
            total += len(row[3])
            assert total <= len(data)


def test_a_compressed_database_that_becomes_too_large_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bag.db3.zstd"
    path.write_bytes(reading.zstd.compress(bytes(10_000_000)))
    monkeypatch.setattr(reading, "INFLATION", (10, 1_000_000))
    with pytest.raises(BagError, match="becomes larger than 1000000 bytes"):
        list(records(open_bag(path)))


def test_a_metadata_file_of_aliases_is_damage(tmp_path):
    """Nine lines that make a list of a billion names."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    bomb = "\n".join(lines) + "\nrosbag2_bagfile_information:\n  relative_file_paths: [*i]\n"
    (tmp_path / "metadata.yaml").write_text(bomb)
    database(tmp_path / "bag.db3", TOPICS + MESSAGES)
    assert open_bag(tmp_path).damage[0].startswith("metadata.yaml is damaged")


# Stores --------------------------------------------------------------------------------------------------


def test_a_shard_that_claims_too_many_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(episode_row, "MOST_ROWS", 100)
    pq.write_table(pa.table({"x": pa.array(np.zeros(101, np.int8))}), tmp_path / "a.parquet")
    with pytest.raises(StoreError, match="claims 101 rows"):
        read_shard(tmp_path / "a.parquet")


def test_a_shard_that_expands_beyond_any_is_refused_on_the_way(tmp_path, monkeypatch):
    """One long text, ten thousand times by reference: 100 kB on disk."""
    path = tmp_path / "a.parquet"
    long = pa.array(["x" * 100_000] * 4000).dictionary_encode()
    pq.write_table(pa.table({"x": long.cast(pa.string())}), path, compression="zstd")
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(episode_row, "LARGEST_SHARD", 50_000_000)
    with pytest.raises(StoreError, match="takes more than 50,000,000 bytes in memory|claims"):
        read_shard(path)


def test_shards_read_in_parts_are_whole(tmp_path):
    free = np.ones((4, 6), dtype=bool)
    moves = np.zeros((20, 2), dtype=np.int8)
    goals = np.array([(0, 0, 0, 5), (0, 1, 3, 0)], dtype=np.int16)
    made = [
        Episode(free, np.array([[0, 0], [3, 5]], np.int16), goals, moves, moves, np.zeros((20, 2), np.float16), False,
                "bag", "hall", seed, {"lifelong": True})
        for seed in range(3 * episode_row._STEP + 5)
    ]  # fmt: skip
    write_shard(tmp_path / "a.parquet", made)
    assert [episode.seed for episode in read_shard(tmp_path / "a.parquet")] == [e.seed for e in made]


def test_an_expert_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", version=np.int64(1), x=np.zeros(10_000_000, np.int8))
    monkeypatch.setattr(smax_net, "LARGEST", 1_000_000)
    with pytest.raises(ValueError, match="bytes unpacked, at most 1000000 are read"):
        smax_net.load(tmp_path / "a.npz")
