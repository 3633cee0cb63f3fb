"""What open pages are told, and what they cost; without a browser."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import pytest

from shoal.engine.run_stats import RunStats
from shoal.engine.trace import IterationTrace
from shoal.progress import ProgressState
from shoal.server.http.routes_page import POLICY
from shoal.server.live.live import Live, thinned
from shoal.server.messages.telemetry import ITERATION_BUCKETS, Telemetry, TracePoint
from shoal.server.workers.telemeter import Telemeter
from shoal.types import PlanFigures
from tests.helpers.planner_jobs import Job
from tests.server.long_batches import another_running, checked
from tests.server.server_process import Server, chat, chats


@contextmanager
def events(server: Server, key: str | None = None) -> Iterator[Iterator[tuple[str, Any]]]:
    """The stream of one page, as (name, data)."""
    headers = {"authorization": f"Bearer {key or server.key}"}
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("GET", f"{server.url}/live/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")

        def read() -> Iterator[tuple[str, Any]]:
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    yield name, json.loads(line[6:])

        yield read()


def test_a_batch_is_followed_to_its_end(server: Server) -> None:
    with events(server) as stream:
        name, first = next(stream)
        assert name == "batches"
        name, engine = next(stream)
        assert (name, engine["since"]) == ("engine", 0)
        batch = server.submit([*chats(300, max_tokens=60), chat("bad", temperature=9)])
        assert batch.id not in [known["id"] for known in first["data"]]
        seen, points, parts, mine = [], [], [], False
        deadline = time.monotonic() + 120
        for name, data in stream:
            if name == "batches":
                seen += [known for known in data["data"] if known["id"] == batch.id]
            else:
                points += data["points"]
                mine = mine or data["batches"] == [batch.id]
                parts.append(data["part"])
            if seen and seen[-1]["status"] == "completed":
                break
            assert time.monotonic() < deadline
    assert mine, "the engine is said to run it"
    statuses = list(dict.fromkeys(known["status"] for known in seen))
    assert statuses[-1] == "completed"
    assert seen[-1]["request_counts"] == {"total": 301, "completed": 300, "failed": 1}
    assert seen[-1]["filename"] == "in.jsonl"
    assert points
    assert all(point["decode"] >= 0 and point["kv_bytes"] >= 0 for point in points)
    assert max(parts) > 0
    usage = server.client.batches.retrieve(batch.id).usage
    status, forest, _ = server.raw("GET", f"/live/batches/{batch.id}/forest")
    assert status == 200
    assert usage is not None
    assert forest["prompt_tokens"] == usage.input_tokens
    assert forest["sequences"] == 300
    assert 0 < forest["computed_prompt_tokens"] < forest["prompt_tokens"], (
        "their template is shared"
    )
    widths = [float(rect[3]) for rect in forest["rects"] if rect[0] == "t"]
    assert sum(widths) == pytest.approx(forest["size"][0], rel=0.01), "a column for each sequence"


def test_a_key_hears_of_its_own_batches_only(keyed: Server) -> None:
    server, other = keyed.as_key("live-one"), {"authorization": "Bearer live-two"}
    with events(server, "live-two") as stream:
        assert next(stream)[1]["data"] == []
        batch = server.submit(chats(40))
        server.ended(batch.id)
        for name, data in stream:
            if name == "engine":
                assert batch.id not in json.dumps(data)
                if not data["others"] and data["run"]:
                    break
            else:
                assert data["data"] == []
    for path in ("", "/forest"):
        url = f"/live/batches/{batch.id}{path}"
        assert server.raw("GET", url, headers=other)[0] == 404
        assert server.raw("GET", url)[0] == 200
    for path in ("/live/events", "/live/about", f"/live/batches/{batch.id}"):
        assert server.raw("GET", path, headers={"authorization": "Bearer no"})[0] == 401


@pytest.mark.parametrize("keys", [("live-one", "live-one"), ("live-one", "live-two")])
def test_batches_that_run_together_are_drawn_together(keyed: Server, keys: list[str]) -> None:
    """Those of several keys without any text."""
    servers = [keyed.as_key(key) for key in keys]
    with another_running(servers[0]):
        ids = [server.submit(chats(20)).id for server in servers]
        for server, id in zip(servers, ids, strict=True):
            server.until(id, checked)
    for server, id in zip(servers, ids, strict=True):
        assert server.ended(id).status == "completed"
        picture = server.raw("GET", f"/live/batches/{id}/forest")[1]
        assert (picture["batches"], picture["sequences"]) == (2, 40)
        assert picture["segments"]
        told = any("parcel" in text for *_, text in picture["segments"])
        assert told == (len(set(keys)) == 1)
        assert told == any(text for *_, text in picture["segments"])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_fifty_open_pages_cost_little(server: Server) -> None:
    """Of the server's process, while a batch runs; each page gets all of the events."""
    pages, counts, stop = 50, [0] * 50, threading.Event()

    def read(number: int) -> None:
        with events(server) as stream:
            for _ in stream:
                counts[number] += 1
                if stop.is_set():
                    return

    threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(pages)]
    for thread in threads:
        thread.start()
    server.wait(lambda: min(counts) >= 2)
    batch = server.submit(chats(1500, max_tokens=200))
    server.until(batch.id, lambda now: now.status == "in_progress")
    before, began = cpu_seconds(server.process.pid), time.monotonic()
    time.sleep(4)
    spent = (cpu_seconds(server.process.pid) - before) / (time.monotonic() - began)
    stop.set()
    server.client.batches.cancel(batch.id)
    server.ended(batch.id)
    for thread in threads:
        thread.join(20)
    assert min(counts) >= 5
    assert spent < 0.5, f"{spent:.0%} of a core"
    print(f"{pages} pages: {spent:.1%} of a core")


def test_the_page_needs_nothing_from_elsewhere(server: Server) -> None:
    status, text, headers = server.raw("GET", "/", headers={"authorization": ""})
    assert status == 200
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in POLICY
    assert "*" not in POLICY
    assert server.raw("GET", "/", headers={"if-none-match": headers["etag"]})[0] == 304
    folder = Path(__file__).parents[2] / "shoal" / "server" / "http" / "page"
    for path in folder.iterdir():
        status, text, headers = server.raw("GET", f"/page/{path.name}")
        assert (status, text) == (200, path.read_text())
        assert headers["content-security-policy"] == POLICY
        links = text.replace("http://www.w3.org/2000/svg", "").replace("https://", "http://")
        assert "http://" not in links
        for markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert markup not in text
    assert server.raw("GET", "/page/nothing.js")[0] == 404
    assert server.raw("GET", "/page/..%2fapp.py")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "http://behind.a.proxy"}, 404),
        ({"sec-fetch-site": "none"}, 404),
        ({}, 404),
    ],
)
def test_pages_of_other_sites_change_nothing(
    server: Server, headers: dict[str, str], status: int
) -> None:
    found, body, _ = server.raw("POST", "/v1/batches/batch_no/cancel", headers=headers)
    assert found == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert server.raw("GET", "/healthz", headers=headers)[0] == 200


def points(count: int) -> tuple[tuple[int, TracePoint], ...]:
    return tuple((n, TracePoint(n / 2, 1 + n % 3, n, 2.0 * n, 10 * n)) for n in range(1, count + 1))


def test_a_curve_that_is_thinned_keeps_its_sums() -> None:
    whole, thin = points(241), thinned(points(241), 240)
    assert len(thin) == 121
    assert thin[-1] == whole[-1]
    for value in ("decode", "prefill"):
        before = sum(getattr(p, value) * p.iterations for _, p in whole)
        assert sum(getattr(p, value) * p.iterations for _, p in thin) == pytest.approx(before)
    assert max(p.kv_bytes for _, p in thin) == max(p.kv_bytes for _, p in whole)
    assert thinned(points(240), 240) == points(240)


class Run:
    """As much of a run as a telemeter looks at."""

    def __init__(self) -> None:
        self.trace, self.stats = IterationTrace(), RunStats()
        self.planned = PlanFigures.together([])

    def iterate(self, decode: int, shared: int, own: int) -> None:
        rows = np.concatenate(
            [self.trace.rows(), [[len(self.trace) + 1.0, decode, shared, own, 5, 7]]]
        )
        self.trace = IterationTrace.of_rows(rows)
        self.stats.prompt_tokens_computed += shared + own
        self.stats.generated_tokens += decode


def test_what_is_told_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Telemetry] = []
    telemeter, run = Telemeter(told.append), Run()
    now = [0.0]
    monkeypatch.setattr("shoal.server.workers.telemeter.TELL_SECONDS", 0.02)
    monkeypatch.setattr(
        "shoal.server.workers.telemeter.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    telemeter.began(run, Job([[1, 2]]).table)  # type: ignore[arg-type]
    state = ProgressState(done=0, total=9, tokens=1, remaining_tokens=3, seconds=1, kv_bytes=99)
    for iteration in range(60):
        run.iterate(iteration, 3, 400 if iteration % 2 else 0)
        telemeter.update(state)
        now[0] += 0.002
    telemeter.ended()
    assert 5 < len(told) < 10, "not every iteration"
    live = Live()
    live.begin(("batch_a",))
    for each in told:
        live.take(each)
    totals = live.totals
    assert totals.generated_tokens == sum(range(60))
    assert totals.computed_tokens == 60 * 3 + 30 * 400
    assert totals.iteration_tokens == totals.generated_tokens + totals.computed_tokens
    sizes = [i + 3 + (400 if i % 2 else 0) for i in range(60)]
    expected = np.bincount(
        [sum(size > bound for bound in ITERATION_BUCKETS) for size in sizes],
        minlength=len(ITERATION_BUCKETS) + 1,
    )
    assert totals.buckets == tuple(expected)
    assert sum(p.iterations for _, p in live.run.points) == 60
    assert told[0].part == pytest.approx(1 / 4)
    live.end()
    assert live.run.batches == ()
    assert live.run.points, "the curve stays"
