"""Requests to a node that drives: control periods and stops go before them, and there are only so many per period."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from rclpy.service import Service
from rclpy.subscription import Subscription

PER_PERIOD = 32
"""Requests and goals taken in one control period, besides one for each robot."""
STOPS_AT_ONCE = 100
"""Stops taken from one queue in a row."""


class RequestLimits:
    """Where requests are let in.

    An executor hands over what has come in turn, so that a control period waits behind requests. Therefore each request
    first lets an overdue period begin (``first``); a period lets stops in before it is counted out; and beyond
    :attr:`most` a request is answered "busy" without being looked at.

    Attributes:
        most: Requests let in per control period; infinite while there are none.
    """

    def __init__(self, first: Callable[[], None]) -> None:
        """``first`` runs before each request."""
        self._first = first
        self.most = self._left = float("inf")
        self._stops: list[Service | Subscription] = []

    def next_period(self, robots: int) -> None:
        """A control period of a fleet of so many ``robots`` begins."""
        self.most = self._left = PER_PERIOD + robots

    def no_periods(self) -> None:
        """Nobody drives any more: let everybody in."""
        self.most = self._left = float("inf")

    def admits(self) -> bool:
        """Let an overdue control period go first; then, may one more request be let in?"""
        self._first()
        self._left -= 1
        return self._left >= 0

    @property
    def busy(self) -> str:
        """What is answered to those who are not let in."""
        return f"busy: more than {self.most:.0f} requests in one control period; call again"

    def stops_come_by(self, source: Service | Subscription) -> None:
        """Take stops from ``source``, too, wherever they stand in the executor's turn."""
        self._stops.append(source)

    def no_more_stops_by(self, source: Service | Subscription) -> None:
        """``source`` is to be destroyed; it need not be one of stops."""
        if source in self._stops:
            self._stops.remove(source)

    def take_stops(self) -> None:
        """Handle all stops that have come. The executor finds nothing left when their turn comes."""
        for source in self._stops:
            take = _take_request if isinstance(source, Service) else _take_message
            for _ in range(STOPS_AT_ONCE):
                if not take(source):
                    break

    def behind(self, callback: Callable, busy: Callable[[Any, str], Any] | None) -> Callable:
        """A service's ``callback``, put behind control periods.

        ``busy`` makes an answer of a response and a reason for those who are not let in. With None everybody is let in
        at once, as stops are; an overdue period comes right after.
        """
        inner = callback.func if isinstance(callback, functools.partial) else callback
        if busy is None:

            @functools.wraps(inner)
            def handle_first(request: Any, response: Any) -> Any:
                answer = callback(request, response)
                self._first()
                return answer

            return handle_first

        if inspect.iscoroutinefunction(callback):

            @functools.wraps(inner)
            async def handle_slowly(request: Any, response: Any) -> Any:
                return await callback(request, response) if self.admits() else busy(response, self.busy)

            return handle_slowly

        @functools.wraps(inner)
        def handle(request: Any, response: Any) -> Any:
            return callback(request, response) if self.admits() else busy(response, self.busy)

        return handle


def _take_request(service: Service) -> bool:
    """Answer one request that waits; False if there is none."""
    with service.handle:
        request, header = service.handle.service_take_request(service.srv_type.Request)
    if header is None:
        return False
    response = service.callback(request, service.srv_type.Response())
    service.send_response(response, header)
    return True


def _take_message(subscription: Subscription) -> bool:
    """Hand over one message that waits; False if there is none."""
    with subscription.handle:
        taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
    if taken is None:
        return False
    subscription.callback(taken[0])
    return True
