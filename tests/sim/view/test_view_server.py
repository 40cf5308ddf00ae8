"""The view's server over real connections: what browsers get and may do, and what none can do to others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import urllib.error
import urllib.request

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marlgpt_sim.view import hub as hub_module
from marlgpt_sim.view.access import Access
from marlgpt_sim.view.server import FILES, ViewServer
from view_bench import Bench  # noqa: E402

TOKEN = "t" * 20
LONG = 20.0  # s that anything may take on a busy machine


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


class Client:
    """A websocket client; ``messages`` holds what came, newest last."""

    def __init__(self, bench, **headers):
        self.bench, self.headers, self.messages = bench, headers, []

    async def __aenter__(self):
        self.session = aiohttp.ClientSession()
        try:
            self.socket = await self.session.ws_connect(f"{self.bench.address}/ws", headers=self.headers)
        except BaseException:
            await self.session.close()
            raise
        return self

    async def __aexit__(self, *_):
        await self.session.close()

    async def until(self, kind, accept=lambda message: True):
        """The next message of a type."""
        while True:
            got = await asyncio.wait_for(self.socket.receive(), LONG)
            if got.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING):
                raise ConnectionError(f"closed with {got.data or self.socket.close_code}")
            if got.type == aiohttp.WSMsgType.BINARY:
                message = {"type": "map", "data": got.data}
            else:
                message = json.loads(got.data)
            self.messages.append(message)
            if message["type"] == kind and accept(message):
                return message

    async def ask(self, text):
        """The answer, or error, to a message."""
        await self.socket.send_str(text if isinstance(text, str) else json.dumps(text))
        return await self.until("answer")


def get(url, **headers):
    """Status, headers and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=LONG) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


# What browsers get --------------------------------------------------------------------------------------


def test_every_file_of_the_page_is_served_with_strict_headers(bench):
    for path in FILES:
        status, headers, body = get(bench.address + path)
        assert status == 200 and body and headers["X-Frame-Options"] == "DENY"
        policy = headers["Content-Security-Policy"]
        assert (
            "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert b"http://" not in body.replace(b"http://www.w3.org", b"") and b"https://" not in body, (
            "no other site"
        )
    for path in ("/missing", "/../hub.py", "/view.css/../../server.py", "/%2e%2e/server.py"):
        assert get(bench.address + path)[0] == 404


def test_a_browser_gets_the_whole_picture_and_then_frames(bench):
    async def watch():
        async with Client(bench) as client:
            welcome = await client.until("welcome")
            assert welcome["may_command"] and welcome["title"] == "Fleet"
            first = await client.until("frame")
            kinds = [message["type"] for message in client.messages]
            assert kinds[:5] == ["welcome", "map", "grid", "roster", "history"] and kinds[-1] == "frame"
            bench.move(goals_reached=3)
            frame = await client.until("frame", lambda m: m["t"] > first["t"])
            assert frame["all_goals"] == 3 and len(frame["robots"]["x"]) == 2
            bench.names.append("c")
            bench.move()
            assert (await client.until("roster"))["names"] == ["a", "b", "c"]
            frame = await client.until("frame")
            assert len(frame["robots"]["x"]) == 3

    asyncio.run(watch())


def test_the_rate_is_limited():
    bench = Bench(rate=5.0)

    async def count():
        async with Client(bench) as client:
            await client.until("frame")
            begin, frames = time.monotonic(), 0
            while time.monotonic() < begin + 1.5:
                bench.move()
                await asyncio.sleep(0.01)
            await client.socket.send_str('{"type": "stop", "id": 1}')
            await client.until("answer")
            frames = sum(message["type"] == "frame" for message in client.messages)
            assert 2 <= frames <= 5.0 * (time.monotonic() - begin) + 2

    try:
        asyncio.run(count())
    finally:
        bench.close()


def test_several_browsers_see_the_same_and_the_server_counts_them(bench, monkeypatch):
    monkeypatch.setattr(hub_module, "MOST_BROWSERS", 3)

    async def watch():
        async with Client(bench) as a, Client(bench) as b, Client(bench) as c:
            bench.move()
            frames = [await client.until("frame", lambda m: m["t"] == bench.t) for client in (a, b, c)]
            assert frames[0]["robots"] == frames[1]["robots"] == frames[2]["robots"]
            bench.server.tell("robot a is there", "good")
            for client in (a, b, c):
                assert (await client.until("event"))["text"] == "robot a is there"
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with Client(bench):
                    pass
            assert refused.value.status == 503
        end = time.monotonic() + LONG
        while len(bench.server.hub) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        async with Client(bench) as again:
            await again.until("frame")

    asyncio.run(watch())


def test_anonymous_watchers_cannot_keep_the_operator_out():
    """All places taken by strangers, who come again and again: whoever holds the token gets in, and stays."""
    bench = Bench(access=Access(host="0.0.0.0", token=TOKEN))

    async def hello(client):
        await client.socket.send_str(json.dumps({"type": "hello", "token": TOKEN}))
        await client.until("welcome", lambda message: message["may_command"])

    async def crowd():
        async with contextlib.AsyncExitStack() as stack:
            join = lambda: stack.enter_async_context(Client(bench))  # noqa: E731
            strangers = [await join() for _ in range(hub_module.MOST_BROWSERS)]
            operators = [await join() for _ in range(3)]
            for operator in operators:
                await hello(operator)
            strangers += [await join() for _ in range(2 * hub_module.MOST_BROWSERS)]
            assert len(bench.server.hub) == hub_module.MOST_ANONYMOUS + len(operators)
            for operator in operators:
                assert (await operator.ask({"type": "stop", "id": 1}))["ok"]
            with pytest.raises(ConnectionError, match="1013"):  # the oldest made way
                while True:
                    await strangers[0].until("frame")
            await strangers[-1].until("frame")  # the newest watches
            bench.move()
            await operators[0].until("frame", lambda message: message["t"] == bench.t)

    try:
        asyncio.run(crowd())
    finally:
        bench.close()
    assert [command.kind for command in bench.done] == ["stop"] * 3


def test_places_that_all_hold_the_token_are_not_given_to_others(monkeypatch):
    monkeypatch.setattr(hub_module, "MOST_BROWSERS", 2)
    bench = Bench(access=Access(host="0.0.0.0", token=TOKEN))

    async def fill():
        async with Client(bench) as a, Client(bench) as b:
            for client in (a, b):
                await client.socket.send_str(json.dumps({"type": "hello", "token": TOKEN}))
                await client.until("welcome", lambda message: message["may_command"])
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with Client(bench):
                    pass
            assert refused.value.status == 503
            assert (await a.ask({"type": "stop", "id": 1}))["ok"]

    try:
        asyncio.run(fill())
    finally:
        bench.close()


def test_a_stranger_takes_places_from_himself(bench):
    """Watchers from other addresses keep theirs, however old they are."""
    hub = bench.server.hub
    hub.access = Access(host="0.0.0.0", token=TOKEN)
    old, *crowd = [
        Watcher(address) for address in ("10.0.0.1", *["10.0.0.2"] * (hub_module.MOST_ANONYMOUS - 1))
    ]

    async def come():
        hub._browsers = dict.fromkeys([old, *crowd])
        assert hub._make_room()
        assert old in hub._browsers and crowd[0] not in hub._browsers and crowd[1] in hub._browsers
        await asyncio.sleep(0)
        hub._browsers = {}

    asyncio.run(come())
    assert crowd[0].left and not old.left


class Watcher:
    """A browser as far as the hub looks at it."""

    def __init__(self, address):
        self.address, self.token, self.left = address, "", False

    async def make_way(self):
        self.left = True


# What browsers may do -----------------------------------------------------------------------------------


def test_commands_are_done_and_answered(bench):
    async def command():
        async with Client(bench) as client:
            assert await client.ask({"type": "stop", "id": 7}) == {
                "type": "answer", "id": 7, "ok": True, "text": "stop done",
            }  # fmt: skip
            await client.ask({"type": "goal", "id": 8, "robot": "a", "x": 1.5, "y": -2})
            bench.answer = lambda command: (False, "no")
            assert not (await client.ask({"type": "resume", "id": 9}))["ok"]
            bench.answer = lambda command: 1 / 0
            assert (await client.ask({"type": "resume", "id": 10}))["text"] == "failed: ZeroDivisionError"
            assert (await client.ask({"type": "stop", "id": 11}))["id"] == 11

    asyncio.run(command())
    assert [c.kind for c in bench.done] == ["stop", "goal", "resume", "resume", "stop"]
    assert (bench.done[1].robot, bench.done[1].x, bench.done[1].y) == ("a", 1.5, -2.0)


def test_bad_messages_are_refused_in_words_and_harm_nothing(bench):
    async def misbehave():
        async with Client(bench) as client:
            await client.socket.send_str("nonsense")
            assert "not JSON" in (await client.until("error"))["text"]
            await client.socket.send_bytes(b"\0" * 100)
            assert "binary" in (await client.until("error"))["text"]
            await client.socket.send_str("x" * 5000)
            assert "longer than" in (await client.until("error"))["text"]
            answer = await client.ask({"type": "stop_robot", "id": 3, "robot": 5})
            assert not answer["ok"] and answer["id"] == 3 and "robot" in answer["text"]
            await client.socket.send_str(
                "x" * 100_000
            )  # beyond all bounds: the connection ends, nothing else
            with pytest.raises(ConnectionError, match="1009"):
                while True:
                    await client.until("error")
        async with Client(bench) as client:
            assert (await client.ask({"type": "stop", "id": 1}))["ok"]

    asyncio.run(misbehave())
    assert [c.kind for c in bench.done] == ["stop"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=200) | st.binary(max_size=200), max_size=12))
def test_no_sequence_of_messages_ends_the_server(bench, messages):
    async def fuzz():
        async with Client(bench) as client:
            for message in messages:
                if isinstance(message, bytes):
                    await client.socket.send_bytes(message)
                else:
                    await client.socket.send_str(message)
            assert (await client.ask({"type": "stop", "id": 5}))["ok"]

    asyncio.run(fuzz())


def test_raw_garbage_does_not_end_the_server(bench):
    opening = (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    frames = [
        b"\xff" * 200,
        b"\x81\xfe\xff",
        b"\x81\xff" + b"\xff" * 8,
        b"\x89\xfe\x10\x00",
        b"\x81\x05hello",
    ]
    for data in (
        b"\0" * 500,
        b"GET / HTTP/9.9\r\n\r\n",
        b"A" * 100_000,
        *(opening + frame for frame in frames),
    ):
        with socket.create_connection(("127.0.0.1", bench.server.port), timeout=LONG) as raw:
            try:
                raw.sendall(data)
                raw.recv(1000)
            except ConnectionError:
                pass
    assert get(bench.address)[0] == 200


def test_other_sites_and_foreign_names_are_refused(bench):
    async def intrude(**headers):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with Client(bench, **headers):
                pass
        return refused.value.status

    assert asyncio.run(intrude(Origin="http://evil.example")) == 403
    assert asyncio.run(intrude(Origin="null")) == 403
    assert asyncio.run(intrude(Host="evil.example", Origin="http://evil.example")) == 403
    status, _, body = get(bench.address, Host="evil.example")
    assert status == 403 and b"--allow-host" in body
    assert any("evil.example" in line for line in bench.logged)

    async def own_page():
        async with Client(bench, Origin=bench.address) as client:
            return await client.until("welcome")

    assert asyncio.run(own_page())["may_command"]


def test_on_the_network_commands_need_the_token():
    bench = Bench(access=Access(host="0.0.0.0", token=TOKEN))
    assert bench.server.url.endswith(f"/#token={TOKEN}")

    async def visit():
        async with Client(bench) as client:
            assert not (await client.until("welcome"))["may_command"]
            await client.until("frame")  # it may look
            refused = await client.ask({"type": "stop", "id": 1})
            assert not refused["ok"] and "token" in refused["text"]
            await client.socket.send_str(json.dumps({"type": "hello", "token": TOKEN[:-1]}))
            assert not (await client.until("welcome"))["may_command"]
            await client.socket.send_str(json.dumps({"type": "hello", "token": TOKEN}))
            assert (await client.until("welcome"))["may_command"]
            assert (await client.ask({"type": "stop", "id": 2}))["ok"]
            assert TOKEN not in json.dumps(client.messages, default=str)

    try:
        asyncio.run(visit())
    finally:
        bench.close()
    assert [c.kind for c in bench.done] == ["stop"]
    assert not any(TOKEN in line for line in bench.logged)


def test_read_only_is_read_only():
    bench = Bench(access=Access(read_only=True))

    async def visit():
        async with Client(bench) as client:
            assert "read-only" in (await client.until("welcome"))["reason"]
            for kind in ("stop", "resume"):
                assert not (await client.ask({"type": kind, "id": 1}))["ok"]

    try:
        asyncio.run(visit())
    finally:
        bench.close()
    assert bench.done == []


def test_too_many_commands_are_refused_but_stops_have_an_allowance_of_their_own(bench):
    async def flood():
        async with Client(bench) as client:
            for k in range(60):
                await client.socket.send_str(json.dumps({"type": "resume", "id": k}))
            answers = [await client.until("answer") for _ in range(60)]
            assert 20 <= sum(answer["ok"] for answer in answers) < 60
            assert any("too many" in answer["text"] for answer in answers)
            assert (await client.ask({"type": "stop", "id": 99}))["ok"]

    asyncio.run(flood())
    assert bench.done[-1].kind == "stop"


# What no browser can do to others -----------------------------------------------------------------------


def stuck_socket(port):
    """A browser that opens the websocket and then reads nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", port))
    raw.sendall(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    return raw


def test_a_browser_that_does_not_read_stalls_nobody_and_is_cut_off(monkeypatch):
    monkeypatch.setattr(hub_module, "SEND_TIMEOUT", 1.0)
    bench = Bench(robots=[f"robot_{i:03d}" for i in range(256)], rate=60.0)
    stuck = [stuck_socket(bench.server.port) for _ in range(3)]

    async def watch():
        async with Client(bench) as client:
            end = time.monotonic() + 60.0
            frames = 0
            while len(bench.server.hub) > 1 or frames < 50:
                assert time.monotonic() < end, f"{len(bench.server.hub)} browsers, {frames} frames"
                bench.move()
                await client.until("frame", lambda m: m["t"] == bench.t)
                frames += 1
            assert (await client.ask({"type": "stop", "id": 1}))["ok"]

    try:
        asyncio.run(watch())
    finally:
        for raw in stuck:
            raw.close()
        bench.close()


def test_a_slow_browser_skips_frames_instead_of_falling_behind(bench):
    bench.names = [f"robot_{i:03d}" for i in range(256)]

    async def watch():
        async with Client(bench) as client:
            await client.until("frame")
            client.socket._response.connection.transport.pause_reading()
            for _ in range(60):
                bench.move()
                await asyncio.sleep(0.01)
            client.socket._response.connection.transport.resume_reading()
            await client.until("frame", lambda m: m["t"] == bench.t)

    asyncio.run(watch())


# Start and end ------------------------------------------------------------------------------------------


def test_a_taken_port_is_an_error_that_names_it(bench):
    other = ViewServer(bench.picture, bench.execute, Access(), bench.server.port)
    with pytest.raises(ValueError, match=f"port {bench.server.port}.*--port"):
        other.start()
    with pytest.raises(ValueError, match=r"192\.0\.2\.1.*--host"):
        ViewServer(bench.picture, bench.execute, Access(host="192.0.2.1"), 0).start()


def test_the_end_says_goodbye_and_the_port_is_free_again():
    bench = Bench()
    port = bench.server.port

    async def watch():
        async with Client(bench) as client:
            await client.until("frame")
            await asyncio.to_thread(bench.close)
            with pytest.raises(ConnectionError, match="1001"):
                while True:
                    await client.until("frame")

    asyncio.run(watch())
    bench.close()  # again, harmless
    again = Bench(port=port)
    assert get(again.address)[0] == 200
    again.close()
