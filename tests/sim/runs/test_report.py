"""The report: one page that needs nothing else and holds the run it was made from."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from marlgpt_policy.grid.geometry import wrap_angle
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_sim.runs.report import LARGEST_SAMPLES, RunTrace, encode_trace, picture, throughput, write_report
from PIL import Image

EVIL = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<!-- {{DATA}} {{TITLE}}",
    "a&b 'c' \u2028",
]


def make_trace(frames: int = 120, count: int = 5, seed: int = 0, **changes: object) -> RunTrace:
    """Robots that wander over a small rotated map; some poses, goals and gaps are missing."""
    rng = np.random.default_rng(seed)
    occupied = np.zeros((60, 100), bool)
    occupied[[0, -1], :] = occupied[:, [0, -1]] = True
    occupied[20:30, 40:60] = True
    unknown = np.zeros_like(occupied)
    unknown[45:50, 70:80] = True
    world = OccupancyMap(occupied, unknown, 0.1, (-3.0, 2.0, 0.4))
    times = 100.0 + np.arange(frames) * 0.1 + rng.uniform(0.0, 0.01, frames)
    poses = np.cumsum(rng.normal(0.0, 0.05, (frames, count, 3)), axis=0) + rng.uniform(0.0, 5.0, (count, 3))
    poses[..., 2] *= 3.0
    poses[:7, 0] = np.nan
    goals = np.repeat(rng.uniform(0.0, 5.0, (frames // 20 + 1, count, 2)), 20, axis=0)[:frames]
    goals[:30, 1 % count] = np.nan
    reached = np.cumsum(rng.random((frames, count)) < 0.05, axis=0)
    separation = rng.uniform(0.02, 0.5, frames)
    separation[min(3, frames - 1)] = np.inf
    fields = {
        "map": world,
        "robots": [f"robot_{i:02d}" for i in range(count)],
        "radius": 0.2,
        "times": times,
        "poses": poses,
        "goals": goals,
        "status": rng.integers(0, 8, (frames, count)).astype(np.uint8),
        "goals_reached": reached,
        "separation": separation,
        "vetoes": np.cumsum(rng.integers(0, 3, frames)),
        "grid": build_grid(world, 0.2),
        "summary": {"contacts": 0, "policy": "a.onnx", "real-time factor": 2.5},
    }
    return RunTrace(**{**fields, **changes})


def page_data(page: str) -> dict:
    """The JSON that a browser would find in the page."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(text)


def numbers(text: str, dtype: str) -> np.ndarray:
    """Decode an array of the page."""
    return np.frombuffer(base64.b64decode(text), dtype)


def expand(changes: dict, frames: int, robots: int, dtype: str, before: int) -> np.ndarray:
    """Values [frames, robots, k] of a list of changes."""
    frame, robot = numbers(changes["frame"], "<i4"), numbers(changes["robot"], "<i2")
    values = np.stack([numbers(column, dtype) for column in changes["values"]], axis=-1)
    out = np.empty((frames, robots, values.shape[-1]), dtype)
    current = np.full((robots, values.shape[-1]), before, dtype)
    for t in range(frames):
        current[robot[frame == t]] = values[frame == t]
        out[t] = current
    return out


def test_page_needs_nothing_else(tmp_path: Path) -> None:
    """No address, no source attribute, no import: nothing to load; and a policy that forbids loading."""
    path = write_report(make_trace(), tmp_path / "run.html")
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"(?:https?|ftp|wss?):|//\w+\.\w", page)
    assert not re.search(r"\b(?:src|srcset|href)\s*=|<(?:form|link|base)|@import|url\(|\bfetch\(", page)
    assert "default-src 'none'" in page
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.html"]


def test_page_holds_the_trace(tmp_path: Path) -> None:
    """Everything decodes to the trace: exactly, or within half a quantum for poses and goals."""
    trace = make_trace()
    data = page_data(write_report(trace, tmp_path / "run.html").read_text(encoding="utf-8"))
    frames, robots = trace.status.shape
    x0, y0, quantum = data["box"]
    assert quantum < 0.001

    def metres(values: np.ndarray) -> np.ndarray:
        found = values.astype(float)
        return np.where(values == -32768, np.nan, np.array([x0, y0]) + (found + 32767) * quantum)

    packed = numbers(data["poses"], "<i2").reshape(3, frames, robots)
    xy = metres(np.stack([packed[0], packed[1]], axis=-1))
    assert np.array_equal(np.isnan(xy), np.isnan(trace.poses[..., :2]))
    assert np.nanmax(np.abs(xy - trace.poses[..., :2])) <= quantum * 0.51
    turn = wrap_angle(packed[2] * np.pi / 32768 - trace.poses[..., 2])
    assert np.nanmax(np.abs(turn)) <= np.pi / 32768
    goals = metres(expand(data["goals"], frames, robots, "<i2", -32768))
    assert np.array_equal(np.isnan(goals), np.isnan(trace.goals))
    assert np.nanmax(np.abs(goals - trace.goals)) <= quantum * 0.51
    assert np.array_equal(expand(data["status"], frames, robots, "<u1", 0)[..., 0], trace.status)
    assert np.array_equal(expand(data["reached"], frames, robots, "<i4", 0)[..., 0], trace.goals_reached)
    assert np.allclose(numbers(data["times"], "<f4") + data["start"], trace.times, atol=1e-5)
    gaps = np.where(np.isfinite(trace.separation), trace.separation, np.nan)
    assert np.array_equal(numbers(data["separation"], "<f4"), gaps.astype("<f4"), equal_nan=True)
    assert np.array_equal(numbers(data["vetoes"], "<i4"), trace.vetoes)
    assert data["robots"] == trace.robots and data["radius"] == trace.radius


def test_page_holds_map_and_grid() -> None:
    """The picture is the map upside down (row 0 at the top); cells and frames are exact."""
    trace = make_trace()
    data = encode_trace(trace)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["map"]["image"]))))[::-1]
    assert np.array_equal(image == 255, trace.map.occupied)
    assert np.array_equal(image == 128, trace.map.unknown)
    assert data["map"]["origin"] == list(trace.map.origin)
    free = np.unpackbits(numbers(data["grid"]["free"], "u1"))[: trace.grid.free.size]
    assert np.array_equal(free.reshape(trace.grid.shape), trace.grid.free)
    assert data["grid"]["origin"] == list(trace.grid.origin)
    x0, y0, x1, y1 = data["view"]
    centre = trace.grid.centre(np.argwhere(trace.grid.free))
    assert np.all(centre > (x0, y0)) and np.all(centre < (x1, y1))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Names and titles cannot close the script element, open a tag or fill a placeholder."""
    robots = EVIL + ["r"]
    trace = make_trace(robots=robots, title=EVIL[0] + "{{DATA}}", summary={EVIL[1]: EVIL[0]})
    page = write_report(trace, tmp_path / "run.html").read_text(encoding="utf-8")
    data = page_data(page)
    assert data["robots"] == robots and data["title"] == trace.title
    assert data["summary"] == [[EVIL[1], EVIL[0]]]
    assert page.count("<script") == 2 and page.count("</script") == 2
    assert "<img" not in page and "alert(1)</script>" not in page
    assert re.search(r"<title>(.*?)</title>", page)[1] == html.escape(trace.title)


def test_large_fleet_is_small(tmp_path: Path) -> None:
    """64 robots for two minutes at 10 Hz stay far below 5 MB, and a day is thinned to that too."""
    path = write_report(make_trace(frames=1200, count=64), tmp_path / "run.html")
    assert path.stat().st_size < 3_000_000
    frames = 3 * LARGEST_SAMPLES // 64
    trace = make_trace(frames=frames, count=64, status=np.zeros((frames, 64), np.uint8))
    data = encode_trace(trace)
    assert data["frames"] * 64 <= LARGEST_SAMPLES + 64
    assert np.isclose(data["start"] + numbers(data["times"], "<f4")[-1], trace.times[-1], atol=1e-3)
    assert np.isclose(np.nanmin(numbers(data["separation"], "<f4")), trace.separation.min())
    assert path.stat().st_size + 8 * LARGEST_SAMPLES < 8_000_000


def test_large_map_is_reduced_and_keeps_obstacles() -> None:
    """A map of 5000 pixels is shown smaller; a wall of one pixel does not vanish."""
    occupied = np.zeros((3000, 5001), bool)
    occupied[1234] = True
    trace = make_trace(map=OccupancyMap(occupied, np.zeros_like(occupied), 0.01, (0.0, 0.0, 0.0)), grid=None)
    data = encode_trace(trace)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["map"]["image"]))))[::-1]
    assert max(image.shape) <= 2048 and data["map"]["resolution"] == pytest.approx(0.03)
    assert np.flatnonzero((image == 255).any(axis=1)).tolist() == [1234 // 3]
    assert data["grid"] is None


def test_throughput_is_a_rate() -> None:
    """Steady goals give their rate everywhere, also near both ends."""
    times = np.arange(0.0, 60.0, 0.1)
    reached = np.floor(times / 2.0).astype(int)[:, None]
    steady = make_trace(frames=len(times), count=1, times=times, goals_reached=reached)
    rate, window = throughput(steady)
    assert 5.0 <= window <= 30.0
    assert np.all(np.abs(rate - 30.0) <= 60.0 / window + 1e-9)
    assert throughput(steady, window=20.0)[1] == 20.0


def test_cards_state_the_numbers() -> None:
    """Goals, smallest gap and contacts are the trace's; a contact is marked."""
    trace = make_trace()
    cards = {card["label"]: card for card in encode_trace(trace)["cards"]}
    assert cards["Goals reached"]["value"] == str(trace.goals_reached[-1].sum())
    assert float(cards["Smallest gap"]["value"]) == pytest.approx(trace.separation.min(), abs=5e-4)
    assert cards["Contacts"]["tone"] == "good"
    touched = make_trace(separation=np.full(120, -0.01), summary={"contacts": 2})
    cards = {card["label"]: card for card in encode_trace(touched)["cards"]}
    assert cards["Contacts"]["tone"] == cards["Smallest gap"]["tone"] == "bad"
    alone = make_trace(count=1, separation=np.full(120, np.inf), summary={})
    assert "Smallest gap" not in {card["label"] for card in encode_trace(alone)["cards"]}


def test_short_runs() -> None:
    """A single sample is a report too."""
    trace = make_trace(frames=1, separation=np.array([0.1]), poses=np.zeros((1, 5, 3)))
    assert encode_trace(trace)["frames"] == 1
    assert trace.duration == 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"poses": np.zeros((120, 4, 3))}, r"poses .*\(120, 5, 3\)"),
        ({"times": np.zeros(120)}, "increase"),
        ({"radius": -1.0}, "radius"),
        ({"status": np.full((120, 5), 9, np.uint8)}, "status"),
        ({"robots": []}, "at least one"),
    ],
)
def test_wrong_traces_are_refused(changes: dict, words: str) -> None:
    """The error names the field."""
    with pytest.raises(ValueError, match=words):
        make_trace(**changes)


def test_picture_shows_map_and_robots(tmp_path: Path) -> None:
    """A PNG of sensible size, with wall, robot and goal colours in it."""
    path = picture(make_trace(), tmp_path / "run.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert Image.open(path).width == 1440
    colours = {tuple(colour) for colour in np.unique(pixels, axis=0)}
    assert (0x2B, 0x34, 0x42) in colours
    assert (0xC0, 0x26, 0xD3) in colours
    with pytest.raises(ValueError, match="outside the run"):
        picture(make_trace(), path, time=0.0)
