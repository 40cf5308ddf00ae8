"""The web server: page and websocket on an event loop in a thread of its own, so that no browser stalls a ROS node."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from importlib import resources

from aiohttp import web

from marlgpt_sim.view.access import Access
from marlgpt_sim.view.hub import Execute, Hub
from marlgpt_sim.view.picture import Picture

FILES = {
    "/": ("view.html", "text/html"),
    "/view.css": ("view.css", "text/css"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript")
        for name in ("view", "link", "scene", "plots", "panel")
    },
}
"""Everything that is served: path -> file and its type."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Frame-Options": "DENY",  # a stop or resume button in a foreign page's frame could be clicked unawares
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
START_TIMEOUT = 10.0
"""Seconds until the server must be listening."""


def make_app(hub: Hub) -> web.Application:
    """The routes around a hub, with the access rules in front of all of them."""
    folder = resources.files("marlgpt_sim.view") / "page"
    pages = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    @web.middleware
    async def guard(request: web.Request, handler: Callable) -> web.StreamResponse:
        reason = hub.access.refusal(
            request.headers.get("Host"), request.headers.get("Origin"), request.path == "/ws"
        )
        if reason is not None:
            hub.log(f"{request.remote}: refused: {reason}")
            return web.Response(status=403, text=f"refused: {reason}\n", headers=HEADERS)
        return await handler(request)

    async def page(request: web.Request) -> web.Response:
        body, kind = pages[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)

    app = web.Application(middlewares=[guard], client_max_size=1024)
    app.add_routes([*(web.get(path, page) for path in pages), web.get("/ws", hub.serve)])
    return app


class ViewServer:
    """Serves one picture of a fleet.

    Args:
        picture: What is shown.
        execute: Does what operators command; runs on the server's event loop.
        access: Address and rules.
        port: TCP port; 0 for any free one.
        rate: Frames per second, at most.
        title: Heading of the page.
        log: Takes what happened, in words; called on the server's thread.
    """

    def __init__(
        self, picture: Picture, execute: Execute, access: Access, port: int = 0, rate: float = 10.0,
        title: str = "Fleet", log: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._access, self._port = access, port
        self.hub = Hub(picture, execute, access, rate, title, log)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="view_server", daemon=True)
        self._runner: web.AppRunner | None = None
        self._frames: asyncio.Task | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            ValueError: The address cannot be bound to; says which and what to do.
        """
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(START_TIMEOUT)
        except OSError as error:
            self._end_thread()
            raise ValueError(
                f"cannot listen on {self._access.host} port {self._port}: {error.strerror or error}; "
                f"choose another --port or --host"
            ) from None

    async def _start(self) -> None:
        runner = web.AppRunner(
            make_app(self.hub), access_log=None, handle_signals=False, shutdown_timeout=1.0
        )
        await runner.setup()
        site = web.TCPSite(runner, self._access.host, self._port)
        try:
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]
        self._frames = self.loop.create_task(self.hub.run())

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """What to open in a browser, with the token where one is needed."""
        host = self._access.host
        if host in ("0.0.0.0", "::", ""):
            host = socket.gethostname()
        host = f"[{host}]" if ":" in host else host
        token = (
            f"#token={self._access.token}" if self._access.needs_token and not self._access.read_only else ""
        )
        return f"http://{host}:{self._port}/{token}"

    def tell(self, text: str, level: str = "info") -> None:
        """Show an event in all browsers; from any thread."""
        self.loop.call_soon_threadsafe(self.hub.tell, text, level)

    def stop(self) -> None:
        """Say goodbye to all browsers and end; no call may follow."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(5.0)
        self._end_thread()

    async def _stop(self) -> None:
        if self._frames is not None:
            self._frames.cancel()
        await self.hub.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _end_thread(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self.loop.close()
