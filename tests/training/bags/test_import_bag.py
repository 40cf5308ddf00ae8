"""import-bag as users meet it: good and bad bags in one call, salvage of what is broken, and bags beyond memory."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bag_fleets import DECISION, GRID, MAP, ODOM, AnyBag, Messages, record_run  # noqa: E402
from fleet_sim import Stub, drawn  # noqa: E402
from fuzzing import damaged, fuzz  # noqa: E402
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_sim.bags.bag_writer import BagWriter
from marlgpt_sim.world.closed_loop import ClosedLoop
from marlgpt_training import cli
from marlgpt_training.bags.bag_reader import BagError, Decoder, open_bag, records
from marlgpt_training.bags.import_args import Args
from marlgpt_training.bags.import_bag import import_bag, main
from marlgpt_training.bags.inventory import Inventory, take_inventory
from marlgpt_training.store.shards import read_shard
from places import ROOT
from rosbags.rosbag2 import StoragePlugin

pytest.importorskip("rclpy")

PLAN = drawn("........", ".##..##.", "........", ".##..##.", "........")
SECOND = 10**9


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """Five robots for 30 s, recorded with decisions."""
    path = tmp_path_factory.mktemp("run") / "monday"
    loop = ClosedLoop(PLAN, 5, Stub(), FleetConfig(latency=None, first_settle=0.0), seed=1, noise=0.002)
    record_run(path, loop, PLAN, 30.0)
    return path


def episodes_of(folder):
    return [episode for path in sorted(Path(folder).glob("*.parquet")) for episode in read_shard(path)]


def taken(folder):
    return sum(int((episode.actions >= 0).sum()) for episode in episodes_of(folder))


# The command ---------------------------------------------------------------------------------------------


def test_one_bad_bag_does_not_stop_the_others(bag, tmp_path, capsys):
    """All good bags are imported, the bad ones are named, and the exit status says that something was wrong."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    arguments = ["import-bag", "--bag", str(tmp_path / "empty"), str(bag), str(tmp_path / "notes.txt")]
    assert cli.main([*arguments, "--out", str(tmp_path / "store")]) == 1
    out, err = capsys.readouterr()
    assert "robot steps in 1 episodes from decisions" in out and "report: " in out
    assert f"{tmp_path / 'empty'}: holds no .mcap or .db3 file" in err
    assert f"{tmp_path / 'notes.txt'}: is no bag" in err
    assert taken(tmp_path / "store") > 50
    page = (tmp_path / "store" / "report.html").read_text()
    assert page.count("<section>") == 3 and page.count("data:image/png") == 3
    assert not re.search(r"(src|href)=.(https?:)?//", page)  # needs nothing else
    for text in ("monday", "of the free cells visited", "Moves to imitate", "Not taken", "Recovered paths"):
        assert text in page


def test_only_bad_bags(tmp_path, capsys):
    assert cli.main(["import-bag", "--bag", str(tmp_path / "no"), "--out", str(tmp_path / "store")]) == 1
    assert "no: does not exist" in capsys.readouterr().err
    assert cli.main(["import-bag", "--out", str(tmp_path / "store")]) == 1
    assert "--bag: name at least one bag" in capsys.readouterr().err


def test_importing_again_replaces(bag, tmp_path):
    """A second import of a bag gives the same shards, not more of them."""
    args = Args(out=tmp_path / "store")
    import_bag(bag, args)
    first = {path.name: path.read_bytes() for path in (tmp_path / "store").glob("*.parquet")}
    stale = tmp_path / "store" / next(iter(first)).replace("00000", "00007")
    stale.write_bytes(b"from an earlier import")
    import_bag(bag, args)
    assert {path.name: path.read_bytes() for path in (tmp_path / "store").glob("*.parquet")} == first


def test_report_numbers_agree_with_the_store(bag, tmp_path):
    summary = import_bag(bag, Args(out=tmp_path / "store"))
    episodes = episodes_of(tmp_path / "store")
    assert summary.taken == summary.seen == taken(tmp_path / "store")
    assert summary.labelled == sum(int((e.labels >= 0).sum()) for e in episodes) == summary.actions.sum()
    assert summary.visits.sum() == summary.taken and 0.5 < summary.coverage <= 1
    assert json.loads(json.dumps(episodes[0].spec))["robots"] == [f"robot_{i}" for i in range(5)]


# Broken bags ---------------------------------------------------------------------------------------------


def mcap_of(bag):
    return bag / f"{bag.name}_0.mcap"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_torn_mcap(bag, tmp_path, share):
    """A file that was cut off gives what comes before, in proportion, and says that it was."""
    data = mcap_of(bag).read_bytes()
    (tmp_path / "torn.mcap").write_bytes(data[: int(share * len(data))])
    whole, part = Args(out=tmp_path / "a"), Args(out=tmp_path / "b")
    import_bag(bag, whole)
    summary = import_bag(tmp_path / "torn.mcap", part)
    assert any("ends in the middle" in reason for reason in summary.damage)
    assert taken(tmp_path / "b") > 0.8 * share * taken(tmp_path / "a") - 60
    assert summary.mode == "decisions"


def test_what_a_killed_recorder_leaves(bag, tmp_path):
    """Parts without metadata.yaml, the last one without an end: imported as they are, in their order."""
    path = tmp_path / "killed"
    writer = BagWriter(path, ["marlgpt_msgs"], flush_period=60.0, max_size=200_000)
    for record in records(open_bag(bag)):
        writer.add_topic(record.topic, record.type, [])
        writer.write(record.topic, record.type, record.data, record.stamp)
    writer.flush()
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    writer.close()
    assert len(list(copy.glob("*.mcap"))) > 5
    last = f"killed_{len(writer.parts) - 1}.mcap"
    assert (
        f"{last} is not named in metadata.yaml: the recording did not end properly" in open_bag(copy).damage
    )
    (copy / "metadata.yaml").unlink()
    torn = copy / last
    torn.write_bytes(torn.read_bytes()[:-1])
    a, b = import_bag(bag, Args(out=tmp_path / "a")), import_bag(copy, Args(out=tmp_path / "b"))
    assert b.taken >= a.taken - 5 and not b.dropped["recorded twice"]
    assert any("metadata.yaml is missing" in reason for reason in b.damage)


def test_damage_in_the_middle(bag, tmp_path):
    """A chunk that is damaged is lost; what comes before and after it is not."""
    data = bytearray(mcap_of(bag).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20] = bytes(range(200, 220))
    (tmp_path / "x.mcap").write_bytes(bytes(data))
    import_bag(bag, Args(out=tmp_path / "a"))
    import_bag(tmp_path / "x.mcap", Args(out=tmp_path / "b"))
    assert taken(tmp_path / "b") > 0.3 * taken(tmp_path / "a")


@pytest.fixture(scope="module")
def database(bag, tmp_path_factory):
    """The same messages in SQLite."""
    path = tmp_path_factory.mktemp("db3") / "monday"
    messages = Messages()
    with AnyBag(path, messages, plugin=StoragePlugin.SQLITE3) as target:
        from bag_fleets import our_types

        types, connections = our_types(), {}
        for record in records(open_bag(bag)):
            if record.topic not in connections:
                connections[record.topic] = target.writer.add_connection(
                    record.topic, record.type, typestore=types
                )
            target.writer.write(connections[record.topic], record.stamp, record.data)
    return path


def test_sqlite_gives_the_same(bag, database, tmp_path):
    """Decisions in SQLite are read as those in MCAP."""
    import_bag(bag, Args(out=tmp_path / "a"))
    import_bag(database, Args(out=tmp_path / "b"))
    for a, b in zip(episodes_of(tmp_path / "a"), episodes_of(tmp_path / "b"), strict=True):
        assert all(
            np.array_equal(getattr(a, k), getattr(b, k)) for k in ("cells", "history", "masks", "actions")
        )


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_torn_sqlite(bag, database, tmp_path, share):
    """A database that was cut off gives the messages before the cut."""
    data = (database / "monday.db3").read_bytes()
    (tmp_path / "torn.db3").write_bytes(data[: int(share * len(data))])
    summary = import_bag(tmp_path / "torn.db3", Args(out=tmp_path / "b"))
    assert any("damaged or cut off" in reason for reason in summary.damage)
    import_bag(bag, Args(out=tmp_path / "a"))
    assert taken(tmp_path / "b") > 0.5 * share * taken(tmp_path / "a")


def test_database_of_a_crash_with_its_log(database, tmp_path):
    """rosbag2 writes ahead to a log beside the database; after a crash the messages are there."""
    source = tmp_path / "live"
    source.mkdir()
    shutil.copy(database / "monday.db3", source / "live.db3")
    writer = sqlite3.connect(source / "live.db3")
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    count = writer.execute("SELECT count(*) FROM messages").fetchone()[0]
    writer.execute(
        "INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, timestamp, data FROM messages"
    )
    writer.commit()
    shutil.copytree(source, tmp_path / "crashed")
    writer.close()
    assert sum(1 for _ in records(open_bag(tmp_path / "crashed"))) == 2 * count


MCAP_START = b"\x89MCAP0\r\n"
BAD = {
    "empty.mcap": (b"", "is empty"),
    "empty.db3": (b"", "is empty"),
    "text.mcap": (b"hello" * 50, "not an MCAP file"),
    "text.db3": (b"hello" * 5000, "no readable database|file is not a database"),
    "head.mcap": (MCAP_START, "holds no message"),
    "huge_record.mcap": (MCAP_START + b"\x01" + b"\xff" * 8, "holds no message"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_bags(tmp_path, name):
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BagError, match=reason) as error:
        import_bag(tmp_path / name, Args(out=tmp_path / "store"))
    assert name in str(error.value)


def test_database_of_something_else(tmp_path):
    with sqlite3.connect(tmp_path / "other.db3") as database:
        database.execute("CREATE TABLE songs (name TEXT)")
    with pytest.raises(BagError, match="other.db3 is a database, but not a bag"):
        import_bag(tmp_path / "other.db3", Args(out=tmp_path / "store"))


def test_unrelated_bag(tmp_path):
    """A bag of something else names what it has and what is missing."""
    messages = Messages()
    with AnyBag(tmp_path / "camera", messages) as bag:
        bag.write("/chatter", messages.new("std_msgs/msg/String", data="hi"), 1)
    with pytest.raises(BagError, match="camera: has no map among its topics .*/chatter.*--map"):
        import_bag(tmp_path / "camera", Args(out=tmp_path / "store"))
    with AnyBag(tmp_path / "mapper", messages) as bag:
        bag.write("/map", messages.map(PLAN), 1)
    with pytest.raises(BagError, match="mapper: has no poses of robots .*--topics"):
        import_bag(tmp_path / "mapper", Args(out=tmp_path / "store"))
    (tmp_path / "all").mkdir()
    (tmp_path / "mapper").rename(tmp_path / "all" / "mapper")
    with pytest.raises(BagError, match="holds the bags mapper: name those"):
        open_bag(tmp_path / "all")


def test_decisions_of_an_older_version_fall_back_to_poses(tmp_path, bag):
    """Without what the observations rest on, decisions cannot be imported; poses can."""
    path = tmp_path / "old"
    new = "present|history|mask|goals_reached|grid|policy|detour_rows|detour_cols"
    old = re.compile(rf"^\S+ +({new}) .*$", re.M)
    from bag_fleets import our_types
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    folder = ROOT / "ros2_ws" / "src" / "marlgpt_msgs" / "msg"
    types = get_typestore(Stores.ROS2_KILTED)
    for name in ("RobotDecision", "FleetDecision"):
        types.register(
            get_types_from_msg(old.sub("", (folder / f"{name}.msg").read_text()), f"marlgpt_msgs/msg/{name}")
        )
    now = our_types()

    def older(message, kind):
        made = types.types[kind]
        values = {k: getattr(message, k) for k in made.__dataclass_fields__ if not k.startswith("__")}
        if "robots" in values:
            values["robots"] = [older(robot, "marlgpt_msgs/msg/RobotDecision") for robot in values["robots"]]
        return made(**values)

    with BagWriter(path) as target:
        target.types = types
        for record in records(open_bag(bag)):
            if record.type == GRID:
                continue
            target.add_topic(record.topic, record.type, [])
            data = record.data
            if record.type == DECISION:
                data = bytes(
                    types.serialize_cdr(older(now.deserialize_cdr(data, DECISION), DECISION), DECISION)
                )
            target.write(record.topic, record.type, data, record.stamp)
    summary = import_bag(path, Args(out=tmp_path / "store"))
    assert summary.mode == "poses" and any("older version" in reason for reason in summary.damage)
    assert taken(tmp_path / "store") > 50


def test_bytes_that_are_no_messages_are_counted(tmp_path, bag):
    path = tmp_path / "x"
    with BagWriter(path, ["marlgpt_msgs"]) as target:
        for k, record in enumerate(records(open_bag(bag))):
            target.add_topic(record.topic, record.type, [])
            bad = record.type == DECISION and k % 5 == 0
            target.write(record.topic, record.type, record.data[:9] if bad else record.data, record.stamp)
    summary = import_bag(path, Args(out=tmp_path / "store"))
    assert summary.dropped[f"message of type {DECISION} is damaged"] > 3
    assert taken(tmp_path / "store") > 50


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Small bags of either storage, as bytes."""
    messages, found = Messages(), {}
    for plugin, suffix in ((StoragePlugin.MCAP, "mcap"), (StoragePlugin.SQLITE3, "db3")):
        path = tmp_path_factory.mktemp("small") / "bag"
        with AnyBag(path, messages, plugin=plugin) as bag:
            bag.write("/map", messages.map(drawn("...", "...")), 1)
            for k in range(12):
                at = messages.odometry(k * SECOND // 4, "map", 0.25 + 0.1 * k, 0.25, 0.0)
                bag.write("/a/odom", at, k * SECOND // 4)
        found[suffix] = (path / f"bag.{suffix}").read_bytes()
    return found


@pytest.mark.parametrize("suffix", ["mcap", "db3"])
@fuzz(100)
@given(data=st.data())
def test_fuzzed_bags(tmp_path_factory, small, suffix, data):
    """Whatever is in a file, it is imported as far as it can be, or refused by name."""
    folder = tmp_path_factory.mktemp("fuzzed")
    path = folder / f"x.{suffix}"
    path.write_bytes(data.draw(damaged(small[suffix]) | st.binary(max_size=60)))
    try:
        import_bag(path, Args(out=folder / "store"))
    except BagError as error:
        assert f"x.{suffix}" in str(error)


@fuzz(15)
@given(content=st.binary(max_size=80) | st.text(max_size=60).map(str.encode) | st.sampled_from([
    b"rosbag2_bagfile_information: 3", b"rosbag2_bagfile_information: {relative_file_paths: 7}", b"[" * 500,
    b"rosbag2_bagfile_information: {relative_file_paths: [../../x.mcap, bag.mcap, no.mcap]}",
]))  # fmt: skip
def test_fuzzed_metadata(tmp_path_factory, small, content):
    """A damaged metadata.yaml costs nothing."""
    folder = tmp_path_factory.mktemp("bag")
    (folder / "bag.mcap").write_bytes(small["mcap"])
    (folder / "metadata.yaml").write_bytes(content)
    found: Inventory = take_inventory(open_bag(folder), Decoder(""), lambda _: None)
    assert found.topics["/a/odom"].count == 12


# Memory --------------------------------------------------------------------------------------------------

BIG = """
import sys
from pathlib import Path
from marlgpt_training.bags.import_bag import import_bag
from marlgpt_training.bags.import_args import Args

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

import_bag(Path(sys.argv[1]) / "small", Args(out=Path(sys.argv[1]) / "a"))
before = peak()
summary = import_bag(Path(sys.argv[1]) / "big", Args(out=Path(sys.argv[1]) / "b"))
print(before, peak(), summary.taken)
"""


def test_memory_does_not_grow_with_the_bag(tmp_path, bag):
    """A bag of 120 MB, most of it camera images that nobody wants, costs no more memory than a few chunks."""
    image = bytes(2_000_000)
    every = [record for record in records(open_bag(bag)) if record.type in (GRID, DECISION, MAP, ODOM)]
    for name, images in (("small", 1), ("big", 60)):
        with BagWriter(tmp_path / name, ["marlgpt_msgs"], flush_period=60.0) as target:
            target.add_topic("/camera", "sensor_msgs/msg/Image", [])
            for k, record in enumerate(every):
                target.add_topic(record.topic, record.type, [])
                target.write(record.topic, record.type, record.data, record.stamp)
                if k % (len(every) // images + 1) == 0:
                    target.write("/camera", "sensor_msgs/msg/Image", image, record.stamp)
    size = sum(path.stat().st_size for path in (tmp_path / "big").iterdir())
    assert size > 100e6
    done = subprocess.run(
        [sys.executable, "-c", BIG, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    before, after, steps = map(int, done.stdout.split())
    shutil.rmtree(tmp_path / "big")
    assert steps > 50 and (after - before) * 1024 < 30e6, f"{before} to {after} KiB"


def test_long_recordings_are_cut_into_episodes(tmp_path):
    """Episodes are written as they are full: ten times as many decisions need as little memory."""
    from marlgpt_training.bags import decisions

    assert decisions.LENGTH * 16 < 10_000  # decisions in memory at a time
    messages = Messages()
    grid_steps = 4000
    with AnyBag(tmp_path / "bag", messages) as bag:
        bag.write("/map", messages.map(drawn(*["." * 12] * 3)), SECOND)
        for k in range(grid_steps):  # to and fro, resting at both ends
            phase = k % 200
            x = 0.275 + 7.7 * min(1.0, max(0.0, (phase if phase < 100 else 200 - phase) / 80))
            bag.write(
                "/a/odom", messages.odometry(2 * SECOND + k * SECOND // 5, "map", x, 0.275, 0.0), SECOND
            )
    summary = import_bag(tmp_path / "bag", Args(out=tmp_path / "store"))
    assert summary.episodes >= 1 and summary.labelled > 300
    assert max(len(episode.actions) for episode in episodes_of(tmp_path / "store")) <= decisions.LENGTH


def test_main_checks_its_numbers():
    with pytest.raises(ValueError, match="--rest"):
        main(Args(bag=(Path("x"),), rest=0.0))
