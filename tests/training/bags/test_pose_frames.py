"""Poses alone become steps: of this project's own run, and of foreign bags in every form that they come in."""

from pathlib import Path

import numpy as np
import pytest
from bag_fleets import AnyBag, Messages, record_run, recovered_share, steps_of  # noqa: E402
from fleet_sim import Stub, drawn  # noqa: E402
from marlgpt_policy.fleet.fleet_config import FleetConfig
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import save_map_yaml
from marlgpt_sim.world.closed_loop import ClosedLoop
from marlgpt_training.bags.bag_reader import BagError
from marlgpt_training.bags.decision_inference import Inference
from marlgpt_training.bags.import_args import Args
from marlgpt_training.bags.import_bag import import_bag
from marlgpt_training.bags.pose_frames import Transforms, robot_names
from marlgpt_training.bags.tracks import Track, step_time
from marlgpt_training.dataloader.episode_unrolling import unroll
from marlgpt_training.store.shards import read_shard
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores

LINES = ("..............",) + (".##.###.###.#.", "..............") * 3
PLAN = drawn(*LINES)
SECOND = 10**9


def episodes_of(folder):
    return [episode for path in sorted(Path(folder).glob("*.parquet")) for episode in read_shard(path)]


# Our own run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", ["asynchronous", "synchronous"])
def test_own_run_from_poses_alone(tmp_path, execution):
    """At least 95 % of the moves and waits that the robots really decided on are found in noisy poses."""
    pytest.importorskip("rclpy")
    steps = recovered = recovered_moves = 0.0
    for seed in (1, 2, 3):
        folder = tmp_path / str(seed)
        loop = ClosedLoop(
            PLAN,
            10,
            Stub(),
            FleetConfig(execution=execution, latency=None, first_settle=0.0),
            seed=seed,
            noise=0.003,
        )
        truth = record_run(folder / "bag", loop, PLAN, 60.0)
        summary = import_bag(folder / "bag", Args(out=folder / "store", poses=True))
        episodes = episodes_of(folder / "store")
        found = steps_of(episodes, loop.fleet.names)
        every, moves = recovered_share(truth.steps, found)
        count = sum(map(len, truth.steps))
        steps, recovered = steps + count, recovered + every * count
        recovered_moves += moves * count
        assert sum(map(len, found)) <= 1.1 * count  # and little that was not there
        assert summary.labelled > 0.9 * summary.taken
        for episode in episodes:
            episode.check()
            replay = unroll(episode)
            for step in range(0, len(episode.actions), 7):
                values, _, mask = replay.encode(step)
                made = episode.actions[step, episode.actions[step] >= 0]
                assert mask[np.arange(len(made)), made].all() and np.isfinite(values).all()
    print(
        f"recovered: {recovered / steps:.4f} of {steps:.0f} steps, {recovered_moves / steps:.4f} of the moves"
    )
    assert recovered >= 0.95 * steps and recovered_moves >= 0.95 * steps


# Foreign bags --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drive():
    """Poses float[T, n, 3] of three robots at 10 Hz that go from goal to goal and rest there, and their cells."""
    loop = ClosedLoop(
        PLAN, 3, Stub(), FleetConfig(temperature=0.0, latency=None, first_settle=0.0), seed=2, noise=0.001
    )
    loop.goals = False
    random, found, arrived = np.random.default_rng(7), [], np.zeros(3)
    reached = 0
    for _ in range(1400):
        for i in loop.tick().reached:
            arrived[i], reached = loop.time, reached + 1
        for i in range(3):
            if loop.fleet.goals[i, 0] < 0 and loop.time - arrived[i] > 4.0:
                cell = loop.cells[random.integers(len(loop.cells))]
                loop.fleet.set_goal(i, *loop.grid.centre(cell))
        found.append(loop.fleet.poses.copy())
    return np.array(found)[::2], reached


NAMES = ("alice", "bob", "carol")


def write_drive(path, poses, form="odom", store=Stores.ROS2_KILTED, **options):
    """A foreign bag of the drive, at 10 Hz."""
    messages = Messages(store)
    with AnyBag(path, messages, **options) as bag:
        if form != "no map":
            bag.write("/map", messages.map(PLAN), SECOND)
        if form == "tf":
            fixed = [("map", f"{name}/odom", 1.0, 2.0, 0.5) for name in NAMES]
            bag.write("/tf_static", messages.transforms(SECOND, *fixed), SECOND)
        for k, each in enumerate(poses):
            stamp = 2 * SECOND + k * SECOND // 10
            for name, pose in zip(NAMES, each, strict=True):
                if form in ("odom", "no map"):
                    bag.write(f"/{name}/odom", messages.odometry(stamp, "map", *pose), stamp)
                elif form == "amcl":
                    bag.write(f"/fleet/{name}/amcl_pose", messages.amcl(stamp, "map", *pose), stamp)
                elif form == "stamped":
                    bag.write(f"/{name}/pose", messages.stamped(stamp, "/map", *pose), stamp)
                elif form == "tf":
                    c, s = np.cos(0.5), np.sin(0.5)
                    x, y = c * (pose[0] - 1) + s * (pose[1] - 2), -s * (pose[0] - 1) + c * (pose[1] - 2)
                    each_tf = (f"{name}/odom", f"{name}/base_link", x, y, pose[2] - 0.5)
                    bag.write("/tf", messages.transforms(stamp, each_tf), stamp)
    return path


@pytest.fixture(scope="module")
def plain(drive, tmp_path_factory):
    """Steps of the drive as the plainest bag gives them."""
    folder = tmp_path_factory.mktemp("plain")
    summary = import_bag(write_drive(folder / "bag", drive[0]), Args(out=folder / "store"))
    return summary, steps_of(episodes_of(folder / "store"), NAMES)


def test_goals_are_where_robots_rested(drive, plain):
    """The drive's goals are found again, and nearly every step leads to one of them."""
    summary, steps = plain
    assert abs(summary.rests - drive[1]) <= 3 and drive[1] > 6
    moves = sum(move > 0 for each in steps for *_, move in each)
    assert summary.labelled > 0.9 * moves and moves > 60
    assert summary.dropped["step standing without a goal"] > 0


KINDS = {
    "humble sqlite": (Stores.ROS2_HUMBLE, {"plugin": StoragePlugin.SQLITE3, "version": 8}),
    "humble mcap": (Stores.ROS2_HUMBLE, {"version": 8}),
    "jazzy sqlite": (Stores.ROS2_JAZZY, {"plugin": StoragePlugin.SQLITE3}),
    "jazzy zstd chunks": (
        Stores.ROS2_JAZZY, {"compression": (CompressionMode.STORAGE, CompressionFormat.ZSTD)},
    ),
    "kilted sqlite zstd messages": (
        Stores.ROS2_KILTED,
        {"plugin": StoragePlugin.SQLITE3, "compression": (CompressionMode.MESSAGE, CompressionFormat.ZSTD)},
    ),
    "kilted sqlite zstd file": (
        Stores.ROS2_KILTED,
        {"plugin": StoragePlugin.SQLITE3, "compression": (CompressionMode.FILE, CompressionFormat.ZSTD)},
    ),
    "kilted mcap zstd file": (
        Stores.ROS2_KILTED, {"compression": (CompressionMode.FILE, CompressionFormat.ZSTD)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_storages_and_distributions(tmp_path, drive, plain, kind):
    """Every storage, compression and set of definitions gives the same steps."""
    store, options = KINDS[kind]
    path = write_drive(tmp_path / "bag", drive[0], store=store, **options)
    if kind == "humble sqlite":
        forget_definitions(path)
    summary = import_bag(path, Args(out=tmp_path / "store"))
    assert steps_of(episodes_of(tmp_path / "store"), NAMES) == plain[1]
    assert summary.damage == [] and summary.poses == plain[0].poses


def forget_definitions(path):
    """Make a database as Humble writes it: without definitions of messages."""
    import sqlite3

    with sqlite3.connect(path / "bag.db3") as database:
        database.execute("DROP TABLE message_definitions")
        database.execute("DROP TABLE schema")
        database.execute("ALTER TABLE topics DROP COLUMN type_description_hash")


def test_lz4_chunks(tmp_path, drive, plain):
    """MCAP chunks compressed with lz4, which rosbag2 and other tools write."""
    import struct

    import lz4.frame

    path = write_drive(tmp_path / "bag", drive[0]) / "bag.mcap"
    data, start, out = path.read_bytes(), 8, bytearray(b"\x89MCAP0\r\n")
    while start < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, start)
        body = data[start + 9 : start + 9 + length]
        if opcode == 6:
            body = (
                body[:28]
                + struct.pack("<I", 3)
                + b"lz4"
                + struct.pack("<Q", 0)
                + lz4.frame.compress(body[40:])
            )
        if opcode not in (7, 8, 13):
            out += struct.pack("<BQ", opcode, len(body)) + body
        start += 9 + length
    (tmp_path / "lz4.mcap").write_bytes(bytes(out))
    import_bag(tmp_path / "lz4.mcap", Args(out=tmp_path / "store"))
    assert steps_of(episodes_of(tmp_path / "store"), NAMES) == plain[1]


@pytest.mark.parametrize("form", ["amcl", "stamped", "tf"])
def test_forms_of_poses(tmp_path, drive, plain, form):
    """Poses with covariance in a namespace, stamped poses, and tf with an odometry frame between."""
    import_bag(write_drive(tmp_path / "bag", drive[0], form), Args(out=tmp_path / "store"))
    found = steps_of(episodes_of(tmp_path / "store"), NAMES)
    assert recovered_share(plain[1], found)[0] > 0.99


def test_map_from_a_file(tmp_path, drive, plain):
    """A bag without a map says so; with --map it gives the same steps."""
    path = write_drive(tmp_path / "bag", drive[0], "no map")
    with pytest.raises(BagError, match=r"bag: has no map .*--map"):
        import_bag(path, Args(out=tmp_path / "store"))
    save_map_yaml(PLAN, tmp_path / "hall.yaml")
    import_bag(path, Args(out=tmp_path / "store", map=tmp_path / "hall.yaml"))
    assert recovered_share(plain[1], steps_of(episodes_of(tmp_path / "store"), NAMES))[0] > 0.99


def test_robots_and_topics_by_name(tmp_path, drive):
    """--robots and --topics pick; what is not there is named with what is."""
    path = write_drive(tmp_path / "bag", drive[0])
    args = Args(out=tmp_path / "store", robots=("alice", "eve"), topics=("eve=/bob/odom",))
    assert import_bag(path, args).robots == {"alice", "eve"}
    with pytest.raises(BagError, match="--robots dave: .*alice, bob, carol"):
        import_bag(path, Args(out=tmp_path / "store", robots=("dave",)))
    with pytest.raises(BagError, match="/nowhere: .*/alice/odom"):
        import_bag(path, Args(out=tmp_path / "store", topics=("dave=/nowhere",)))
    with pytest.raises(BagError, match="write ROBOT=TOPIC"):
        import_bag(path, Args(out=tmp_path / "store", topics=("dave",)))


def test_robots_file(tmp_path, drive, plain):
    """Names, radius and topics from robots.yaml."""
    file = tmp_path / "robots.yaml"
    file.write_text("map_frame: map\ndefaults: {radius: 0.22}\nrobots: [{name: alice}, {name: carol}]\n")
    path = write_drive(tmp_path / "bag", drive[0])
    summary = import_bag(path, Args(out=tmp_path / "store", robots_file=file))
    assert summary.robots == {"alice", "carol"}


def test_frames_without_tf_are_refused_unless_trusted(tmp_path, drive):
    messages = Messages()
    with AnyBag(tmp_path / "bag", messages) as bag:
        bag.write("/map", messages.map(PLAN), SECOND)
        for k, each in enumerate(drive[0]):
            bag.write(
                "/alice/odom", messages.odometry(SECOND + k * SECOND // 10, "odom", *each[0]), SECOND + k
            )
    with pytest.raises(BagError, match="no tf connects with 'map'.*--trust-frames"):
        import_bag(tmp_path / "bag", Args(out=tmp_path / "store"))
    assert import_bag(tmp_path / "bag", Args(out=tmp_path / "store", trust_frames=True)).labelled > 10


def test_what_does_not_fit_is_counted(tmp_path, drive):
    """Jumps, NaN, gaps, poses in walls and out of order are left out, each by its reason; the rest is used."""
    messages, poses = Messages(), drive[0].copy()
    poses[100, 0] = np.nan
    poses[200:210, 0, :2] += 3.0
    poses[300, 1, :2] = -50.0
    with AnyBag(tmp_path / "bag", messages) as bag:
        bag.write("/map", messages.map(PLAN), SECOND)
        for k, each in enumerate(poses):
            stamp = 2 * SECOND + k * SECOND // 10
            for name, pose in zip(NAMES, each, strict=True):
                if name == "carol" and 400 <= k < 450:
                    continue
                back = 10 * SECOND if name == "bob" and k == 350 else 0
                bag.write(f"/{name}/odom", messages.odometry(stamp - back, "map", *pose), stamp)
        bag.write("/bob/goal_pose", messages.stamped(stamp, "map", 999.0, 0.0, 0.0), stamp)
    summary = import_bag(tmp_path / "bag", Args(out=tmp_path / "store"))
    assert summary.dropped["pose: pose is not finite"] == 1
    assert summary.dropped["pose: robot is off the grid"] >= 1
    assert summary.dropped["pose: pose is older than the one before"] == 1
    assert summary.dropped["pose: pose jumped"] + summary.dropped["pose: robot is off the grid"] >= 3
    assert summary.dropped["goal is not on the grid"] == 1
    assert summary.labelled > 60


def test_recorded_goals_are_used(tmp_path, drive):
    """Where goals were recorded nothing is inferred: steps before the first one have the inferred goal."""
    messages = Messages()
    grid = build_grid(PLAN, 0.22)
    goal = np.array([0, 13])
    with AnyBag(tmp_path / "bag", messages) as bag:
        bag.write("/map", messages.map(PLAN), SECOND)
        bag.write("/alice/goal_pose", messages.stamped(SECOND, "map", *grid.centre(goal), 0.0), SECOND)
        for k, each in enumerate(drive[0]):
            stamp = 2 * SECOND + k * SECOND // 10
            for name, pose in zip(NAMES, each, strict=True):
                bag.write(f"/{name}/odom", messages.odometry(stamp, "map", *pose), stamp)
    import_bag(tmp_path / "bag", Args(out=tmp_path / "store"))
    found = episodes_of(tmp_path / "store")[0]
    mine = found.goals[found.actions[:, 0] > 0, 0]
    assert (mine[:5] == goal).all()


# Parts ---------------------------------------------------------------------------------------------------


def walk(track, grid, cells, speed=0.5, start=0.0, rate=20.0):
    """Feed a track the poses of a robot that drives through ``cells``; ends are where it rests for 3 s."""
    points = grid.centre(np.array(cells))
    time, yaw = start, 0.0
    for here, there in zip(points[:-1], points[1:], strict=True):
        steps = max(1, round(np.hypot(*(there - here)) / speed * rate))
        for k in range(steps):
            track.pose(time, *(here + (there - here) * k / steps), yaw)
            time += 1 / rate
    for _ in range(round(3 * rate)):
        track.pose(time, *points[-1], yaw)
        time += 1 / rate
    return time


def test_diagonals_become_two_moves():
    grid = build_grid(PLAN, 0.22)
    track = Track(grid)
    walk(track, grid, [(0, 0), (0, 1), (0, 2)])
    track.close()
    assert [visit.cell for visit in track.segments[0]] == [(0, 0), (0, 1), (0, 2)]
    assert track.segments[0][-1].still > 2.5
    empty = build_grid(drawn(*["....."] * 4), 0.22)
    track = Track(empty)
    walk(track, empty, [(0, 0), (3, 3)])
    track.close()
    cells = [visit.cell for visit in track.segments[0]]
    assert cells[0] == (0, 0) and cells[-1] == (3, 3) and len(cells) == 7
    assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in zip(cells, cells[1:], strict=False))


def test_waiting_for_another_robot_is_no_goal():
    """A robot that stands behind another one on its way has not arrived."""
    grid = build_grid(drawn("........"), 0.22)
    first, second = Track(grid), Track(grid)
    walk(first, grid, [(0, 3), (0, 3), (0, 3)])  # rests from 0 s to 3 s in the way
    end = walk(second, grid, [(0, 0), (0, 1), (0, 2)], speed=2.0)
    walk(first, grid, [(0, 3), (0, 4), (0, 5), (0, 6), (0, 7)], start=end + 0.05)
    walk(second, grid, [(0, 2), (0, 3), (0, 4), (0, 5)], start=end + 0.1)
    for track in (first, second):
        track.close()
    inference = Inference(grid, {"a": first, "b": second}, step=0.7, rest=2.0)
    goals = {
        tuple(episode.goals[step, 1].tolist())
        for episode in inference.episodes("bag", {})
        for step in np.flatnonzero(episode.labels[:, 1] >= 0)
    }
    assert goals == {(0, 5)}


@pytest.mark.parametrize("stop", [0.0, 0.8, 3.0])
@pytest.mark.parametrize("drive", [1.1, 1.6])
def test_a_step_is_the_drive_to_the_next_cell_also_where_robots_stop_in_each(stop, drive):
    grid, time = build_grid(PLAN, 0.22), 0.0
    track = Track(grid)
    centres = grid.centre(np.stack([np.full(10, 2), np.arange(10)], axis=1))
    for here, there in zip(centres[:-1], centres[1:], strict=True):
        for share in [0.0] * round(stop / 0.05) + np.linspace(0.0, 1.0, round(drive / 0.05) + 1)[
            :-1
        ].tolist():
            track.pose(time, *(here + share * (there - here)), 0.0)
            time += 0.05
    track.close()
    assert step_time([track]) == pytest.approx(drive, abs=0.2)  # a stop is seen a little too long


def test_names_of_robots():
    assert robot_names(["/a/odom", "/b/odom"]) == {"/a/odom": "a", "/b/odom": "b"}
    assert robot_names(["/yard/a/odom", "/yard/b/odom"]) == {"/yard/a/odom": "a", "/yard/b/odom": "b"}
    assert robot_names(["/odom"]) == {"/odom": "robot"}
    assert robot_names(["/a/odom", "/a/amcl_pose"]) == {"/a/odom": "a", "/a/amcl_pose": "a"}


def test_transforms_do_not_go_in_circles():
    messages, transforms = Messages(), Transforms()
    transforms.take(messages.transforms(0, ("a", "b", 1.0, 0.0, 0.0), ("b", "a", 1.0, 0.0, 0.0)))
    assert transforms.find("a", "map") is None
