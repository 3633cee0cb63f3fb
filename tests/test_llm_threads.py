"""Calls from several threads, calls that are interrupted, and what the next call finds."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shoal import LLM, RequestOutput, SamplingParams
from shoal.errors import GenerationInterrupted, OptionError
from tests.helpers.models import save_model

GREEDY = SamplingParams(max_tokens=16, temperature=0, ignore_eos=True)
JOBS = [
    [f"Ticket {number}: order J-{number}{i} of {name} is late" for i in range(6)]
    for number, name in enumerate(["Yusuf", "Ann", "Bo", "Lin"])
]
LONG = SamplingParams(max_tokens=100, temperature=0, ignore_eos=True)
SHORT_AND_LONG = [*[GREEDY] * 3, *[LONG] * 3]


def load(**options: object) -> LLM:
    return LLM(**{"max_num_batched_tokens": 64, "kv_memory": "16MiB", **options})


@pytest.fixture(scope="module")
def llm() -> LLM:
    return load()


@pytest.fixture(scope="module")
def alone(llm: LLM) -> list[list[RequestOutput]]:
    return [llm.generate(job, GREEDY, use_tqdm=False) for job in JOBS]


@pytest.mark.long
def test_threads_get_the_answers_of_calls_alone(llm: LLM, alone: list[list[RequestOutput]]) -> None:
    with ThreadPoolExecutor(4) as threads:
        for _ in range(2):
            assert list(threads.map(lambda j: llm.generate(j, GREEDY, use_tqdm=False), JOBS)) == (
                alone
            )
    assert llm.last_run is not None
    assert llm.last_run.requests.succeeded == len(JOBS[0])


def test_tasks_of_asyncio_do(llm: LLM, alone: list[list[RequestOutput]]) -> None:
    async def together() -> list[list[RequestOutput]]:
        calls = [asyncio.to_thread(llm.generate, job, GREEDY, use_tqdm=False) for job in JOBS]
        return await asyncio.gather(*calls)

    assert asyncio.run(together()) == alone


@pytest.mark.long
def test_models_of_their_own_do(alone: list[list[RequestOutput]], tmp_path: Path) -> None:
    """One is loaded in another number format while others run."""
    folder = save_model(tmp_path, "llama", dtype="bfloat16")
    llms = [load() for _ in JOBS[:2]]

    def call(number: int) -> list[RequestOutput]:
        load(model=str(folder), dtype="bfloat16", kv_memory="1MiB").close()
        return llms[number].generate(JOBS[number], GREEDY, use_tqdm=False)

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(call, range(2))) == alone[:2]


def test_a_wrong_call_lets_the_next_one_run(llm: LLM, alone: list[list[RequestOutput]]) -> None:
    with pytest.raises(OptionError):
        llm.generate([object()], GREEDY, use_tqdm=False)
    assert llm.generate(JOBS[0], GREEDY, use_tqdm=False) == alone[0]


def test_close_waits_for_a_call_and_later_ones_are_refused(
    alone: list[list[RequestOutput]],
) -> None:
    llm = load()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(llm.generate, JOBS[0], GREEDY, use_tqdm=False)
        while not running.running():
            time.sleep(0.001)
        time.sleep(0.02)
        llm.close()
        assert running.result() == alone[0]
    llm.close()
    with pytest.raises(OptionError, match="closed"):
        llm.generate(JOBS[0], GREEDY, use_tqdm=False)


def interrupted_call(llm: LLM, prompts: list[str]) -> list[RequestOutput]:
    """A call whose process gets SIGINT once the short answers are completed."""
    run = llm._engine.run

    def watched(table: object) -> object:
        under_way = run(table)

        def watch() -> None:
            while under_way.stats.generated_tokens < 3 * 16 + 3 * 20:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=watch, daemon=True).start()
        return under_way

    llm._engine.run = watched  # type: ignore[method-assign]
    try:
        return llm.generate(prompts, SHORT_AND_LONG, use_tqdm=False)
    finally:
        llm._engine.run = run  # type: ignore[method-assign]


def at_once(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("handler", [signal.default_int_handler, at_once])
def test_an_interrupted_call_carries_what_is_done(
    llm: LLM, alone: list[list[RequestOutput]], handler: Callable[[int, object], None]
) -> None:
    """Python's own handler waits for the iteration under way; the caller's breaks it off."""
    prompts = JOBS[0]
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            interrupted_call(llm, prompts)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(caught.value, GenerationInterrupted)
    done = caught.value.outputs
    assert done[:3] == alone[0][:3]
    assert done[3:] == [None] * 3
    assert "3 of 6 prompts" in str(caught.value)
    assert llm.last_run is not None
    assert (llm.last_run.requests.total, llm.last_run.requests.succeeded) == (6, 3)
    assert llm.generate(prompts, GREEDY, use_tqdm=False) == alone[0]


def test_a_handler_of_the_callers_own_is_left_alone(llm: LLM) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        done = interrupted_call(llm, JOBS[0])
    finally:
        signal.signal(signal.SIGINT, before)
    assert [len(output.outputs) for output in done] == [1] * 6
    assert seen == [signal.SIGINT]


def test_a_waiting_call_can_be_interrupted(llm: LLM, alone: list[list[RequestOutput]]) -> None:
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(llm.generate, JOBS[0], SHORT_AND_LONG, use_tqdm=False)
        time.sleep(0.1)
        # A shell has what it runs in the background ignore SIGINT.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            with pytest.raises(KeyboardInterrupt):
                llm.generate(JOBS[1], LONG, use_tqdm=False)
        finally:
            signal.signal(signal.SIGINT, before)
        assert other.result()[:3] == alone[0][:3]
    assert llm.generate(JOBS[1], GREEDY, use_tqdm=False) == alone[1]
