"""A headless Chromium, driven through its DevTools protocol over the websockets of aiohttp."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from pathlib import Path

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
MISSING = f"no browser is installed; looked for {', '.join(NAMES)}"
PATIENCE = 90.0
"""Seconds that a busy machine may take for anything; only tests that fail wait so long."""
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0", "--disable-dev-shm-usage",
    # What is not in the foreground must not be slowed down: the tests open several pages at once.
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
)  # fmt: skip


class Chromium:
    """One browser process with a profile of its own; close it."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1300, 900)) -> None:
        self._loop = asyncio.new_event_loop()
        self.pages: list[Page] = []
        width, height = size
        command = [
            BROWSER,
            *OPTIONS,
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            "about:blank",
        ]
        self._log = (profile.parent / f"{profile.name}.log").open("wb")
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        port = profile / "DevToolsActivePort"
        end = time.monotonic() + PATIENCE
        while not (port.exists() and "\n" in port.read_text()):
            assert self.process.poll() is None and time.monotonic() < end, Path(self._log.name).read_text()
            time.sleep(0.05)
        self.address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        self._session = self.run(self._make_session())

    async def _make_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    def run(self, what, timeout: float = PATIENCE):
        return self._loop.run_until_complete(asyncio.wait_for(what, timeout))

    def open(self, url: str) -> Page:
        """A new page."""

        async def attach() -> Page:
            async with self._session.put(f"{self.address}/json/new?about:blank") as response:
                target = json.loads(await response.text())
            socket = await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=1 << 26)
            return Page(self, socket)

        page = self.run(attach())
        self.pages.append(page)
        page.call("Runtime.enable")
        page.call("Page.enable")
        page.call("Log.enable")
        page.call("Page.navigate", url=url)
        return page

    def close(self) -> None:
        self.run(self._session.close())
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()
        self._loop.close()


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, socket) -> None:
        self._browser, self._socket, self._id = browser, socket, 0
        self.events: list[dict] = []

    def call(self, method: str, **parameters):
        self._id += 1
        return self._browser.run(self._call(self._id, method, parameters))

    async def _call(self, id: int, method: str, parameters: dict) -> dict:
        await self._socket.send_json({"id": id, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == id:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def js(self, expression: str):
        """The value of an expression; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str, timeout: float = PATIENCE) -> None:
        """Wait until an expression is truthy. Errors count as false: the page may still be loading."""
        guarded = f"(() => {{ try {{ return Boolean({expression}); }} catch {{ return null; }} }})()"
        end = time.monotonic() + timeout
        while True:
            if self.js(guarded):
                return
            assert time.monotonic() < end, f"not within {timeout} s: {expression}\n{self.text()[-2500:]}"
            time.sleep(0.1)

    def text(self) -> str:
        """What the page shows, and what went wrong in it."""
        return f"{self.js('document.body.innerText')}\n{self.complaints()}"

    def complaints(self) -> list[str]:
        """Errors of scripts, of the content security policy and the like; lost connections are none."""
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"])[:500])
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                text = event["params"]["entry"]["text"]
                found += [] if "ERR_CONNECTION" in text or "WebSocket" in text else [text]
        return found

    def mouse(self, kind: str, x: float, y: float) -> None:
        button = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def click(self, x: float, y: float) -> None:
        """A real click, in pixels of the page's window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def click_on(self, selector: str) -> None:
        """Click in the middle of an element once it stays where it is and nothing covers it."""
        element = f"document.querySelector({json.dumps(selector)})"
        place = (
            "(e => { e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
            "const x = b.x + b.width / 2, y = b.y + b.height / 2, top = document.elementFromPoint(x, y);"
            f"return [x, y, Boolean(top) && e.contains(top)]; }})({element})"
        )
        end, before = time.monotonic() + PATIENCE, None
        while True:
            x, y, free = now = self.js(place)
            if free and now == before:
                return self.click(x, y)
            assert time.monotonic() < end, f"{selector} stays covered or moves: {now}\n{self.text()[-2500:]}"
            before = now
            time.sleep(0.1)

    def press(self, key: str, code: int = 0) -> None:
        """A key, such as ``s``, ``Escape`` or ``ArrowUp``."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._browser.run(self._socket.close())
