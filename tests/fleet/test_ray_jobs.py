"""`shoal run --ray` as a command: kill -9 of the driver, and one journal with `--devices`."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from tests.e2e.conftest import Command, Shoal
from tests.e2e.test_devices import OPTIONS, OUTPUTS, done
from tests.e2e.test_run import answers
from tests.helpers.e2e_jobs import mixed

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def shoal(tmp_path: Any) -> Shoal:
    return Shoal(tmp_path)


def wait_for_results(shoal: Shoal, command: Command, saved: int) -> None:
    """Until the journal holds more than it did; a busy machine takes its time to start Ray."""
    end = time.monotonic() + 400
    while done(shoal) <= saved:
        assert command.poll() is None, shoal.text("stderr")
        assert time.monotonic() < end, shoal.text("stderr")
        time.sleep(0.005)


def test_driver_killed_and_resumed(shoal: Shoal, cluster: Any) -> None:
    """Begun with --devices 2, on with --ray, killed, interrupted, on with --devices 2."""
    shoal.write("in.jsonl", mixed(3000, seed=4))
    assert shoal("run", "in.jsonl", "-o", "calm.jsonl", "--quiet", *OPTIONS) == 3
    expected = [answers(shoal.read(f"calm{end}")) for end in (".jsonl", ".errors.jsonl")]
    run = ("run", "in.jsonl", "-o", "out.jsonl", *OPTIONS)
    on_ray = (*run, "--ray", cluster.address)
    on_devices = (*run, "--devices", "2")

    for command, end, code in (
        (on_devices, signal.SIGKILL, None),
        (on_ray, signal.SIGKILL, None),
        (on_ray, signal.SIGINT, 130),
    ):
        saved = done(shoal)
        under_way = shoal.start(*command)
        wait_for_results(shoal, under_way, saved)
        os.kill(under_way.pid, end)
        ended = under_way.wait(120)
        assert code is None or ended == code, shoal.text("stderr")
        assert not (shoal.folder / "out.jsonl").exists()
    assert done(shoal) > saved

    assert shoal(*on_devices) == 3
    assert "resuming:" in shoal.text("stderr")
    assert [answers(shoal.read(name)) for name in OUTPUTS] == expected

    assert shoal("run", "in.jsonl", "-o", "ray.jsonl", *OPTIONS, "--ray", cluster.address) == 3
    found = [answers(shoal.read(f"ray{end}")) for end in (".jsonl", ".errors.jsonl")]
    assert found == expected
