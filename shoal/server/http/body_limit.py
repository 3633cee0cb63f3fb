"""Requests that are no uploads are small; a larger one is refused before it is in memory."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.server.store import too_large

MOST_BYTES = 256 * 1024


class BodyLimit:
    """Middleware that answers 413."""

    def __init__(self, app: ASGIApp, except_path: str, most_bytes: int = MOST_BYTES) -> None:
        self._app, self._except, self._most = app, except_path, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count."""
        if scope["type"] != "http" or scope["path"].rstrip("/") == self._except:
            await self._app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > self._most:
                await too_large(self._most).response()(scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)
