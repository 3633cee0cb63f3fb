"""The server on PostgreSQL, as Debian packages it: a cluster of its own on a socket in a folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.long_batches import begun, long_lines, one_record_per_line
from tests.server.server_process import Server, chats, serving

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def as_user(user: str | None) -> dict[str, Any]:
    """It does not run as root."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    pytest.importorskip("psycopg")
    if not INSTALLED:
        pytest.skip("PostgreSQL is not installed")
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="shoal-pg-"))  # short: a socket's path may not be long
    try:
        if user is not None:
            shutil.chown(folder, user, user)
        bin, data = INSTALLED[-1], folder / "data"
        quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, **as_user(user)}
        subprocess.run([bin / "initdb", "-D", data, "-A", "trust", "-U", "shoal"], **quiet)
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        control = [bin / "pg_ctl", "-D", data, "-l", folder / "log", "-w"]
        subprocess.run([*control, "-o", options, "start"], **quiet)
        try:
            subprocess.run([bin / "createdb", "-h", folder, "-U", "shoal", "shoal"], **quiet)
            yield f"postgresql+psycopg://shoal@/shoal?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_server_on_postgresql(url: str, tmp_path: Path) -> None:
    """From a file to its results, two keys, paging, a cancel, and kills of every process."""
    keys = ["--api-key", "one", "--api-key", "two"]
    with serving(tmp_path, "--database", url, *keys, key="one") as server:
        lines = long_lines(100)
        batches = [server.submit(chats(3), metadata={"n": str(i)}) for i in range(5)]
        for batch in batches:
            assert server.ended(batch.id).status == "completed"
        listed = [batch.id for batch in server.client.batches.list(limit=2)]  # all pages
        assert listed == [batch.id for batch in reversed(batches)]
        assert server.ended(batches[0].id).metadata == {"n": "0"}
        assert list(server.client_with("two").batches.list()) == []
        running, cancelled = server.submit(lines), server.submit(lines)
        server.until(running.id, begun)
        kill_each(server)
        server.client.batches.cancel(cancelled.id)
        cancelled, running = server.ended(cancelled.id), server.ended(running.id)
        assert (cancelled.status, running.status) == ("cancelled", "completed")
        assert set(one_record_per_line(server, cancelled, lines)) == {"batch_cancelled"}
        assert one_record_per_line(server, running, lines) == {}
        server.client.files.delete(running.input_file_id)
    assert not (tmp_path / "data" / "shoal.db").exists()


def kill_each(server: Server) -> None:
    for name in ("shoal-clerk", "shoal-engine"):
        pid = server.child(name)
        assert pid is not None
        os.kill(pid, 9)
    server.kill()
    server.start()
