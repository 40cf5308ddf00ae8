"""The report in a real browser: it renders without errors, with the map and robots where they belong."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from marlgpt_policy.grid.geometry import rotate
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_sim.runs.report import RunTrace, write_report
from PIL import Image
from scipy.ndimage import label

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser installed: {', '.join(NAMES)}")

STOPPED = 5
ORIGIN = (-3.0, 2.0, 0.4)
HOSTILE = ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "plain"]


def make_trace(robots: int, frames: int = 100) -> RunTrace:
    """Stopped robots near the top left corner of a rotated map of 10 m x 6 m."""
    occupied = np.zeros((60, 100), bool)
    occupied[[0, -1], :] = occupied[:, [0, -1]] = True
    local = np.array([1.0, 5.0]) + np.arange(robots)[:, None] * [0.8, 0.0]
    poses = np.zeros((frames, robots, 3))
    poses[..., :2] = rotate(local, ORIGIN[2]) + ORIGIN[:2]
    return RunTrace(
        map=OccupancyMap(occupied, np.zeros_like(occupied), 0.1, ORIGIN),
        robots=HOSTILE[-robots:],
        radius=0.2,
        times=np.arange(frames) / 10,
        poses=poses,
        goals=np.full((frames, robots, 2), np.nan),
        status=np.full((frames, robots), STOPPED, np.uint8),
        goals_reached=np.zeros((frames, robots), int),
        separation=np.full(frames, 0.4 if robots > 1 else np.inf),
        vetoes=np.arange(frames) // 10,
        title=HOSTILE[0],
        summary={HOSTILE[1]: HOSTILE[0]},
    )


def browse(page: str, profile: Path, *options: str) -> str:
    """Open a page without a screen and return what the browser wrote to standard output."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += [*quiet, "--no-first-run"]
    command += ["--virtual-time-budget=4000", "--window-size=1300,900", "--hide-scrollbars", *options, page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(("robots", "charts"), [(1, 3), (3, 4)])
def test_page_renders(tmp_path: Path, robots: int, charts: int) -> None:
    """All scripts run to the end; table, charts and clock are there; hostile names are text."""
    path = write_report(make_trace(robots), tmp_path / "run.html")
    document = browse(f"{path.as_uri()}#t=5.2&robot=plain", tmp_path / "profile", "--dump-dom")
    (head,) = re.findall(r"<html[^>]*>", document)
    assert 'data-ready="true"' in head and "data-error" not in head, head
    body = document.split('id="data"')[0]
    assert body.count("<figure") == charts
    assert body.count("<tr data-robot") == robots
    assert re.search(r'id="now">0:05.2<', body)
    assert "<img" not in body and "alert(1)</script>" not in body


def test_map_is_upright(tmp_path: Path) -> None:
    """A robot near the top left of the map is drawn there, in the colour of its status."""
    trace = make_trace(1)
    path = write_report(trace, tmp_path / "run.html")
    shot = tmp_path / "shot.png"
    browse(f"{path.as_uri()}#theme=light", tmp_path / "profile", f"--screenshot={shot}")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    parts, _ = label(np.abs(pixels - (0x2F, 0x39, 0x48)).max(axis=-1) <= 24, structure=np.ones((3, 3)))
    wall = np.argwhere(parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1)  # not the letters of the page
    assert len(wall) > 500
    low, high = wall.min(axis=0), wall.max(axis=0)
    robot = np.argwhere(np.abs(pixels - (0xDC, 0x26, 0x26)).max(axis=-1) <= 3)
    robot = robot[((robot > low) & (robot < high)).all(axis=1)]  # the legend and the charts aside
    assert len(robot) > 50
    row, column = (np.median(robot, axis=0) - low) / (high - low)
    corners = rotate(np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 6.0], [0.0, 6.0]]), ORIGIN[2]) + ORIGIN[:2]
    size = corners.max(axis=0) - corners.min(axis=0)
    expected = (trace.poses[0, 0, :2] - corners.min(axis=0)) / size
    assert (column, 1.0 - row) == pytest.approx(tuple(expected), abs=0.02)
