"""Requests for another name are refused: a page may have it stand for this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.server.store import ApiError


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own and reached from it alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


class KnownHosts:
    """Middleware that answers 403 to requests whose `Host` is neither this machine nor its name.

    For a server without keys that listens on this machine alone. A browser may reach it by any
    name that its owner points to 127.0.0.1 (DNS rebinding). Its pages are of the same origin then,
    and only the name tells them apart.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        """`host`: where the server listens."""
        self._app, self._host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and not self._known(Headers(scope=scope).get("host")):
            message = (
                "A server without keys answers to the names of its own machine only, such as "
                "127.0.0.1 or localhost. Use one of them, or start it with --api-key."
            )
            await ApiError(403, message, code="unknown_host").response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, header: str | None) -> bool:
        if header is None:  # no browser
            return True
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name == self._host.lower()
