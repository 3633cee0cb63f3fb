"""A server of OpenAI's API over real HTTP that fails as its requests' prompts say.

A prompt that holds `[NAME COUNT]` makes the first COUNT attempts fail in the manner of NAME: see
`_fail`. `GET /log` tells every attempt, in order of arrival; `POST /reset` forgets them.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

GARBAGE: dict[str, bytes] = {
    "malformed": b'{"choices": [',
    "list": b"[1]",
    "empty": b'{"object": "chat.completion", "choices": []}',
    "nothing": b"",
    "null": b"null",
    "bytes": b'{"choices": "\xff\xfe"}',
    "nan": b'{"choices": [{"message": {"content": NaN}}]}',
    "nulls": b'{"choices": [null]}',
    "wordless": b'{"choices": [{"message": null}]}',
    "page": b"<html>login</html>",
    "deep": b'{"choices": ' + b"[" * 2000 + b"]" * 2000 + b"}",
}
"""Bodies of answers with status 200 that hold no answer, by the name of the fault."""
ODD: dict[str, bytes] = {
    "uncounted": b'{"choices": [{"message": {"content": "a"}}], "usage": null}',
    "miscounted": b'{"choices": [{"message": {}}], "usage": {"prompt_tokens": "many", '
    b'"completion_tokens": -4, "prompt_tokens_details": [1]}}',
    "overcounted": b'{"choices": [{"message": {"content": null}, "finish_reason": 7}], '
    b'"usage": {"prompt_tokens": 1e99, "completion_tokens": true}}',
}
"""Answers that say nonsense about themselves."""
FAULT = re.compile(r"\[(\w+) (\d+)\]")


def make_app(model: str, seconds: float, most: int) -> FastAPI:
    """`seconds` that an answer takes; more than `most` requests at once are refused with 429."""
    app = FastAPI()
    log: list[dict[str, Any]] = []
    tries: Counter[str] = Counter()
    state = {"now": 0}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model, "object": "model"}]}

    @app.get("/log")
    def tell() -> list[dict[str, Any]]:
        return log

    @app.post("/reset")
    def reset() -> None:
        log.clear()
        tries.clear()

    @app.post("/v1/{path:path}")
    async def answer(path: str, request: Request) -> Response:
        body = await request.json()
        prompt = str(body.get("messages") or body.get("prompt"))
        key = request.headers.get("authorization")
        entry = {"path": path, "body": body, "key": key, "time": time.monotonic()}
        log.append(entry | {"at_once": state["now"]})
        fault = FAULT.search(prompt)
        tries[prompt] += 1
        if fault and tries[prompt] <= int(fault[2]):
            return await _fail(fault[1], request)
        if state["now"] >= most:
            return Response('{"error": {"message": "full"}}', 429)
        state["now"] += 1
        await asyncio.sleep(seconds)
        state["now"] -= 1
        return Response(_answered(path, body, prompt), media_type="application/json")

    return app


def _answered(path: str, body: dict[str, Any], prompt: str) -> bytes:
    import orjson

    said = f"echo {prompt[-40:]}"
    chat = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    text = {"index": 0, "text": said, "finish_reason": "stop"}
    count = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
    return orjson.dumps(
        {
            "id": "theirs",
            "object": "chat.completion" if "messages" in body else "text_completion",
            "model": body["model"],
            "choices": [chat]
            if "messages" in body
            else [text | {"index": i} for i in range(count)],
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 3,
                "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
            "of_its_own": {"kept": [1, None, "ü"]},
        }
    )


async def _fail(name: str, request: Request) -> Response:
    if (body := GARBAGE.get(name) or ODD.get(name)) is not None or name in GARBAGE:
        return Response(body or b"", media_type="application/json")
    match name:
        case "busy":
            return Response('{"error": {"message": "slow down"}}', 429, {"Retry-After": "1"})
        case "broken":
            return Response('{"error": {"message": "oh no", "code": "mine"}}', 500)
        case "html":
            return PlainTextResponse("<h1>Bad Gateway</h1>", 502)
        case "wrong":
            return Response('{"error": {"message": "not so", "param": "x"}}', 422)
        case "later":
            return Response('{"error": {"message": "oh no"}}', 500, {"Retry-After": "1"})
        case "full":
            return Response('{"error": {"message": "full"}}', 503, {"Retry-After": "1"})
        case "cut":  # fewer bytes than it says
            return Response('{"choices": [', headers={"Content-Length": "4000"})
        case "packed":
            return Response('{"choices": [', headers={"Content-Encoding": "gzip"})
        case "hang":
            await asyncio.sleep(3600)
        case "reset":
            transport = request.scope["transport_of"]()
            transport.abort()
            await asyncio.sleep(1)
        case "forbidden":
            return Response('{"error": {"message": "who are you"}}', 401)
    raise AssertionError(name)


class _Protocol(H11Protocol):
    """Lets a request reach its connection, to break it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Any, receive: Any, send: Any) -> None:
            scope["transport_of"] = lambda: transport
            await app(scope, receive, send)

        self.app = with_transport


def main() -> None:
    """PORT MODEL SECONDS MOST"""
    port, model, seconds, most = sys.argv[1:]
    app = make_app(model, float(seconds), int(most))
    uvicorn.run(app, port=int(port), log_level="warning", http=_Protocol, backlog=4096)


if __name__ == "__main__":
    main()
