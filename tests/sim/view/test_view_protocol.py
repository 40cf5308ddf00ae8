"""What browsers may say, who may say it, and what they get: without a server."""

from __future__ import annotations

import json
import math
import re
import struct
from types import SimpleNamespace as Thing

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from marlgpt_policy.grid.occupancy_map import OccupancyMap
from marlgpt_sim.view.access import Access, hostname_of, is_loopback, make_token
from marlgpt_sim.view.history import SPAN, History
from marlgpt_sim.view.picture import Picture
from marlgpt_sim.view.protocol import FARTHEST, FIELDS, LARGEST_MESSAGE, Command, ProtocolError, parse
from PIL import Image
from view_bench import CELL, a_map, grid, robot, state  # noqa: E402

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FIELD = st.sampled_from(["type", "id", "robot", "x", "y", "yaw", "token", "other"])
VALUE = JSON | st.sampled_from([*FIELDS, "a", 1, 2.5, 0, -1, 1e400, 2**53, "\ud800", True])


# Commands -----------------------------------------------------------------------------------------------


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_any_text_is_a_command_or_refused(text):
    try:
        assert parse(text).kind in FIELDS
    except ProtocolError as error:
        assert str(error)


@given(st.dictionaries(FIELD, VALUE))
def test_any_object_is_a_checked_command_or_refused(message):
    try:
        command = parse(json.dumps(message))
    except ProtocolError as error:
        assert error.id is None or error.id == message["id"]
        return
    assert command.kind == message["type"] and set(message) <= {"type"} | set().union(*FIELDS[command.kind])
    assert all(math.isfinite(v) and abs(v) <= FARTHEST for v in (command.x, command.y, command.yaw))
    assert command.robot.isascii() and len(command.robot) <= 64


@given(
    st.integers(0, 2**53 - 1),
    st.floats(-FARTHEST, FARTHEST),
    st.floats(-FARTHEST, FARTHEST),
    st.floats(-7, 7),
)
def test_a_goal_arrives_as_it_was_sent(id, x, y, yaw):
    text = json.dumps({"type": "goal", "id": id, "robot": "r_1", "x": x, "y": y, "yaw": yaw})
    assert parse(text) == Command("goal", id, "r_1", x, y, yaw)


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ("{", "JSON"),
        ("[1]", "object"),
        ('"stop"', "object"),
        ('{"type": "reboot", "id": 1}', "unknown type"),
        ('{"type": ["stop"], "id": 1}', "unknown type"),
        ('{"type": "stop"}', "id missing"),
        ('{"type": "stop", "id": true}', "whole number"),
        ('{"type": "stop", "id": -1}', "whole number"),
        ('{"type": "stop", "id": 1, "robot": "a"}', "unknown field"),
        ('{"type": "stop_robot", "id": 1, "robot": ""}', "1 to 64"),
        ('{"type": "stop_robot", "id": 1, "robot": 5}', "1 to 64"),
        ('{"type": "stop_robot", "id": 1, "robot": "\\ud800"}', "ASCII"),
        ('{"type": "goal", "id": 1, "robot": "a", "x": 0}', "y missing"),
        ('{"type": "goal", "id": 1, "robot": "a", "x": NaN, "y": 0}', "NaN"),
        ('{"type": "goal", "id": 1, "robot": "a", "x": 1e999, "y": 0}', "x must be"),
        ('{"type": "goal", "id": 1, "robot": "a", "x": "1", "y": 0}', "x must be"),
        ('{"type": "hello", "token": 7}', "token must be"),
        ("[" * 4000, "JSON"),
        (" " * (LARGEST_MESSAGE + 1), "longer than"),
    ],
)
def test_what_is_refused_is_refused_in_words(message, what):
    with pytest.raises(ProtocolError, match=what):
        parse(message)


# Access -------------------------------------------------------------------------------------------------

LOCAL, NETWORK = Access(token="t" * 20), Access(host="0.0.0.0", token="t" * 20)


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("localhost:8420", "http://localhost:8420", True),
        ("127.0.0.1:8420", "http://127.0.0.1:8420", True),
        ("[::1]:8420", "http://[::1]:8420", True),
        ("localhost:8420", None, True),  # not a browser
        ("localhost:8420", "http://localhost:9000", False),  # another server on this machine
        ("localhost:8420", "http://evil.example", False),
        ("localhost:8420", "null", False),  # a sandboxed frame or a file
        ("localhost:8420", "file://localhost:8420", False),
        ("evil.example:8420", "http://evil.example:8420", False),  # a foreign name that points here
        ("", "http://localhost", False),
        (None, None, False),
        ("user@localhost:8420", None, False),
        ("localhost:99999999", None, False),
        ("[::1", "http://[::1", False),
    ],
)
def test_on_this_machine_hosts_and_origins_are_checked(host, origin, allowed):
    assert (LOCAL.refusal(host, origin, websocket=True) is None) == allowed


def test_allowed_hosts_pages_and_the_network():
    assert "--allow-host" in LOCAL.refusal("proxy.example", None, websocket=False)
    assert Access(allowed_hosts=("Proxy.example",)).refusal("proxy.example", None, websocket=False) is None
    # Clicking on a link of another site opens the page, and that is all right.
    assert LOCAL.refusal("localhost:1", "http://other.example", websocket=False) is None
    assert NETWORK.refusal("robots.lan:8420", "http://robots.lan:8420", websocket=True) is None
    assert NETWORK.refusal("robots.lan:8420", "http://evil.example", websocket=True)


def test_tokens():
    assert LOCAL.may_command("") and not LOCAL.needs_token and is_loopback("127.8.0.1") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("robots.lan")
    assert NETWORK.may_command("t" * 20) and NETWORK.reason("t" * 20) == ""
    for wrong in ("", "t" * 19, "T" * 20, "ü", "\ud800"):
        assert not NETWORK.may_command(wrong) and "token" in NETWORK.reason(wrong)
    for host in ("127.0.0.1", "0.0.0.0"):
        looking = Access(host=host, read_only=True, token="t" * 20)
        assert not looking.may_command("t" * 20) and "read-only" in looking.reason("t" * 20)


def test_a_token_can_be_given_by_the_environment(monkeypatch):
    assert len(make_token()) >= 32 and make_token() != make_token()
    monkeypatch.setenv("MARLGPT_VIEW_TOKEN", "abcdefgh-ABCDEFGH_1")
    assert Access(host="0.0.0.0").token == "abcdefgh-ABCDEFGH_1"
    for bad in ("short", "a" * 20 + "#", "ü" * 20):
        monkeypatch.setenv("MARLGPT_VIEW_TOKEN", bad)
        with pytest.raises(ValueError, match="MARLGPT_VIEW_TOKEN"):
            make_token()


@given(st.text(), st.text() | st.none(), st.booleans())
@example("%A", None, False)  # a zone, which urlsplit does not put in lower case
def test_no_header_breaks_the_check(host, origin, websocket):
    assert hostname_of(host) is None or hostname_of(host) == hostname_of(host).lower()
    for access in (LOCAL, NETWORK):
        reason = access.refusal(host, origin, websocket)
        if websocket and origin is not None and reason is None:
            assert origin.lower().endswith(f"//{host.lower()}") or host.lower() in origin.lower()


# History ------------------------------------------------------------------------------------------------


def test_goals_per_minute():
    history = History()
    for k in range(200):
        history.add(0.5 * k, goals=k // 20, vetoes=2 * (k // 2), gap=0.5, latency=None)
    columns = history.columns()
    assert np.allclose(np.diff(columns["t"]), 1.0) and columns["goals"][:5] == [None] * 5
    assert columns["goals"][-1] == pytest.approx(6.0, abs=1.01)  # one per 10 s
    assert columns["vetoes"][-1] == pytest.approx(120.0) and columns["latency"][-1] is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 50), st.integers(0, 50)), max_size=60))
def test_history_is_in_order_and_never_negative(rows):
    history = History()
    for t, goals, vetoes in rows:
        history.add(t, goals, vetoes, math.nan, None)
    columns = history.columns()
    assert columns["t"] == sorted(columns["t"]) and len(columns["t"]) <= SPAN
    assert all(v is None or v >= 0 for v in columns["goals"] + columns["vetoes"])
    assert set(columns["gap"]) <= {None}


def test_history_begins_anew_after_a_restart_and_is_bounded():
    history = History()
    for k in range(SPAN + 50):
        history.add(float(k), k, 0, None, None)
    assert len(history.columns()["t"]) == SPAN and history.epoch == 0
    assert (
        history.add(SPAN + 60.0, 0, 0, None, None).goals is None and history.epoch == 1
    )  # the counter went back
    assert history.add(3.0, 0, 0, None, None).t == 3.0 and history.epoch == 2  # time went back
    assert history.add(math.nan, 0, 0, None, None) is None


# Picture ------------------------------------------------------------------------------------------------


def test_a_frame_holds_the_fleet_in_columns():
    picture = Picture(lambda: 5.0, 0.3)
    first = json.loads(picture.frame())
    assert first["age"] is None and "robots" not in first
    robots = [
        robot("a", 1.23456, -2.0),
        robot("b", status=0, pose_age=-1.0),
        robot("c", math.nan, detail="lost"),
    ]
    picture.set_state(state(robots, 3.5, stopped=True, goals_reached=4))
    frame = json.loads(picture.frame())
    assert frame["robots"]["x"] == [1.235, None, None] and frame["robots"]["pose_age"] == [0.05, None, 0.05]
    assert frame["robots"]["goal_col"] == [6, 6, 6] and frame["detail"] == {"2": "lost"}
    assert (frame["t"], frame["stopped"], frame["all_goals"], frame["age"]) == (3.5, True, 4, 0.0)
    assert json.loads(picture.message("roster")) == {
        "type": "roster", "id": frame["roster"], "names": ["a", "b", "c"], "radii": [0.3] * 3,
    }  # fmt: skip


def test_versions_change_only_with_what_they_count():
    picture = Picture(lambda: 5.0)
    picture.set_state(state([robot("a"), robot("b")], 1.0))
    before = dict(picture.versions)
    picture.set_state(state([robot("a"), robot("b")], 2.0))
    assert picture.versions == before
    picture.set_state(state([robot("a"), robot("c")], 3.0))
    assert picture.versions == before | {"roster": before["roster"] + 1}
    picture.set_state(state([robot("a"), robot("c")], 0.5))  # the simulation was started anew
    assert picture.versions["history"] == before["history"] + 1
    picture.set_radii(0.2, {"c": 0.4})
    assert json.loads(picture.message("roster"))["radii"] == [0.2, 0.4]


@given(st.lists(st.text(), max_size=5, unique=True), st.floats(), st.floats(), st.floats(), st.text())
def test_whatever_comes_frames_are_json(names, x, y, age, detail):
    picture = Picture(lambda: 5.0)
    picture.set_state(state([robot(name, x, y, pose_age=age, detail=detail) for name in names]))
    for text in (picture.frame(), *(picture.message(part) for part in ("roster", "history", "diagnostics"))):
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_the_map_is_a_picture_with_the_top_row_first(tmp_path):
    occupied, unknown = np.zeros((2, 3), bool), np.zeros((2, 3), bool)
    occupied[0, 0], unknown[1, 2] = True, True
    picture = Picture(lambda: 0.0)
    picture.set_map(OccupancyMap(occupied, unknown, 0.5, (1.0, 2.0, 0.3)))
    data = picture.message("map")
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])
    (tmp_path / "map.png").write_bytes(data[4 + length :])
    pixels = np.asarray(Image.open(tmp_path / "map.png"))
    assert pixels.tolist() == [[0, 0, 127], [255, 0, 0]]
    assert (header["width"], header["height"], header["origin"]) == (3, 2, [1.0, 2.0, 0.3])


def test_only_the_fleets_diagnostics_are_shown():
    status = Thing(
        name="marlgpt: fleet", level=b"\x01", message="stopped",
        values=[Thing(key="decision_ms_p50", value="3.5"), Thing(key="k", value="v" * 900)],
    )  # fmt: skip
    foreign = Thing(name="camera", level=b"\x02", message="hot", values=[])
    picture = Picture(lambda: 0.0)
    picture.set_diagnostics(Thing(status=[foreign]))
    assert picture.versions["diagnostics"] == 0
    picture.set_diagnostics(Thing(status=[foreign, status]))
    (item,) = json.loads(picture.message("diagnostics"))["items"]
    assert item["name"] == "fleet" and item["level"] == 1 and len(item["values"]["k"]) == 200
    picture.set_state(state([robot("a")]))
    assert json.loads(picture.frame())["sample"]["latency"] == 3.5


@pytest.mark.parametrize(
    ("robot_name", "x", "y", "why"),
    [
        ("nobody", 0.0, 0.0, "no robot named"),
        ("a", -50.0, 0.0, "outside the map"),
        ("a", 6 * CELL, -4 * CELL, "wall"),
        ("a", 0.0, 0.0, "no way"),
    ],
)
def test_why_a_goal_may_have_been_refused(robot_name, x, y, why):
    picture = Picture(lambda: 0.0)
    picture.set_state(state([robot("a")]))
    assert "no map yet" in picture.why_not("a", 0.0, 0.0)
    picture.set_map(a_map())
    picture.set_grid(grid())
    assert re.search(why, picture.why_not(robot_name, x, y))


def test_a_broken_grid_is_ignored():
    picture = Picture(lambda: 0.0)
    broken = grid()
    broken.free = broken.free[:-1]
    for message in (
        broken,
        Thing(**(vars(grid()) | {"cell_size": math.nan})),
        Thing(**(vars(grid()) | {"cell_size": 0.0})),
    ):
        picture.set_grid(message)
    assert picture.message("grid") is None
