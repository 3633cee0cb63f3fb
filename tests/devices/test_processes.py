"""Real processes on the CPU: the answers of one engine, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.config import EngineOptions
from shoal.devices import DeviceGroup, LocalProcesses
from shoal.devices.messages import (
    Configured,
    FromWorker,
    Load,
    Ready,
    Released,
    Started,
    WorkerDied,
)
from shoal.engine.engine import Engine
from shoal.errors import InternalError, ModelLoadError
from shoal.fleet.engines import make_engine
from shoal.model.description import ModelDescription
from shoal.processes import WorkerProcesses
from shoal.types import Completion, PlanFigures, RequestParams, RequestTable
from tests.helpers.models import forest_of_prompts, save_model
from tests.helpers.request_tables import table as make_table

OPTIONS = EngineOptions(
    dtype="float32", device="cpu", kv_memory="256KiB", token_budget=64, devices=2
)


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> ModelDescription:
    folder = save_model(tmp_path_factory.mktemp("model"), "llama")
    return ModelDescription.load(str(folder), OPTIONS)


@pytest.fixture(scope="module")
def group(description: ModelDescription) -> Iterator[DeviceGroup]:
    engine = make_engine(description, OPTIONS)
    assert isinstance(engine, DeviceGroup)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine(description: ModelDescription) -> Engine:
    return Engine(description, replace(OPTIONS, devices=1))


def processes(group: DeviceGroup) -> WorkerProcesses:
    assert isinstance(group.carrier, LocalProcesses)
    return group.carrier.processes


def mixed(count: int, seed: int, family: int = 0) -> RequestTable:
    """Greedy, seeded and unseeded requests, some with several choices, stops or logprobs.

    Every second line has two prompts. With `family`, all begin with so many tokens.
    """
    rng = np.random.default_rng(seed)
    stem = rng.integers(2, 256, family).tolist()
    prompts = [prompt for s in range(count) for prompt in forest_of_prompts(seed + s)][:count]
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.9, "seed": 7},
        {"temperature": 1.0},
        {"temperature": 1.0, "n": 3, "top_p": 0.8},
        {"temperature": 0.0, "logprobs": 2},
        {"temperature": 0.0, "frequency_penalty": 0.7, "stop_token_ids": (9, 77)},
    ]
    requests = []
    for number, prompt in enumerate(prompts):
        limit = 40 if number % 5 == 0 else 6
        params = RequestParams(max_tokens=limit, **kinds[number % len(kinds)])
        requests.append((stem + prompt[:80], params, limit))
    lines = [number * 2 // 3 for number in range(len(requests))]
    return make_table(requests, job_seed=99, lines=lines)


def ordered(run: Any) -> list[Completion]:
    done = [completion for completions in run for completion in completions]
    assert len({completion.request_index for completion in done}) == len(done)
    return sorted(done, key=lambda completion: completion.request_index)


def same(found: list[Completion], expected: list[Completion]) -> None:
    """Equal, but for the last digits of logprobs: sums are in another order."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.request_index, a.prompt_tokens, a.error) == (
            b.request_index,
            b.prompt_tokens,
            None,
        )
        assert [c.token_ids for c in a.choices] == [c.token_ids for c in b.choices]
        assert [(c.text, c.finish_reason) for c in a.choices] == [
            (c.text, c.finish_reason) for c in b.choices
        ]
        for c, d in zip(a.choices, b.choices, strict=True):
            if c.logprobs is not None and d.logprobs is not None:
                ours = [logprob.logprob for logprob in c.logprobs]
                assert ours == pytest.approx([logprob.logprob for logprob in d.logprobs], abs=1e-4)


@pytest.mark.parametrize("family", [0, 70])
def test_two_devices_answer_as_one(group: DeviceGroup, engine: Engine, family: int) -> None:
    table = mixed(90, seed=family, family=family)
    run = group.run(table)
    same(ordered(run), ordered(engine.run(table)))
    stats, planned = run.stats, run.planned
    computed = planned.computed_prompt_tokens + stats.prompt_tokens_recomputed
    # Who takes work over plans it anew, and may share more of it than was planned at first.
    assert stats.prompt_tokens_computed <= computed
    assert len(run.trace) == stats.iterations
    assert (np.diff(run.trace.column("seconds")) >= 0).all()
    assert (run.trace.column("kv_blocks") <= run.machine.num_blocks).all()
    assert all(seconds > 0 for seconds in stats.device_seconds)


def test_no_requests_no_work(group: DeviceGroup) -> None:
    empty = np.zeros(0, dtype=np.int64)
    table = replace(
        mixed(3, seed=1),
        tokens=empty.astype(np.int32),
        offsets=np.zeros(1, dtype=np.int64),
        params_index=empty,
        max_new_tokens=empty,
        expected_new_tokens=empty,
        seeds=empty,
        has_seed=empty.astype(np.bool_),
        line=empty,
    )
    assert ordered(group.run(table)) == []


class Listening:
    """Hears all that the devices of a group say."""

    def __init__(self, group: DeviceGroup, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: list[tuple[int, FromWorker]] = []
        original = group.events

        def events(seconds: float) -> Iterator[tuple[int, FromWorker]]:
            for event in original(seconds):
                self.heard.append(event)
                yield event

        monkeypatch.setattr(group, "events", events)

    def of(self, kind: type) -> list[Any]:
        return [message for _, message in self.heard if isinstance(message, kind)]


def test_an_idle_device_takes_over(
    group: DeviceGroup, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One family answers at great length, and nobody knew: `expected_new_tokens` says 6."""
    stems = [[5] * 60, [6] * 60]
    long = RequestParams(temperature=0.0, max_tokens=90, ignore_eos=True)
    short = RequestParams(temperature=0.0, max_tokens=3, ignore_eos=True)
    requests = [
        (stems[i % 2] + [10 + i, 20 + i], long if i % 2 else short, 90 if i % 2 else 3)
        for i in range(120)
    ]
    table = make_table(requests)
    table = replace(table, expected_new_tokens=np.full(len(table), 3, dtype=np.int32))
    listening = Listening(group, monkeypatch)
    same(ordered(group.run(table)), ordered(engine.run(table)))
    assert any(len(released.requests) for released in listening.of(Released))


def test_kill_9_of_a_worker(
    group: DeviceGroup,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = mixed(400, seed=3, family=10)
    listening = Listening(group, monkeypatch)
    done: list[Completion] = []
    killed = None
    for completions in group.run(table):
        done += completions
        if done and killed is None:
            killed = processes(group).running[1].pid
            os.kill(killed, signal.SIGKILL)
    assert len(done) == len(table)
    same(sorted(done, key=lambda c: c.request_index), ordered(engine.run(table)))
    assert len(listening.of(WorkerDied)) == 1
    assert "the process of cpu:1 was killed by SIGKILL" in caplog.text
    began = time.monotonic()
    while 1 not in group.ready and time.monotonic() < began + 60:
        for _ in group.events(0.5):
            pass
    assert processes(group).running[1].pid != killed
    small = mixed(20, seed=4)
    same(ordered(group.run(small)), ordered(engine.run(small)))


def test_an_error_in_a_worker_ends_the_run_and_the_next_begins_anew(
    group: DeviceGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = mixed(200, seed=5)
    run = iter(group.run(table))
    next(run)
    # A message that nobody sends: the worker raises, as it would for a bug.
    pids = [process.pid for process in processes(group).running.values()]
    group.send(0, Started(PlanFigures()))  # type: ignore[arg-type]
    with pytest.raises(InternalError, match="Started came"):
        list(run)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    loads: list[DeviceGroup] = []
    monkeypatch.setattr(DeviceGroup, "_load", lambda self: loads.append(self))
    with monkeypatch.context() as patch:
        patch.setattr(group, "start", lambda device: None)
        group.run(table)
    assert loads == [group]


def test_what_is_not_measured_is_measured_by_one_alone(
    description: ModelDescription, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others ask again when it has; nobody loads meanwhile."""
    said: list[tuple[int, str]] = []
    known = False

    def send(group: DeviceGroup, device: int, message: object) -> None:
        said.append((device, type(message).__name__))

    monkeypatch.setattr(DeviceGroup, "_load", lambda self: None)
    monkeypatch.setattr(DeviceGroup, "send", send)
    group = DeviceGroup(description, replace(OPTIONS, devices=3), LocalProcesses("cpu", 3, 1))
    ready = Ready(None)  # type: ignore[arg-type]
    for number in range(3):
        assert group._answer(number, Configured(measured=known))
    assert said == [(0, "Load")]
    assert not group._answer(0, ready)
    assert said[1:] == [(1, "Configure"), (2, "Configure")]
    for number in (1, 2):
        group._answer(number, Configured(measured=True))
    assert said[3:] == [(1, Load.__name__), (2, Load.__name__)]


def test_the_model_must_load(tmp_path: Path, description: ModelDescription) -> None:
    gone = replace(description, id=str(tmp_path))
    with pytest.raises(ModelLoadError, match="cannot load the weights"):
        DeviceGroup(gone, replace(OPTIONS, devices=1), LocalProcesses("cpu", 1, 1))
