"""How fluid the live page is with 256 robots, and what it costs, against 16 robots in the same run.

A stand-in publishes the states of a moving fleet over DDS, ten times a second; the real `marlgpt view` shows them in a
headless Chromium, which draws without a graphics card.

    .venv/bin/python benchmarks/bench_view.py --json out/bench/view.json
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import finish, progress

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "sim"))
from chromium import BROWSER, MISSING, Chromium, Page  # noqa: E402

WAREHOUSE = ROOT / "ros2_ws/src/marlgpt_sim/maps/warehouse.yaml"
TICKS = os.sysconf("SC_CLK_TCK")
STATES = 10.0  # per second
FEWER, MORE = 16, 256
MORE_IS_BETTER = (
    "drawn_per_s",
    "frames_per_s",
    "bytes_per_s",
)  # bytes: of all frames, not of those that came late
WATCH = """(() => {
    const w = window.watched = { draws: 0, drawing: 0, frames: 0, taking: 0, bytes: 0, longest: 0 };
    const { scene, link } = view, draw = scene.draw, take = link.handlers.message;
    let before = performance.now();
    scene.draw = function (live) {
        const at = performance.now();
        draw.call(scene, live);
        w.drawing += performance.now() - at;
        w.longest = Math.max(w.longest, at - before);
        w.draws += 1;
        before = at;
    };
    link.handlers.message = (message) => {
        const at = performance.now();
        take(message);
        w.taking += performance.now() - at;
        w.frames += message.type === "frame";
    };
    link.socket.addEventListener("message", (e) => { w.bytes += e.data.length ?? e.data.byteLength; });
})()"""


def feed(robots: int) -> int:
    """Publish map, grid and the states of robots that drive to and fro, until interrupted."""
    import rclpy
    from marlgpt_msgs.msg import FleetState, Grid, RobotState
    from marlgpt_policy.grid.nav_grid import build_grid
    from marlgpt_policy.grid.occupancy_map import load_map_yaml
    from marlgpt_policy.nodes.messages.conversions import grid_message, pose_message
    from marlgpt_policy.nodes.qos import LATCHED, RELIABLE
    from marlgpt_sim.nodes.map_publisher import to_message
    from marlgpt_sim.world.spawn import place_fleet
    from nav_msgs.msg import OccupancyGrid

    map_ = load_map_yaml(WAREHOUSE)
    grid = build_grid(map_, 0.22)
    cells = grid.cell_of(place_fleet(grid, [None] * robots, 0)[:, :2])
    centres = grid.centre(cells)
    goals = np.random.default_rng(0).permutation(np.argwhere(grid.components == 0))[:robots].tolist()
    rclpy.init()
    node = rclpy.create_node("stand_in")
    maps, grids = (
        node.create_publisher(kind, name, LATCHED)
        for kind, name in ((OccupancyGrid, "map"), (Grid, "fleet/grid"))
    )
    states = node.create_publisher(FleetState, "fleet/state", RELIABLE)
    maps.publish(to_message(map_))
    grids.publish(grid_message(grid))
    message = FleetState(provider="CPUExecutionProvider", policy="stand-in")
    message.header.frame_id = grid.frame_id
    for i, ((row, col), (goal_row, goal_col)) in enumerate(zip(cells.tolist(), goals, strict=True)):
        robot = RobotState(name=f"robot_{i:03d}", row=row, col=col, target_row=row, target_col=col + 1)
        robot.goal_row, robot.goal_col, robot.status, robot.pose_age = (
            goal_row,
            goal_col,
            RobotState.MOVING,
            0.05,
        )
        message.robots.append(robot)

    def publish() -> None:
        now = time.monotonic()
        message.header.stamp, message.step = node.get_clock().now().to_msg(), message.step + 1
        for i, robot in enumerate(message.robots):
            along = 0.3 * np.sin(now + i)
            robot.pose = pose_message(centres[i, 0] + along, centres[i, 1], 0.1 * np.sin(3 * now + i))
            robot.vetoes += i % 50 == message.step % 50
        states.publish(message)

    node.create_timer(1.0 / STATES, publish)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
    return 0


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(page: Page, view: int, seconds: float) -> dict[str, float]:
    """Rates and costs over ``seconds`` of an open page that shows everything."""
    page.call("Performance.enable", timeDomain="timeTicks")
    page.js(WATCH)

    def look() -> tuple[float, float, float, dict]:
        metrics = {m["name"]: m["value"] for m in page.call("Performance.getMetrics")["metrics"]}
        return time.monotonic(), cpu(view), metrics["TaskDuration"], page.js("({ ...watched })")

    t0, cpu0, busy0, w0 = look()
    page.js("watched.longest = 0")
    time.sleep(seconds)
    t1, cpu1, busy1, w1 = look()
    span = t1 - t0
    draws, frames = w1["draws"] - w0["draws"], w1["frames"] - w0["frames"]
    return {
        "drawn_per_s": draws / span,
        "ms_per_drawing": (w1["drawing"] - w0["drawing"]) / max(draws, 1),
        "longest_gap_ms": w1["longest"],
        "frames_per_s": frames / span,
        "ms_per_frame": (w1["taking"] - w0["taking"]) / max(frames, 1),
        "bytes_per_s": (w1["bytes"] - w0["bytes"]) / span,
        "page_busy": (busy1 - busy0) / span,
        "view_core": (cpu1 - cpu0) / span,
    }


def run(robots: int, seconds: float, folder: Path) -> dict[str, float]:
    """Start stand-in, view and browser, measure, and end them."""
    environment = os.environ | {
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }  # fmt: skip
    marlgpt = str(Path(sys.executable).with_name("marlgpt"))
    stand_in = subprocess.Popen([sys.executable, __file__, "--feed", str(robots)], env=environment)
    view = subprocess.Popen(
        [marlgpt, "view", "--port", "0", "--radius", "0.22"], env=environment, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    browser = None
    try:
        url = next(line.split()[-1] for line in view.stdout if line.startswith("view: open "))
        browser = Chromium(Path(tempfile.mkdtemp(dir=folder)) / "profile", (1400, 950))
        page = browser.open(url)
        page.until(
            f"document.querySelectorAll('#robots tr').length === {robots} && view.scene.surface && view.scene.grid "
            "&& document.documentElement.dataset.stale === 'false'",
            60.0,
        )
        time.sleep(3.0)
        return measure(page, view.pid, seconds)
    finally:
        if browser is not None:
            browser.close()
        for process in (view, stand_in):
            process.terminate()
            process.wait()


def best(passes: list[dict[str, float]]) -> dict[str, float]:
    """The better of several passes, figure by figure: other work on the machine only ever makes one worse."""
    pick = {key: max if key in MORE_IS_BETTER else min for key in passes[0]}
    return {key: choose(one[key] for one in passes) for key, choose in pick.items()}


def main() -> int:
    """Measure both fleets and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="measured per fleet and pass; there are two"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file as well")
    parser.add_argument("--feed", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.feed:
        return feed(args.feed)
    if BROWSER is None:
        print(f"bench_view: {MISSING}", file=sys.stderr)
        return 1
    passes: dict[int, list[dict[str, float]]] = {FEWER: [], MORE: []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for robots in (FEWER, MORE, FEWER, MORE):
            progress(f"{robots} robots ...")
            passes[robots].append(run(robots, args.seconds, Path(folder)))
    progress("")
    results = {robots: best(both) for robots, both in passes.items()}
    ratios = {key: results[MORE][key] / max(results[FEWER][key], 1e-9) for key in results[MORE]}
    print(f"{'':<16}{FEWER:>10} {'robots':<6}{MORE:>9} {'robots':<6}{'ratio':>8}")
    for key, ratio in ratios.items():
        few, many = results[FEWER][key], results[MORE][key]
        print(f"{key:<16}{few:>12,.2f}     {many:>11,.2f}     {ratio:>9.2f}")
    finish(args, "view", {str(FEWER): results[FEWER], str(MORE): results[MORE], "ratios": ratios})
    return 0


if __name__ == "__main__":
    sys.exit(main())
