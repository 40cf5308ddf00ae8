"""Over real DDS: simulator, fleet node and recorder as processes, then import, against the answers of the node."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time

import domains
import numpy as np
import pytest
from places import ROOT

pytest.importorskip("rclpy")
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT  # noqa: E402
from marlgpt_policy.policy.onnx_policy import OnnxPolicy  # noqa: E402
from marlgpt_training.bags.bag_reader import Decoder, open_bag, records  # noqa: E402
from marlgpt_training.bags.import_args import Args
from marlgpt_training.bags.import_bag import import_bag
from marlgpt_training.dataloader.episode_unrolling import unroll  # noqa: E402
from marlgpt_training.store.shards import read_shard  # noqa: E402

POLICY = ROOT / "ros2_ws" / "src" / "marlgpt_policy" / "models" / "pogema.onnx"
MAP = ROOT / "ros2_ws" / "src" / "marlgpt_sim" / "maps" / "warehouse.yaml"
NAMES = [f"robot_{i:02d}" for i in range(8)]
DECISION = "marlgpt_msgs/msg/FleetDecision"


def die_with_parent():
    """Linux: the kernel ends the child when the test process ends, however that happens."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The bag of eight robots, simulated in step with the fleet node; the recorder was killed."""
    folder = tmp_path_factory.mktemp("run")
    environment = {
        **os.environ, "ROS_DOMAIN_ID": str(domains.take()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    names = f"robots:={json.dumps(NAMES)}"
    nodes = {
        "marlgpt_sim.nodes.simulator": [
            f"map_yaml:={MAP}", names, "real_time_factor:=0.0", "lockstep:=true", "lockstep_timeout:=20.0",
            "stamped_cmd_vel:=true", "seed:=3",
        ],
        "marlgpt_sim.nodes.map_publisher": [f"map_yaml:={MAP}", "use_sim_time:=true"],
        "marlgpt_sim.nodes.task_source": [names, "use_sim_time:=true", "seed:=3"],
        "marlgpt_policy.nodes.fleet_node": [
            names, f"policy:={POLICY}", "providers:=[CPUExecutionProvider]", "use_sim_time:=true", "autostart:=true",
            "trigger:=poses", "latency:=-1.0", "stamped_cmd_vel:=true",
        ],
        "marlgpt_sim.nodes.recorder_node": [f"output:={folder / 'bag'}", "max_duration:=8.0", "use_sim_time:=true"],
    }  # fmt: skip
    running = []
    try:
        for node, parameters in nodes.items():
            command = [sys.executable, "-m", node, "--ros-args"]
            for parameter in parameters:
                command += ["-p", parameter]
            log = open(folder / f"{node}.log", "w")
            running.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=die_with_parent
                )
            )
        deadline = time.monotonic() + 300
        while count(folder / "bag") < 40:
            assert time.monotonic() < deadline, "no 40 decisions were recorded within 300 s"
            assert all(process.poll() is None for process in running), "a node ended"
            time.sleep(2.0)
        running[-1].kill()
    finally:
        for process in running[:-1]:
            process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return folder / "bag"


def count(path):
    try:
        return sum(record.type == DECISION for record in records(open_bag(path)))
    except ValueError:
        return 0  # not there yet


def test_the_nodes_answers_follow_from_the_imported_observations(recorded, tmp_path):
    """Probabilities and values in the messages are, as float32 bits, what the policy says to the imported tokens."""
    summary = import_bag(recorded, Args(out=tmp_path / "store"))
    assert summary.mode == "decisions" and summary.taken == summary.seen and summary.robots == set(NAMES)
    assert any("metadata.yaml" in reason or "middle" in reason for reason in summary.damage)
    episodes = [e for path in sorted((tmp_path / "store").glob("*.parquet")) for e in read_shard(path)]
    rows = {
        int(time): (replay, step)
        for replay in map(unroll, episodes)
        for step, time in enumerate(replay.episode.times)
    }
    policy, decode = OnnxPolicy(POLICY, POGEMA_LAYOUT, ("CPUExecutionProvider",), 1), Decoder("")
    compared = 0
    for record in records(open_bag(recorded)):
        if record.type != DECISION:
            continue
        message = decode(record.type, record.encoding, record.definition, record.data)
        stamp = message.header.stamp
        replay, step = rows[stamp.sec * 10**9 + stamp.nanosec]
        members = [i for i, robot in enumerate(message.robots) if not robot.held]
        values, valid, mask = replay.encode(step)
        output = policy(values, valid, mask)
        told = np.array([message.robots[i].probabilities for i in members], dtype=np.float32)
        assert output.probabilities.astype(np.float32).tobytes() == told.tobytes()
        executed = np.array([message.robots[i].executed for i in members])
        q = output.q[np.arange(len(members)), executed].astype(np.float32)
        assert q.tobytes() == np.array([message.robots[i].value for i in members], np.float32).tobytes()
        assert np.array_equal(replay.episode.actions[step][members], executed)
        compared += len(members)
    assert compared == summary.taken > 40


def test_the_same_run_from_poses(recorded, tmp_path):
    """The poses in the same bag give steps, too, for the same robots."""
    summary = import_bag(recorded, Args(out=tmp_path / "store", poses=True))
    assert summary.mode == "poses" and summary.robots == set(NAMES) and summary.labelled > 20
