"""The other ranks end with rank 0, however it ends."""

from __future__ import annotations

import os
import signal
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from shoal import LLM, SamplingParams
from shoal.processes import workers
from tests.helpers.forked import CONTEXT, as_if_accelerate_were_installed, launch_in_a_child
from tests.helpers.models import forest_of_prompts, save_model
from tests.helpers.processes import ends, lives, rank_1_of


def lead(folder: str, how: str, report: Connection) -> None:
    """A rank 0: opens a model in two processes, then runs, ends or fails."""
    patch = pytest.MonkeyPatch()
    patch.setattr(workers, "spawn", launch_in_a_child)
    as_if_accelerate_were_installed(patch)
    os.close(2)
    os.open(os.devnull, os.O_WRONLY)
    llm = LLM(folder, dtype="float32", device="cpu", kv_memory="4MiB", tensor_parallel_size=2)
    report.send(rank_1_of(llm))
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
