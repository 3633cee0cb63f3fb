"""A real server process, and what tests do with it by the official client."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from openai.types import Batch, FileObject

CHAT_URL = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
START_SECONDS = 240.0


class Server:
    """`shoal serve` on a free port, with its data in a folder that may outlive it."""

    def __init__(
        self, folder: Path, *arguments: str, key: str = "none", clock: Path | None = None
    ) -> None:
        """`clock`: a file that says how many seconds the server's clock is off."""
        self.folder, self.arguments, self.key, self.clock = folder, arguments, key, clock
        off = ["tests.server.shifted_clock", str(clock)]
        self.module = ["shoal"] if clock is None else off
        self.log = folder / "server.log"
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Begin, and wait until it answers."""
        command = [sys.executable, "-m", *self.module, "serve", "--port", "0", *self.arguments]
        command += ["--data-dir", str(self.folder / "data"), "--kv-memory", "128MB"]
        begins = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            said = self.log.read_bytes()[begins:].decode(errors="replace")
            if found := re.search(r"serving on (http://\S+)/v1", said):
                break
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        self.url = found[1]
        self.client = self.client_with(self.key)
        self.wait(lambda: self.raw("GET", "/healthz")[0] == 200)

    def client_with(self, key: str, **options: Any) -> openai.OpenAI:
        """The official client; it repeats nothing by itself unless told."""
        options.setdefault("max_retries", 0)
        http = openai.DefaultHttpxClient(event_hooks={"response": [self.check_error]})
        url = f"{self.url}/v1"
        return openai.OpenAI(base_url=url, api_key=key, http_client=http, **options)

    def as_key(self, key: str) -> Server:
        """The same server, as who has this key sees it."""
        other = copy.copy(self)
        other.key, other.client = key, self.client_with(key)
        return other

    def raw(self, method: str, path: str, **request: Any) -> tuple[int, Any, Any]:
        """Status, JSON or text, and headers, without the client."""
        import httpx2

        headers = {"authorization": f"Bearer {self.key}"} | request.pop("headers", {})
        try:
            answer = httpx2.request(
                method, f"{self.url}{path}", headers=headers, timeout=START_SECONDS, **request
            )
        except httpx2.ConnectError:
            return 0, None, {}
        self.check_error(answer)
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.status_code, answer.json() if is_json else answer.text, answer.headers

    def set_clock(self, seconds: int) -> None:
        """How far the server's clock is off from now on; it looks at it all the time."""
        assert self.clock is not None
        new = self.clock.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.clock)

    def check_error(self, answer: Any) -> None:
        """No answer that is an error tells of the server's insides."""
        if answer.status_code >= 400:
            answer.read()
            for inside in ("Traceback", str(self.folder), 'File "'):
                assert inside not in answer.text, answer.text

    def check_log(self) -> None:
        """Whatever was done to it, a traceback is a defect."""
        log = self.log.read_text(errors="replace")
        at = log.find("Traceback")
        assert at < 0, log[max(0, at - 1000) : at + 6000]

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """A graceful stop; the exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(60)

    def child(self, name: str = "shoal-engine") -> int | None:
        """The process id of the engine or of the clerk, while there is one."""
        listed = subprocess.run(
            ["ps", "-o", "pid=,comm=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        found = [line.split() for line in listed.stdout.splitlines()]
        return next((int(pid) for pid, comm, *_ in found if comm == name), None)

    def upload(self, lines: list[Any], name: str = "in.jsonl") -> FileObject:
        """A batch file."""
        return self.client.files.create(file=(name, io.BytesIO(as_bytes(lines))), purpose="batch")

    def submit(self, lines: list[Any], url: str = CHAT_URL, **more: Any) -> Batch:
        """Upload and create."""
        more.setdefault("completion_window", "24h")
        file = self.upload(lines)
        return self.client.batches.create(input_file_id=file.id, endpoint=url, **more)

    def ended(self, id: str, seconds: float = 180.0) -> Batch:
        """Poll until a batch has ended."""
        return self.until(id, lambda batch: batch.status in ENDED, seconds)

    def until(self, id: str, true: Callable[[Batch], bool], seconds: float = 180.0) -> Batch:
        """Poll until something is true of a batch."""
        deadline = time.monotonic() + seconds
        while not true(batch := self.client.batches.retrieve(id)):
            assert time.monotonic() < deadline, f"{batch}\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)
        return batch

    def wait(self, true: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Until something is true."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def records(self, id: str | None) -> list[dict[str, Any]]:
        """Of an output or error file; none for none."""
        if id is None:
            return []
        return [json.loads(line) for line in self.client.files.content(id).content.splitlines()]


@contextmanager
def serving(
    folder: Path, *arguments: str, key: str = "none", clock: Path | None = None
) -> Iterator[Server]:
    """A server that ends with the block."""
    server = Server(folder, *arguments, key=key, clock=clock)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
    server.check_log()


def chat(custom_id: str, content: str = "Say hello.", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    body = {"model": "shoal-tiny", "messages": messages, "max_tokens": 8} | body
    return {"custom_id": custom_id, "method": "POST", "url": CHAT_URL, "body": body}


def chats(count: int, **body: Any) -> list[dict[str, Any]]:
    return [chat(f"c{i}", f"Ticket {i}: where is my parcel?", **body) for i in range(count)]


def as_bytes(lines: list[Any]) -> bytes:
    """Objects as JSON, bytes as they are."""
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return b"".join(line + b"\n" for line in encoded)
