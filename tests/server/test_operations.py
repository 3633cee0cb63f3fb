"""Health, metrics, logs, and how much memory an upload takes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.errors import OptionError
from shoal.server import packages
from tests.server.server_process import Server, chat, chats, serving

SIZES = [60_000_000, pytest.param(200_000_000, marks=pytest.mark.slow)]


def test_health_and_metrics(server: Server) -> None:
    server.ended(server.submit(chats(2)).id)
    assert server.raw("GET", "/healthz")[:2] == (200, READY)
    status, text, headers = server.raw("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (sample.name, sample.labels.get("status")): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert all(s.labels["model_name"] == "shoal-tiny" for f in families.values() for s in f.samples)
    assert samples["vllm:num_requests_waiting", None] == 0
    assert samples["vllm:num_requests_running", None] == 0
    assert samples["shoal:batches", "completed"] > 0
    assert samples["shoal:engine_ready", None] == 1
    # Exact, whether one looks at a batch or at the totals.
    batch = server.ended(server.submit(chats(40, max_tokens=5)).id)
    later = {
        family.name: {sample.name: sample.value for sample in family.samples}
        for family in text_string_to_metric_families(server.raw("GET", "/metrics")[1])
    }

    def grown(name: str) -> float:
        return later[name][f"{name}_total"] - samples[f"{name}_total", None]

    assert batch.usage is not None
    assert grown("vllm:prompt_tokens") == batch.usage.input_tokens
    assert grown("vllm:generation_tokens") == batch.usage.output_tokens
    assert grown("vllm:prefix_cache_queries") == batch.usage.input_tokens
    shared = grown("vllm:prefix_cache_hits")
    assert 0 < shared < batch.usage.input_tokens
    iterations = families["vllm:iteration_tokens_total"]
    assert iterations.type == "histogram"
    computed = later["vllm:iteration_tokens_total"]["vllm:iteration_tokens_total_sum"]
    computed -= samples["vllm:iteration_tokens_total_sum", None]
    # The last token of an answer is not computed.
    assert computed >= batch.usage.input_tokens - shared


def test_readiness_follows_the_engine(tmp_path: Path) -> None:
    with serving(tmp_path, "--log-format", "json") as server:
        assert server.raw("GET", "/readyz")[0] in (200, 503)
        server.wait(lambda: server.raw("GET", "/readyz")[:2] == (200, READY))
        pid = server.child()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        server.wait(lambda: server.raw("GET", "/readyz")[0] == 503)
        assert server.raw("GET", "/healthz")[0] == 200
        server.wait(lambda: server.raw("GET", "/readyz")[0] == 200)
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert any("SIGKILL" in line["message"] and line["level"] == "error" for line in lines)


READY = {"status": "ok", "engine": "ready"}


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("size", SIZES)
def test_uploads_and_downloads_stream(
    tmp_path: Path, size: int, record_property: Callable[[str, object], None]
) -> None:
    """Three at a time, each far larger than what the process may grow by; JSON logs on the way."""
    with serving(tmp_path, "--log-format", "json") as server:
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
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert {"time", "level", "process", "logger", "message"} <= set(lines[0])
        about = [line for line in lines if "batch_" in line["message"]]
        assert len(about) >= 2
        assert all(line["batch"] in line["message"] for line in about)


def test_one_server_per_directory_and_port(server: Server, tmp_path: Path) -> None:
    for arguments, said in (
        (["--data-dir", str(server.folder / "data"), "--port", "0"], "another server uses it"),
        (["--data-dir", str(tmp_path), "--port", server.url.rsplit(":", 1)[1]], "cannot listen"),
        (["--data-dir", str(tmp_path), "--database", "nothing://x", "--port", "0"], "--database"),
        (["--data-dir", "/proc/nothing"], "--data-dir"),
        (["--max-file-size", "many"], "not a size"),
        (["--port", "70000"], "port"),
    ):
        command = [sys.executable, "-m", "shoal", "serve", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    packages.require_packages()
    monkeypatch.setitem(packages._PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(OptionError, match=r"no-such-package: pip install 'shoal\[server\]'"):
        packages.require_packages()
