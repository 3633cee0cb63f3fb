"""`shoal run --devices 2` as a command: the same files, and processes that end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.e2e.conftest import Command, Shoal
from tests.e2e.test_run import answers
from tests.helpers.e2e_jobs import mixed

OPTIONS = ("--dtype", "float32", "--device", "cpu", "--token-budget", "64", "--kv-memory", "2MiB")
OUTPUTS = ("out.jsonl", "out.errors.jsonl")


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def done(shoal: Shoal) -> int:
    """Results saved in the journal."""
    journal = shoal.folder / "out.jsonl.journal"
    return journal.read_bytes().count(b" done ") if journal.exists() else 0


def begun(shoal: Shoal, command: Command, saved: int = 0) -> list[int]:
    """Wait until results are saved, more than there were; the workers' process ids."""
    end = time.monotonic() + 120
    while done(shoal) <= saved:
        assert command.poll() is None, shoal.text("stderr")
        assert time.monotonic() < end
        time.sleep(0.005)
    return children(command.pid)


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def test_devices(shoal: Shoal) -> None:
    """Killed, interrupted, and resumed with other numbers of devices: as one device in one run."""
    shoal.write("in.jsonl", mixed(1500, seed=4))
    assert shoal("run", "in.jsonl", "-o", "calm.jsonl", "--quiet", *OPTIONS) == 3
    expected = [answers(shoal.read(f"calm{end}")) for end in (".jsonl", ".errors.jsonl")]
    run = ("run", "in.jsonl", "-o", "out.jsonl", *OPTIONS, "--devices", "2")

    interrupted = shoal.start(*run)
    workers = begun(shoal, interrupted)
    assert len(workers) == 2
    os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(60) == 130, shoal.text("stderr")
    assert gone(workers)
    text = shoal.text("stderr")
    assert "run the same command again to resume" in text
    assert "Traceback" not in text
    assert not (shoal.folder / "out.jsonl").exists()

    saved = done(shoal)
    assert 0 < saved < 1200
    killed = shoal.start(*run)
    workers = begun(shoal, killed, saved)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(60)
    assert gone(workers), "the workers outlived the front"

    assert shoal(*run[:-1], "1") == 3
    assert "resuming:" in shoal.text("stderr")
    assert [answers(shoal.read(name)) for name in OUTPUTS] == expected


def test_wrong_numbers_of_devices(shoal: Shoal) -> None:
    shoal.write("in.jsonl", mixed(3, seed=1))
    assert shoal("run", "in.jsonl", "-o", "out.jsonl", "--devices", "0") == 2
    assert "devices must be a whole number of at least 1, not 0" in shoal.text("stderr")
