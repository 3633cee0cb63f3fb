"""Several servers, servers that die, and a client that is killed: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shoal.endpoints import EndpointOptions, endpoint_run
from shoal.endpoints.endpoint_answers import TryAgain
from shoal.endpoints.endpoint_run import EndpointRun
from shoal.endpoints.endpoint_server import EndpointServer
from shoal.errors import EndpointError
from shoal.jobs import JobSpec, run_job
from shoal.types import ServerAnswer
from tests.endpoints.conftest import FaultServer
from tests.helpers.job_files import chat, read_records, write_lines
from tests.helpers.kills import run_with_kills

pytestmark = pytest.mark.timeout(180)
Start = Callable[..., FaultServer]


def families(count: int, users: int) -> list[dict[str, object]]:
    """Requests of `count` prefixes, shuffled."""
    lines = [
        chat(f"{family}-{user}", f"{chr(97 + family) * 150} {user}")
        for family in range(count)
        for user in range(users)
    ]
    random.Random(3).shuffle(lines)
    return lines


def spec(
    folder: Path,
    model: Path,
    *servers: FaultServer,
    patience: float = 1.0,
    timeout: float = 600.0,
) -> JobSpec:
    return JobSpec(
        input=folder / "in.jsonl",
        output=folder / "out.jsonl",
        model=str(model),
        endpoints=EndpointOptions(
            endpoint=[server.url for server in servers],
            endpoint_concurrency=4,
            endpoint_patience=patience,
            endpoint_timeout=timeout,
        ),
        quiet=True,
    )


def after(attempts: int, server: FaultServer, act: Callable[[], None]) -> None:
    """Do something when a server has got so many requests."""
    while len(server.log) < attempts:
        time.sleep(0.01)
    act()


def prefixes(server: FaultServer) -> list[str]:
    """The first letter of each prompt that a server got, in order."""
    return [entry["body"]["messages"][0]["content"][0] for entry in server.log]


def complete(folder: Path, lines: list[dict[str, object]]) -> bool:
    found = [record["custom_id"] for record in read_records(folder / "out.jsonl")]
    return found == [line["custom_id"] for line in lines]


def test_a_family_goes_to_one_server(tmp_path: Path, model: Path, start_server: Start) -> None:
    servers = [start_server(seconds=0.02) for _ in range(2)]
    lines = families(8, 12)
    write_lines(tmp_path / "in.jsonl", lines)
    run_job(spec(tmp_path, model, *servers))
    assert complete(tmp_path, lines)
    one, other = (prefixes(server) for server in servers)
    assert len(one) + len(other) == len(lines)
    assert not set(one) & set(other)
    assert 2 <= len(set(one)) <= 6
    for got in (one, other):  # and one family after the other, but for where two are under way
        changes = sum(a != b for a, b in pairwise(got))
        assert changes < 4 * len(set(got))


@pytest.mark.long
def test_one_of_two_dies_and_comes_back(
    tmp_path: Path, model: Path, start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_run, "REVIVAL_SECONDS", 0.2)
    monkeypatch.setattr(endpoint_run, "FIRST_WAIT", 0.1)
    servers = [start_server(seconds=0.05) for _ in range(2)]
    lines = families(16, 20)
    write_lines(tmp_path / "in.jsonl", lines)
    logs: list[int] = []

    def disturb() -> None:
        while len(servers[1].log) < 5:
            time.sleep(0.01)
        servers[1].kill()
        time.sleep(1.5)
        servers[1].start()
        while not (got := servers[1].log) and time.monotonic() < ends:
            time.sleep(0.05)
        logs.append(len(got))

    ends = time.monotonic() + 60
    disturber = threading.Thread(target=disturb)
    disturber.start()
    result = run_job(spec(tmp_path, model, *servers, patience=0.3))
    disturber.join()
    assert complete(tmp_path, lines)
    assert result.exit_code == 0
    assert logs[0] > 0


@pytest.mark.long
def test_a_server_that_is_silent_gives_its_lines_back(
    tmp_path: Path, model: Path, start_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that it has and does not answer; nothing comes of them when it goes on."""
    servers = [start_server(seconds=0.05) for _ in range(2)]
    lines = families(8, 20)
    write_lines(tmp_path / "in.jsonl", lines)
    under_way: list[int] = []
    waiting: set[str] = set()
    leave, post = EndpointRun._leave, EndpointServer.post

    def left(run: EndpointRun, number: int) -> None:
        under_way.append(len(run._servers[number].under_way))
        leave(run, number)

    async def never_in_time(
        server: EndpointServer, url: str, body: dict[str, Any]
    ) -> ServerAnswer | TryAgain:
        """One line of each server is still waited for when the others' time is over."""
        one = server.url not in waiting
        waiting.add(server.url)
        try:
            outcome = await post(server, url, body)
            if one and isinstance(outcome, TryAgain):
                await asyncio.sleep(600)
            return outcome
        finally:
            if one:
                waiting.discard(server.url)

    monkeypatch.setattr(EndpointRun, "_leave", left)
    monkeypatch.setattr(EndpointServer, "post", never_in_time)
    pauser = threading.Thread(target=lambda: after(5, servers[1], servers[1].pause))
    pauser.start()
    result = run_job(spec(tmp_path, model, *servers, patience=0.2, timeout=3.0))
    pauser.join()
    assert result.exit_code == 0
    assert complete(tmp_path, lines)
    assert under_way
    assert under_way[0] > 0


@pytest.mark.long
def test_the_only_server_dies_and_comes_back(
    tmp_path: Path, model: Path, start_server: Start
) -> None:
    server = start_server(seconds=0.05)
    lines = families(4, 20)
    write_lines(tmp_path / "in.jsonl", lines)

    def disturb() -> None:
        after(20, server, server.kill)
        time.sleep(1.0)
        server.start()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    result = run_job(spec(tmp_path, model, server, patience=120.0))
    disturber.join()
    assert result.exit_code == 0
    assert complete(tmp_path, lines)
    assert len(server.log) <= len(lines) - 12, "what it had answered is not asked again"


@pytest.mark.long
def test_all_die_and_the_same_command_resumes(
    tmp_path: Path, model: Path, start_server: Start
) -> None:
    server = start_server(seconds=0.05)
    lines = families(4, 30)
    write_lines(tmp_path / "in.jsonl", lines)

    def disturb() -> None:
        while len(server.log) < 40:
            time.sleep(0.01)
        server.kill()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    with pytest.raises(EndpointError, match="no server can be reached") as caught:
        run_job(spec(tmp_path, model, server, patience=0.5))
    disturber.join()
    assert server.url in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()
    server.start()
    run_job(spec(tmp_path, model, server))
    assert complete(tmp_path, lines)
    assert len(server.log) <= len(lines) - 30  # what had been answered was not asked again


@pytest.mark.long
def test_kill_9_of_the_client(tmp_path: Path, model: Path, start_server: Start) -> None:
    server = start_server(seconds=0.05)
    lines = families(4, 50)
    write_lines(tmp_path / "in.jsonl", lines)
    journal = tmp_path / "out.jsonl.journal"
    sizes: list[int] = []

    def size() -> int:
        return journal.stat().st_size if journal.exists() else 0

    def start() -> subprocess.Popen[bytes]:
        sizes.append(size())
        command = [sys.executable, "-m", "shoal", "run", "in.jsonl", "-o", "out.jsonl", "--quiet"]
        command += ["--model", str(model), "--endpoint", server.url, "--endpoint-concurrency", "4"]
        return subprocess.Popen(command, cwd=tmp_path)

    report = run_with_kills(
        start,
        kills=2,
        longest_seconds=0.5,
        rng=random.Random(1),
        ready=lambda: size() > sizes[-1] and len(server.log) > 10,
    )
    assert (report.kills, report.exit_code) == (2, 0)
    assert complete(tmp_path, lines)
    assert len(server.log) <= len(lines) + 2 * 40
