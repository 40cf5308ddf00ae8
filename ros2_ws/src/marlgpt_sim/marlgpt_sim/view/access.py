"""Who may look and who may command: addresses, hosts, origins and tokens.

On this machine alone (a loopback address) the browser's own rules are the danger: any web page may open a websocket to
``localhost``, and a foreign name may be made to point here. So the request's ``Host`` must be a name of this machine
that was allowed, and its ``Origin`` must be the page's own. On the network a command also needs a token, which is in
the URL that the server prints; whoever comes without it sees the fleet and cannot command it.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TOKEN_VARIABLE = "MARLGPT_VIEW_TOKEN"
"""Environment variable with a token to use instead of a random one, so that it outlives restarts."""
SHORTEST_TOKEN = 16
"""Characters of a token that is given."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to bind to."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hostname_of(netloc: str) -> str | None:
    """Host name, lower case, of ``host:port`` as in the header ``Host``; None if it has no such form."""
    try:
        parts = urlsplit(f"//{netloc}")
        _ = parts.port
    except ValueError:
        return None
    plain = parts.username is None and not parts.path and not parts.query and not parts.fragment
    # urlsplit leaves a zone ("%eth0") as it was written.
    return parts.hostname.lower() if plain and parts.hostname else None


def make_token() -> str:
    """The token from the environment, or a random one.

    Raises:
        ValueError: The one given is too short or cannot stand in a URL.
    """
    given = os.environ.get(TOKEN_VARIABLE, "")
    if not given:
        return secrets.token_urlsafe(24)
    if len(given) < SHORTEST_TOKEN or not all(c.isascii() and (c.isalnum() or c in "-_") for c in given):
        raise ValueError(
            f"{TOKEN_VARIABLE} must be at least {SHORTEST_TOKEN} letters, digits, '-' or '_'; "
            f"unset it for a random token"
        )
    return given


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    Attributes:
        host: Address it binds to.
        read_only: Nobody may command.
        allowed_hosts: More names under which browsers may reach it, such as those of a proxy.
        token: What a command needs unless ``host`` is a loopback address.
    """

    host: str = "127.0.0.1"
    read_only: bool = False
    allowed_hosts: tuple[str, ...] = ()
    token: str = field(default_factory=make_token)

    @property
    def needs_token(self) -> bool:
        """Whether commands need the token."""
        return not is_loopback(self.host)

    def refusal(self, host: str | None, origin: str | None, websocket: bool) -> str | None:
        """Why a request is refused, or None.

        Args:
            host: Its header ``Host``.
            origin: Its header ``Origin``; programs other than browsers send none.
            websocket: Whether it opens a websocket: for those browsers always send the origin, and it must be the
                page's own.
        """
        name = hostname_of(host or "")
        if name is None:
            return "the request's Host is missing or malformed"
        known = {name.lower() for name in (*LOCAL_NAMES, *self.allowed_hosts)}
        if not self.needs_token and name not in known and not is_loopback(name):
            return f"host '{name[:100]}' is not allowed; start the view with --allow-host for it"
        if not websocket or origin is None:
            return None
        parts = urlsplit(origin) if _is_origin(origin) else None
        if parts is None or parts.netloc.lower() != (host or "").lower():
            return "the page that asks is from another site (Origin and Host differ)"
        return None

    def may_command(self, token: str) -> bool:
        """Whether a browser that knows ``token`` may command."""
        return not self.read_only and self.holds_token(token)

    def holds_token(self, token: str) -> bool:
        """Whether ``token`` is the server's, or none is needed."""
        given = token.encode("utf-8", "surrogatepass")  # JSON may hold halves of characters
        return not self.needs_token or hmac.compare_digest(given, self.token.encode())

    def reason(self, token: str) -> str:
        """Why a browser may not command, in words; empty if it may."""
        if self.read_only:
            return "The view was started read-only."
        if self.may_command(token):
            return ""
        return "Watching only: open the URL with the token that the server printed to command the fleet."


def _is_origin(origin: str) -> bool:
    try:
        return urlsplit(origin).scheme in ("http", "https")
    except ValueError:
        return False
