"""What a server's answer means: done, try again, or this request is wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from shoal.types import CHAT_URL, COMPLETIONS_URL, RESPONSES_URL, ServerAnswer

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Statuses after which the same request may succeed."""
OVERLOADED = {429, 503, 529}
"""Those of them by which a server says that it has too much."""
KEY_REFUSED = {401, 403}
_LONGEST_TEXT = 2000
_LONGEST_WAIT = 3600.0


@dataclass(frozen=True)
class TryAgain:
    """A request that has no answer yet.

    Attributes:
        why: in a few words.
        answer: what the server said, if it said something.
        overloaded: whether it is to get fewer requests at once.
        after: seconds it asked to wait; None: it did not say.
        unreachable: whether the request cannot have reached it.
    """

    why: str
    answer: ServerAnswer | None = None
    overloaded: bool = False
    after: float | None = None
    unreachable: bool = False


def judge(
    url: str, status: int, content: bytes, retry_after: str | None
) -> ServerAnswer | TryAgain:
    """What an answer to a request of this url means: status, body and header `Retry-After`."""
    body = json_object(content)
    if status == 200 and body is not None:
        if answers(url, body):
            return ServerAnswer(status, body)
        return TryAgain(f"its answer holds none: {content[:100].decode(errors='replace')!r}")
    if 200 <= status < 300:
        shown = content[:100].decode(errors="replace")
        return TryAgain(f"its answer is not a JSON object: {shown!r}")
    if 300 <= status < 400:
        body = None  # a redirect's page says nothing
    answer = ServerAnswer(status, error_body(status, content) if body is None else body)
    if status in AGAIN:
        after = None if retry_after is None else seconds_of(retry_after)
        return TryAgain(f"status {status}", answer, status in OVERLOADED, after)
    return answer


def answers(url: str, body: dict[str, Any]) -> bool:
    """Whether a body holds what such a request asks for, as far as everybody writes it alike."""
    name = {CHAT_URL: "choices", COMPLETIONS_URL: "choices", RESPONSES_URL: "output"}.get(url)
    if name is None:
        return "error" not in body
    found = body.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        return False
    if url == CHAT_URL:
        return bool(found) and all(isinstance(each.get("message"), dict) for each in found)
    if url == COMPLETIONS_URL:
        return bool(found) and all(isinstance(each.get("text"), str) for each in found)
    return body.get("object") == "response"


def json_object(content: bytes) -> dict[str, Any] | None:
    """The object that a body holds; None: it holds none that can be written again."""
    try:
        body = orjson.loads(content)
        orjson.dumps(body)  # what it reads may be nested deeper than what it writes
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return body if isinstance(body, dict) else None


def error_body(status: int, content: bytes) -> dict[str, Any]:
    """An error in OpenAI's form for a server that gave it in no JSON."""
    said = " ".join(content.decode(errors="replace").split())[:_LONGEST_TEXT]
    kind = "server_error" if status >= 500 else "invalid_request_error"
    message = said or f"the server answered with status {status} and nothing else"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def seconds_of(retry_after: str) -> float | None:
    """Seconds to wait by a header `Retry-After` (RFC 9110): a number or a date; None: neither."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(0.0, seconds), _LONGEST_WAIT) if seconds == seconds else None
