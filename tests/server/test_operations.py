"""Health, metrics, logs, and how much memory an upload takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shoal.errors import OptionError
from shoal.server import packages
from tests.server.server_process import Server, chat, chats, serving

UPLOAD_BYTES = 60_000_000


def test_health_and_metrics(server: Server) -> None:
    server.ended(server.submit(chats(2)).id)
    assert server.raw("GET", "/healthz")[:2] == (200, {"status": "ok", "engine": "ready"})
    status, text, headers = server.raw("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            found = re.fullmatch(r'([a-z_]+:[a-z_]+(?:\{[a-z]+="[a-z_]+"\})?) ([0-9.e+-]+)', line)
            assert found is not None, line
            samples[found[1]] = float(found[2])
    assert samples["vllm:num_requests_waiting"] == 0
    assert samples["vllm:generation_tokens_total"] > 0
    assert samples['shoal:batches{status="completed"}'] > 0
    assert samples["shoal:engine_ready"] == 1


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def test_uploads_and_downloads_stream(tmp_path: Path) -> None:
    """Three at a time, each far larger than what the process may grow by; JSON logs on the way."""
    with serving(tmp_path, "--log-format", "json") as server:
        server.ended(server.submit([chat("a")]).id)
        pid = server.process.pid
        forget_peak(pid)
        before = peak_bytes(pid)
        path = tmp_path / "large.jsonl"
        path.write_bytes(b"x" * 999 + b"\n")
        path.write_bytes(path.read_bytes() * (UPLOAD_BYTES // 1000))

        def there_and_back(number: int) -> int:
            file = server.client.files.create(file=path, purpose="batch")
            assert file.bytes == UPLOAD_BYTES
            with server.client.files.with_streaming_response.content(file.id) as answer:
                return sum(len(chunk) for chunk in answer.iter_bytes())

        with ThreadPoolExecutor(3) as executor:
            assert list(executor.map(there_and_back, range(3))) == [UPLOAD_BYTES] * 3
        assert peak_bytes(pid) - before < UPLOAD_BYTES * 2 / 3
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert {"time", "level", "logger", "message"} <= set(lines[0])
        assert any("batch" in line for line in lines)


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
