"""SIGKILL at random moments, to the server and its processes, while batches are in any status."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.long_batches import long_lines, one_record_per_line
from tests.server.server_process import ENDED, Server, chats, serving


def wait_for_results(server: Server, ids: list[str]) -> None:
    """Until a journal grows, or none will: a busy machine is slow to load the model."""

    def sizes() -> list[int]:
        paths = [server.folder / "data" / "batches" / id / "output.jsonl.journal" for id in ids]
        return [path.stat().st_size if path.exists() else 0 for path in paths]

    before = sizes()
    server.wait(lambda: sizes() != before or not unfinished(server))


def unfinished(server: Server) -> list[str]:
    return [batch.id for batch in server.client.batches.list() if batch.status not in ENDED]


KINDS = ("completed", "failed", "cancelled", "expired", "completed")


@dataclass(frozen=True)
class Tried:
    """A batch that lives among kills; `ends` are those that it may come to."""

    id: str
    lines: list[Any]
    ends: set[str]

    @classmethod
    def submit(cls, server: Server, rng: random.Random, kind: str) -> Tried:
        lines: list[Any] = long_lines(rng.randint(20, 80))
        if kind == "failed":
            lines = [*chats(5), b"no JSON"]
        window = f"{rng.randint(2, 8)}s" if kind == "expired" else "24h"
        batch = server.submit(lines, completion_window=window)
        ends = {kind} if kind == "failed" else {kind, "completed"}
        return cls(batch.id, lines, ends)

    def check(self, server: Server) -> None:
        batch = server.ended(self.id, 600)
        assert batch.status in self.ends
        if batch.status == "failed":
            assert (batch.output_file_id, batch.error_file_id) == (None, None)
            return
        codes = one_record_per_line(server, batch, self.lines)
        assert set(codes) <= {f"batch_{batch.status}"}


def kill_often(folder: Path, kills: int, seed: int, rests: int = 2) -> Counter[str]:
    """SIGKILL to a process of the server, while batches are in any status.

    Before every `rests`-th kill a batch gets results; only there it may be the engine, which would
    be given up else. Returns the statuses that batches were in when something was killed.
    """
    rng, seen = random.Random(seed), Counter[str]()
    tried: list[Tried] = []
    with serving(folder) as server:
        for number in range(kills):
            while len(waiting := unfinished(server)) < 3:
                tried.append(Tried.submit(server, rng, KINDS[len(tried) % len(KINDS)]))
            for each in tried:
                if "cancelled" in each.ends and each.id in waiting and rng.random() < 0.3:
                    with suppress(openai.ConflictError):  # it has just ended
                        server.client.batches.cancel(each.id)
            victims = ["shoal-clerk", "server", "server"]
            if number % rests == rests - 1:
                wait_for_results(server, waiting)
                victims.append("shoal-engine")
            time.sleep(rng.uniform(0, 2) * rng.random())
            seen.update(batch.status for batch in server.client.batches.list())
            if (pid := server.child(rng.choice(victims))) is not None:
                os.kill(pid, signal.SIGKILL)
            else:
                server.kill()
                server.start()
        for each in tried:
            each.check(server)
    return seen


def test_kills(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("tries", 20)
    seen = kill_often(tmp_path, 20, seed=1, rests=10)
    assert set(seen) > {"in_progress", "failed"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.timeout(3600)
def test_many_kills(
    tmp_path: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", 20)
    record_property("statuses", dict(kill_often(tmp_path, 20, seed)))
