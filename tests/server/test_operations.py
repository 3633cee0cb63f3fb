"""Health, metrics, logs, and how much memory an upload takes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.errors import OptionError
from shoal.server import packages
from tests.server.long_batches import begun, long_lines
from tests.server.server_process import Server, chat, chats, serving
from tests.server.test_live import events

SIZES = [60_000_000, pytest.param(200_000_000, marks=pytest.mark.slow)]
READY = {"status": "ok", "engine": "ready"}


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its log is JSON. The last test stops it."""
    with serving(tmp_path_factory.mktemp("talker"), "--log-format", "json") as server:
        yield server


Samples = dict[tuple[str, str], float]


def samples_of(server: Server) -> Samples:
    """Values of /metrics by name and the label that tells samples of one name apart."""
    status, text, headers = server.raw("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("model_name") == "shoal-tiny"
            if sample.name.startswith("vllm:"):
                assert labels.pop("engine") == "0"
            assert len(labels) <= 1
            found[sample.name, "".join(labels.values())] = sample.value
    return found


def grown(server: Server, before: Samples) -> Samples:
    return {key: value - before.get(key, 0) for key, value in samples_of(server).items()}


def test_health_and_metrics(server: Server) -> None:
    server.ended(server.submit(chats(2)).id)
    assert server.raw("GET", "/healthz")[:2] == (200, READY)
    samples = samples_of(server)
    assert samples["vllm:num_requests_waiting", ""] == 0
    assert samples["vllm:num_requests_running", ""] == 0
    assert samples["shoal:batches", "completed"] > 0
    assert samples["shoal:engine_ready", ""] == 1


def test_metrics_are_exact(server: Server) -> None:
    """Whether one looks at a batch or at the totals."""
    server.ended(server.submit(chats(2)).id)
    before = samples_of(server)
    lines = [*chats(40, max_tokens=5), chat("two", n=2, max_tokens=3), chat("bad", temperature=9)]
    batch = server.ended(server.submit(lines).id)
    more, usage = grown(server, before), batch.usage
    assert usage is not None
    assert more["vllm:generation_tokens_total", ""] == usage.output_tokens
    for name in ("vllm:prompt_tokens_total", "vllm:prefix_cache_queries_total"):
        own = usage.input_tokens
        assert own < more[name, ""] < own + 200, "that of the request with two answers twice"
    shared = more["vllm:prefix_cache_hits_total", ""]
    assert 0 < shared < usage.input_tokens
    assert more["vllm:prompt_tokens_cached_total", ""] == shared
    assert more["vllm:prompt_tokens_by_source_total", "local_cache_hit"] == shared
    computed = more["vllm:prompt_tokens_by_source_total", "local_compute"]
    assert computed + shared == more["vllm:prompt_tokens_total", ""]
    # The last token of an answer is not computed.
    assert more["vllm:iteration_tokens_total_sum", ""] >= computed


def test_finished_requests_are_counted_as_vllm_does(server: Server) -> None:
    """A choice counts as one, but for `n` and the longest answer."""
    before = samples_of(server)
    lines = [*chats(9, max_tokens=5), chat("two", n=2, temperature=1), chat("bad", temperature=9)]
    batch = server.ended(server.submit(lines).id)
    more = grown(server, before)
    bodies = [record["response"]["body"] for record in server.records(batch.output_file_id)]
    choices = [choice for body in bodies for choice in body["choices"]]
    for reason in ("stop", "length", "abort", "error", "repetition"):
        expected = sum(choice["finish_reason"] == reason for choice in choices)
        assert more["vllm:request_success_total", reason] == expected
    assert len(choices) == 11
    prompts = [body["usage"]["prompt_tokens"] for body in bodies]
    generated = [body["usage"]["completion_tokens"] for body in bodies]

    def histogram(name: str) -> tuple[float, float]:
        name = f"vllm:request_{name}"
        assert more[f"{name}_bucket", "+Inf"] == more[f"{name}_count", ""]
        return more[f"{name}_count", ""], more[f"{name}_sum", ""]

    assert histogram("prompt_tokens") == (11, sum(prompts) + prompts[-1])
    assert histogram("generation_tokens") == (11, sum(generated))
    assert histogram("params_max_tokens") == (11, 9 * 5 + 2 * 8)
    assert histogram("params_n") == (10, 9 + 2)
    count, longest = histogram("max_num_generation_tokens")
    assert count == 10
    assert sum(generated[:-1]) < longest <= sum(generated[:-1]) + 8
    assert more["vllm:request_prompt_tokens_bucket", "100.0"] == sum(
        (2 if body is bodies[-1] else 1) for body in bodies if body["usage"]["prompt_tokens"] <= 100
    )


def test_requests_that_are_cancelled_count_as_aborted(server: Server) -> None:
    before = samples_of(server)
    batch = server.submit(long_lines(200))
    server.until(batch.id, begun)
    server.client.batches.cancel(batch.id)
    batch = server.ended(batch.id)
    counts = batch.request_counts
    assert counts is not None
    aborted = ("vllm:request_success_total", "abort")
    server.wait(lambda: grown(server, before)[aborted] > 0)
    assert grown(server, before)[aborted] == counts.failed


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("size", SIZES)
def test_uploads_and_downloads_stream(
    talker: Server, tmp_path: Path, size: int, record_property: Callable[[str, object], None]
) -> None:
    """Three at a time, each far larger than what the process may grow by; JSON logs on the way."""
    server = talker
    server.ended(server.submit([chat("a")]).id)
    pid = server.process.pid
    forget_peak(pid)
    before = peak_bytes(pid)
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"x" * 999 + b"\n")
    path.write_bytes(path.read_bytes() * (size // 1000))

    def there_and_back(number: int) -> int:
        file = server.client.files.create(file=path, purpose="batch")
        assert file.bytes == size
        with server.client.files.with_streaming_response.content(file.id) as answer:
            return sum(len(chunk) for chunk in answer.iter_bytes())

    with ThreadPoolExecutor(3) as executor:
        assert list(executor.map(there_and_back, range(3))) == [size] * 3
    grown = peak_bytes(pid) - before
    record_property("grown_bytes", grown)
    assert grown < 40_000_000
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {"time", "level", "process", "logger", "message"} <= set(lines[0])
    about = [line for line in lines if "batch_" in line["message"]]
    assert len(about) >= 2
    assert all(line["batch"] in line["message"] for line in about)


def test_readiness_follows_the_engine_and_a_stop_waits_for_no_page(talker: Server) -> None:
    server = talker
    assert server.raw("GET", "/readyz")[0] in (200, 503)
    server.wait(lambda: server.raw("GET", "/readyz")[:2] == (200, READY))
    pid = server.child()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    server.wait(lambda: server.raw("GET", "/readyz")[0] == 503)
    assert server.raw("GET", "/healthz")[0] == 200
    server.wait(lambda: server.raw("GET", "/readyz")[0] == 200)
    with events(server) as stream:
        next(stream)
        assert server.stop() == 0
        for _ in stream:  # it was brought to its end, not cut off
            pass
    log = server.log.read_text()
    assert "Cancel" not in log, "what uvicorn says of streams that it cuts off after a while"
    lines = [json.loads(line) for line in log.splitlines()]
    assert any("SIGKILL" in line["message"] and line["level"] == "error" for line in lines)


def test_one_server_per_directory_and_port(server: Server, tmp_path: Path) -> None:
    taken = server.url.rsplit(":", 1)[1]
    wrong = {
        "another server uses it": ["--data-dir", str(server.folder / "data"), "--port", "0"],
        "cannot listen": ["--data-dir", str(tmp_path / "a"), "--port", taken],
        "--database": ["--data-dir", str(tmp_path), "--database", "nothing://x", "--port", "0"],
        "--data-dir": ["--data-dir", "/proc/nothing"],
        "not a size": ["--max-file-size", "many"],
        "port must be": ["--port", "70000"],
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "shoal", "serve", *arguments], stderr=subprocess.PIPE, text=True
        )
        for arguments in wrong.values()
    ]
    for said, process in zip(wrong, started, strict=True):
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 2, errors
        assert said in errors
        assert "Traceback" not in errors


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    packages.require_packages()
    monkeypatch.setitem(packages._PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(OptionError, match=r"no-such-package: pip install 'shoal\[server\]'"):
        packages.require_packages()
