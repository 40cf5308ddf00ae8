"""The whole view: simulator, fleet node and `marlgpt view` as processes over real DDS, and a real browser."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import domains
import numpy as np
import pytest
from marlgpt_policy.grid.occupancy_map import OccupancyMap, save_map_yaml

pytest.importorskip("rclpy")
pytest.importorskip("marlgpt_msgs")

from chromium import BROWSER, MISSING, Chromium  # noqa: E402
from fleet_bench import write_policy  # noqa: E402

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason=MISSING), pytest.mark.slow, pytest.mark.timeout(900),
]  # fmt: skip
ROBOTS = ["ann", "bob"]
PATIENCE = 200.0  # s that starting processes may take on a busy machine
WHERE = """(([x, y]) => { const b = document.getElementById("map").getBoundingClientRect();
    return [x + b.x, y + b.y]; })(view.scene.toScreen(%s))"""


class Graph:
    """The processes; names are relative, so that all of it may lie in a namespace."""

    def __init__(self, folder: Path, namespace: str = "yard"):
        self.folder, self.namespace, self.processes = folder, namespace, {}
        self.domain = str(domains.take())
        occupied = np.zeros((120, 160), bool)
        occupied[[0, -1], :] = occupied[:, [0, -1]] = True
        save_map_yaml(
            OccupancyMap(occupied, np.zeros_like(occupied), 0.05, (0.0, 0.0, 0.0)), folder / "hall.yaml"
        )
        robots, same = f"[{', '.join(ROBOTS)}]", {"drive": "holonomic", "max_speed": 1.0}
        hall = str(folder / "hall.yaml")
        poses = "[1.5, 1.5, 0.0, 5.0, 4.0, 0.0]"
        self.node("sim.nodes.map_publisher", map_yaml=hall)
        self.node(
            "sim.nodes.simulator", robots=robots, map_yaml=hall, initial_poses=poses, cmd_timeout=0.2,
            real_time_factor=0.5, **same,
        )  # fmt: skip
        self.node(
            "policy.nodes.fleet_node", robots=robots, policy=write_policy(folder / "tiny.onnx"), autostart=True,
            use_sim_time=True, temperature=0.0, providers="[CPUExecutionProvider]", **same,
        )  # fmt: skip
        self.port = 0
        self.view()

    def environment(self):
        return os.environ | {"ROS_DOMAIN_ID": self.domain, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}

    def node(self, module: str, **parameters):
        command = [sys.executable, "-m", f"marlgpt_{module}", "--ros-args", "-r", f"__ns:=/{self.namespace}"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        self.start(module.split(".")[-1], command)

    def start(self, name: str, command: list[str]):
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log)

    def view(self):
        """Start `marlgpt view`, on the port of before if there was one."""
        (self.folder / "view.log").unlink(missing_ok=True)
        code = "import sys; from marlgpt_training.cli import main; sys.exit(main(sys.argv[1:]))"
        options = ["--namespace", self.namespace, "--port", str(self.port), "--use-sim-time"]
        self.start("view", [sys.executable, "-u", "-c", code, "view", *options])
        for _ in range(int(PATIENCE / 0.2)):
            lines = [line for line in self.log("view").splitlines() if line.startswith("view: open ")]
            if lines:
                self.url = lines[0].removeprefix("view: open ")
                self.port = int(self.url.split(":")[-1].split("/")[0])
                return
            assert self.processes["view"].poll() is None, self.log("view")
            try:
                self.processes["view"].wait(0.2)
            except subprocess.TimeoutExpired:
                pass
        pytest.fail(self.log("view"))

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def end(self, name: str, kind=signal.SIGINT) -> int:
        process = self.processes.pop(name)
        process.send_signal(kind)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def close(self):
        for name in list(self.processes):
            self.end(name)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    graph = Graph(tmp_path_factory.mktemp("graph"))
    yield graph
    graph.close()


@pytest.fixture(scope="module")
def page(graph, tmp_path_factory):
    # Drawing without a graphics card costs as much as everything else here: a small window.
    browser = Chromium(tmp_path_factory.mktemp("chromium") / "profile", (960, 640))
    page = browser.open(graph.url)
    ready = "document.documentElement.dataset.stale === 'false' && view.scene.grid && view.scene.surface"
    page.until(f"{ready} && view.state.frame.robots.status.every(s => s === 1)", PATIENCE)
    yield page
    browser.close()


def test_a_click_sets_a_goal_that_the_robot_reaches(graph, page):
    assert page.js("view.scene.names") == ROBOTS and page.js("view.state.welcome.title") == graph.namespace
    page.until("view.scene.radii[0] > 0.2", PATIENCE)  # told by the fleet node
    start = page.js("(p => [p.x, p.y])(view.scene.pose(0))")
    assert start == pytest.approx((1.5, 1.5), abs=0.5)
    page.click(*page.js(WHERE % "view.scene.pose(0).x, view.scene.pose(0).y"))
    assert page.js("view.state.selected") == "ann"
    page.click(*page.js(WHERE % "6.0, 1.5"))
    page.until("view.state.frame.robots.goal_row[0] >= 0 || view.state.frame.all_goals > 0", PATIENCE)
    page.until("view.state.frame.robots.status[0] === 3")  # moving
    page.until("document.getElementById('log').textContent.includes(\"'ann' reached its goal\")", PATIENCE)
    page.until("view.state.frame.robots.goals_reached[0] === 1")
    page.until("Math.hypot(view.scene.pose(0).x - 6.0, view.scene.pose(0).y - 1.5) < 0.5")
    refused = page.js("view.link.send({type: 'goal', robot: 'ann', x: -5, y: -5}, 'a goal')")
    assert not refused["ok"] and "outside the map" in refused["text"]


def test_stop_stops_all_and_resume_lets_them_go_on(graph, page):
    page.press("Escape")
    for k, (name, x, y) in enumerate(((ROBOTS[0], 1.5, 4.5), (ROBOTS[1], 1.5, 3.0))):
        page.click_on(f"#robots tr:nth-child({k + 1}) button")
        assert page.js("view.state.selected") == name
        page.click(*page.js(WHERE % f"{x}, {y}"))
    page.until("view.state.frame.robots.status.every(s => s === 3)", PATIENCE)
    page.press("s")
    page.until("view.state.frame.stopped && view.state.frame.robots.status.every(s => s === 5)")
    page.until(
        "document.getElementById('log').textContent.includes('Stop: stopped until fleet/resume is called')"
    )
    page.js("new Promise(done => setTimeout(done, 1500))")  # they brake
    places = page.js("view.state.frame.robots.x.concat(view.state.frame.robots.y)")
    page.js("new Promise(done => setTimeout(done, 1500))")
    assert page.js("view.state.frame.robots.x.concat(view.state.frame.robots.y)") == pytest.approx(
        places, abs=0.02
    )
    page.click_on("#resume")
    page.click_on("#resume")
    page.until("!view.state.frame.stopped")
    page.until("view.state.frame.robots.goals_reached.every(n => n >= 1)", PATIENCE)


def test_stop_and_resume_of_one_robot(graph, page):
    page.call("Page.reload")  # nothing is selected, and the page begins at its top
    page.until("view.state.frame.robots.status.length === 2 && view.state.selected === null", PATIENCE)
    page.click_on("#robots tr:nth-child(2) button")
    page.click_on("#stopone")
    page.until("view.state.frame.robots.status[1] === 5 && view.state.frame.robots.status[0] !== 5")
    page.click_on("#resumeone")
    page.until("view.state.frame.robots.status[1] !== 5")
    assert page.js("view.state.frame.stopped") is False


def test_throughput_separation_and_diagnostics_are_shown(graph, page):
    page.until("view.state.frame.sample.goals > 0 && view.state.frame.sample.latency > 0", PATIENCE)
    assert page.js("view.state.frame.sim.least") > 0.0
    assert page.js("view.state.frame.sim.robot_contacts + view.state.frame.sim.wall_contacts") == 0
    page.until("document.getElementById('diagnostics').textContent.includes('decision_ms_p99')", PATIENCE)
    assert page.complaints() == [] and page.js("document.documentElement.dataset.error") is None


def test_the_page_survives_a_restart_of_the_view(graph, page):
    assert graph.end("view") == 0, graph.log("view")
    page.until("document.documentElement.dataset.stale === 'true'")
    graph.view()
    page.until("document.documentElement.dataset.stale === 'false'", PATIENCE)
    assert page.js("view.scene.names") == ROBOTS
    with urllib.request.urlopen(graph.url, timeout=20) as response:
        assert response.status == 200


def test_the_page_says_that_the_fleet_node_is_gone_and_sees_it_come_back(graph, page):
    command = graph.processes["fleet_node"].args
    graph.end("fleet_node", signal.SIGKILL)
    banner = "document.getElementById('banner').textContent"
    page.until(
        f"document.documentElement.dataset.stale === 'true' && {banner}.includes('what you see is old')"
    )
    page.press("s")  # the network still lists the dead process: a stop that nobody confirms is no success
    page.until("document.getElementById('log').textContent.includes('NOT CONFIRMED')", PATIENCE)
    page.js("view.link.forgetStop()")
    graph.start("fleet_node", command)
    page.until("document.documentElement.dataset.stale === 'false'", PATIENCE)
    page.until("view.state.frame.robots.status.every(s => s === 1)", PATIENCE)  # settled, and not stopped
    assert math.isfinite(page.js("view.scene.pose(0).x")) and page.js("view.state.frame.stopped") is False
