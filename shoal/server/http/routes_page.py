"""The page at `/`: files of this package, read once. It needs no key, and holds nobody's data."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import Response

from shoal.server.store import not_found

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""Nothing from elsewhere, nothing inline, in no frame; text never becomes markup."""
_HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

_Seen = Annotated[str | None, Header(alias="if-none-match")]


def page_routes() -> APIRouter:
    """The routes."""
    routes, files = APIRouter(include_in_schema=False), _files()

    def answer(name: str, seen: str | None) -> Response:
        if name not in files:
            raise not_found("page", name)
        data, tag = files[name]
        headers = _HEADERS | {"etag": tag}
        if seen == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)

    @routes.get("/")
    def index(seen: _Seen = None) -> Response:
        """The page."""
        return answer("index.html", seen)

    @routes.get("/page/{name}")
    def part(name: str, seen: _Seen = None) -> Response:
        """A style, a script, a picture."""
        return answer(name, seen)

    return routes


def _files() -> dict[str, tuple[bytes, str]]:
    """The content and the tag of each."""
    found = {}
    for entry in resources.files("shoal.server.http").joinpath("page").iterdir():
        if entry.name.rpartition(".")[2] in _TYPES:
            data = entry.read_bytes()
            found[entry.name] = (data, f'"{b64encode(sha256(data).digest()[:12]).decode()}"')
    return found
