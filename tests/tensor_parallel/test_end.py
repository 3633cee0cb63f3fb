"""The other processes end with the first, however it ends."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from shoal import LLM, SamplingParams
from shoal.tensor_parallel import follower, workers
from tests.helpers.forked import CONTEXT, as_if_accelerate_were_installed, launch_in_a_child
from tests.helpers.models import forest_of_prompts, save_model
from tests.helpers.processes import ends, follower_of, lives


def lead(folder: str, how: str, report: Connection) -> None:
    """A first process: opens a model in two processes, then runs, ends or fails."""
    patch = pytest.MonkeyPatch()
    patch.setattr(workers, "launch_python", launch_in_a_child)
    as_if_accelerate_were_installed(patch)
    os.close(2)
    os.open(os.devnull, os.O_WRONLY)
    llm = LLM(folder, dtype="float32", device="cpu", kv_memory="4MiB", tensor_parallel_size=2)
    report.send(follower_of(llm))
    prompts, params = forest_of_prompts(0), SamplingParams(temperature=0.0, max_tokens=8)
    while how == "killed at work":
        llm.generate(prompts, params, use_tqdm=False)
    llm.generate(prompts[:2], params, use_tqdm=False)
    report.send("idle")
    if how == "killed when idle":
        signal.pause()
    if how == "fails":
        raise RuntimeError("this is a test")


@pytest.mark.parametrize("how", ["killed at work", "killed when idle", "ends", "fails"])
def test_the_first_process(tmp_path: Path, how: str) -> None:
    folder = save_model(tmp_path, "llama")
    ours, theirs = Pipe()
    leader = CONTEXT.Process(target=lead, args=(str(folder), how, theirs))
    leader.start()
    try:
        assert ours.poll(60)
        pid = ours.recv()
        assert lives(pid)
        if how != "killed at work":
            assert ours.poll(60)
            assert ours.recv() == "idle"
        if how.startswith("killed"):
            leader.kill()
        leader.join(20)
        codes = {"ends": 0, "fails": 1}
        assert leader.exitcode == codes.get(how, -signal.SIGKILL)
        assert ends(pid)
    finally:
        leader.kill()


def stuck(watched: Connection) -> None:
    """A follower that will never ask its control again, as one in a device that waits for ever."""
    follower.watch(watched.fileno())
    while True:
        time.sleep(60)


def test_a_process_that_is_stuck_ends_all_the_same() -> None:
    watched, lifeline = Pipe(duplex=False)
    process = CONTEXT.Process(target=stuck, args=(watched,), daemon=True)
    process.start()
    process.join(0.2)
    assert process.exitcode is None
    lifeline.close()
    process.join(20)
    assert process.exitcode == 1
