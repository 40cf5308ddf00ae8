"""Who watches: each browser gets the newest frame that it can take, and never holds up another one.

Nothing is queued but a few answers. A browser that reads slowly skips frames; one that stops reading is cut off. Where
commands need a token, browsers without it cannot keep those with it out: the oldest of them makes way.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable

from aiohttp import WSCloseCode, WSMsgType, web

from marlgpt_sim.view.access import Access
from marlgpt_sim.view.picture import PROTOCOL, Picture, dump
from marlgpt_sim.view.protocol import Command, ProtocolError, parse

PARTS = ("map", "grid", "roster", "history", "diagnostics")
MOST_BROWSERS = 32
MOST_ANONYMOUS = 24
"""Browsers that watch without the token, at most; the other places are kept for those who hold it."""
MOST_TEXTS = 64
"""Answers and events that wait for one browser; more push out the oldest."""
MOST_RUNNING = 32
"""Commands of one browser that run at once."""
SEND_TIMEOUT = 10.0
"""Seconds a browser may take to read what was sent before it is cut off."""
HEARTBEAT = 10.0
"""Seconds between pings; a browser that does not answer one is gone."""
QUIET = 0.5
"""Seconds between frames while nothing new is heard from the fleet."""
RATES = {"stop": 50.0, "other": 20.0}
"""Commands per second of one browser; stops have an allowance of their own."""

Execute = Callable[[Command], Awaitable[tuple[bool, str]]]
"""Does what a command says; whether it was done, and what happened in words."""


class Allowance:
    """Commands per second: ``rate`` of them at once, refilled over time."""

    def __init__(self, rate: float) -> None:
        self._rate, self._left, self._at = rate, rate, time.monotonic()

    def take(self) -> bool:
        """Whether one more command may come now."""
        now = time.monotonic()
        self._left, self._at = min(self._rate, self._left + (now - self._at) * self._rate), now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Browser:
    """One websocket."""

    def __init__(self, hub: Hub, socket: web.WebSocketResponse, request: web.Request) -> None:
        self._hub, self._socket, self._request = hub, socket, request
        self.address = request.remote or "?"
        self._seen = dict.fromkeys(PARTS, -1)
        self._frame_seen = 0
        self._texts: deque[str] = deque(maxlen=MOST_TEXTS)
        self._wake = asyncio.Event()
        self._running: set[asyncio.Task] = set()
        self._allowance = {kind: Allowance(rate) for kind, rate in RATES.items()}
        self.token = ""

    def wake(self) -> None:
        """There is something new."""
        self._wake.set()

    def say(self, message: dict) -> None:
        """Send a message of this browser's own, as soon as it takes it."""
        self._texts.append(dump(message))
        self._wake.set()

    async def serve(self) -> None:
        """Talk until either side ends."""
        self._welcome()
        sender = asyncio.create_task(self._send_all())
        try:
            async for message in self._socket:
                if message.type == WSMsgType.TEXT:
                    self._take(message.data)
                elif message.type == WSMsgType.BINARY:
                    self.say({"type": "error", "text": "refused: binary messages are not understood"})
        finally:
            sender.cancel()

    async def goodbye(self) -> None:
        """End the connection, without waiting for a browser that does not answer."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(self._socket.close(code=WSCloseCode.GOING_AWAY), 1.0)

    async def make_way(self) -> None:
        """End the connection for another browser's sake."""
        message = b"all places to watch are taken"
        with contextlib.suppress(TimeoutError, ConnectionError, RuntimeError):  # the last: not yet opened
            await asyncio.wait_for(self._socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=message), 1.0)
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _send_all(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await asyncio.wait_for(self._send_news(), SEND_TIMEOUT)
        except (TimeoutError, ConnectionError, RuntimeError):
            if self._request.transport is not None:
                self._request.transport.abort()  # a polite goodbye would wait for the reader that does not read

    async def _send_news(self) -> None:
        hub = self._hub
        while self._texts:
            await self._socket.send_str(self._texts.popleft())
        for part in PARTS:
            version = hub.picture.versions[part]
            if version != self._seen[part]:
                message = hub.picture.message(part)
                if isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                elif message is not None:
                    await self._socket.send_str(message)
                self._seen[part] = version
        if hub.frame_count != self._frame_seen:
            self._frame_seen = hub.frame_count
            await self._socket.send_str(hub.frame)

    def _welcome(self) -> None:
        access = self._hub.access
        self.say({
            "type": "welcome", "protocol": PROTOCOL, "title": self._hub.title, "rate": self._hub.rate,
            "may_command": access.may_command(self.token), "reason": access.reason(self.token),
        })  # fmt: skip
        self.wake()

    # Commands -------------------------------------------------------------------------------------------

    def _take(self, text: str) -> None:
        try:
            command = parse(text)
            if command.kind == "hello":
                self.token = command.token
                return self._welcome()
            self._check(command)
        except ProtocolError as error:
            return self._refuse(str(error), error.id)
        task = asyncio.create_task(self._execute(command))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _check(self, command: Command) -> None:
        access = self._hub.access
        kind = "stop" if command.kind.startswith("stop") else "other"
        if not access.may_command(self.token):
            raise ProtocolError(access.reason(self.token), command.id)
        if not self._allowance[kind].take():
            raise ProtocolError("too many commands at once; wait a second", command.id)
        if len(self._running) >= MOST_RUNNING and kind != "stop":
            raise ProtocolError("too many commands wait for an answer of the fleet", command.id)

    def _refuse(self, text: str, id: int | None) -> None:
        if id is None:
            self.say({"type": "error", "text": f"refused: {text}"})
        else:
            self.say({"type": "answer", "id": id, "ok": False, "text": text})

    async def _execute(self, command: Command) -> None:
        hub = self._hub
        hub.log(f"{self.address}: {command.kind} {command.robot}".rstrip())
        try:
            ok, text = await hub.execute(command)
        except Exception as error:  # a command that fails must not end the view
            hub.log(f"{command.kind} failed: {error!r}")
            ok, text = False, f"failed: {type(error).__name__}"
        self.say({"type": "answer", "id": command.id, "ok": ok, "text": text})


class Hub:
    """All browsers; makes one frame for all of them at a limited rate. Lives on the server's event loop.

    Attributes:
        frame: The newest frame.
        frame_count: Frames made so far.
    """

    def __init__(
        self, picture: Picture, execute: Execute, access: Access, rate: float, title: str,
        log: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.picture, self.execute, self.access = picture, execute, access
        self.rate, self.title, self.log = rate, title, log
        self.frame, self.frame_count = "", 0
        self._browsers: dict[Browser, None] = {}  # oldest first
        self._leaving: set[asyncio.Task] = set()

    def __len__(self) -> int:
        """Browsers that watch now."""
        return len(self._browsers)

    def tell(self, text: str, level: str = "info") -> None:
        """Show an event in all browsers; ``level`` is info, good or bad."""
        for browser in self._browsers:
            browser.say({"type": "event", "text": text, "level": level})

    async def run(self) -> None:
        """Make frames for ever."""
        news, sent = -1, 0.0
        while True:
            await asyncio.sleep(1.0 / self.rate)
            if not self._browsers:
                continue
            now = time.monotonic()
            if self.picture.news != news or now - sent >= QUIET:
                news, sent = self.picture.news, now
                self.frame = self.picture.frame()
                self.frame_count += 1
                for browser in self._browsers:
                    browser.wake()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Handle the request that opens a websocket."""
        if not self._make_room():
            return web.Response(status=503, text=f"{MOST_BROWSERS} browsers are watching already\n")
        # What is a little too long is refused in words; what is much too long ends the connection.
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=1 << 16, compress=False)
        browser = Browser(self, socket, request)
        self._browsers[browser] = None
        try:
            await socket.prepare(request)
            await browser.serve()
        except ConnectionError:  # gone before it got an answer
            pass
        finally:
            self._browsers.pop(browser, None)
        return socket

    def _make_room(self) -> bool:
        """Whether one more browser may come; if need be, one that watches without the token makes way for it.

        Of the address with most of them the oldest goes: a stranger who takes all places takes them from himself.
        """
        anonymous = [browser for browser in self._browsers if not self.access.holds_token(browser.token)]
        if len(anonymous) < MOST_ANONYMOUS and len(self._browsers) < MOST_BROWSERS:
            return True
        if not anonymous:
            return len(self._browsers) < MOST_BROWSERS
        crowd = Counter(browser.address for browser in anonymous)
        leaving = max(
            anonymous, key=lambda browser: crowd[browser.address]
        )  # the first of equals, the oldest
        del self._browsers[leaving]
        self.log(f"{leaving.address}: made way for another browser")
        task = asyncio.create_task(leaving.make_way())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return True

    async def close(self) -> None:
        """Say goodbye to all browsers."""
        await asyncio.gather(*(browser.goodbye() for browser in self._browsers))
