"""Several jobs in one run of the engine, on the bundled model: each is what it is alone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from shoal.config import EngineOptions
from shoal.devices import SharedEngine
from shoal.engine.pipeline import Pipeline
from shoal.errors import Interrupted, JobChangedError, OutputWriteError, ShoalError
from shoal.fleet.engines import make_engine
from shoal.jobs import JobOfSeveral, JobResult, JobSpec, run_job, run_together
from shoal.jobs.open_job import OpenJob
from shoal.model.description import ModelDescription
from shoal.model.pooling import AskedPooling
from shoal.progress import ProgressState, QuietReporter
from shoal.prompts.render import Renderer
from shoal.types import RunSummary
from tests.helpers.ahead import run_ahead
from tests.helpers.e2e_jobs import chat, completion
from tests.helpers.job_files import answers, write_lines

DOCUMENT = "The parcel left the depot on Monday and came back on Friday. " * 8
OPTIONS = EngineOptions.create(kv_memory="64MiB", token_budget=256)


def lines(job: int, count: int = 24, **body: Any) -> list[Any]:
    """Requests about the same documents in every job; sampled, without seeds of their own."""
    sampled = {"temperature": 1.0, "max_tokens": 12} | body
    made: list[Any] = [
        chat(f"{job}-{i}", f"{DOCUMENT} {i % 3} Question {job}?", i % 2, **sampled)
        for i in range(count)
    ]
    made.insert(5, chat(f"{job}-bad", "x", temperature=9))
    made.insert(9, completion(f"{job}-two", ["one", "two"], n=2, **sampled))
    made.insert(11, chat(f"{job}-own", DOCUMENT, seed=7, **sampled))
    return made


@cache
def describe(asked: AskedPooling | None) -> ModelDescription:
    return ModelDescription.load(None, OPTIONS, asked=asked)


@cache
def kept_engine(options: EngineOptions = OPTIONS) -> SharedEngine:
    engine = make_engine(describe(None), options)
    engine.close = lambda: None  # type: ignore[method-assign]
    return engine


def engine(description: ModelDescription, options: EngineOptions) -> SharedEngine:
    return kept_engine(options)


def spec_of(folder: Path, job: int) -> JobSpec:
    """The job of a folder, begun already: its seed is drawn."""
    path = folder / f"{job}.jsonl"
    return JobSpec(input=path, output=folder / f"{job}.out.jsonl", options=OPTIONS, quiet=True)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two jobs that have begun, and a copy of them: they have the same seeds in both."""
    first = tmp_path / "together"
    first.mkdir()
    for job in range(2):
        write_lines(first / f"{job}.jsonl", lines(job))
        with pytest.raises(Interrupted):
            run_job(spec_of(first, job), engine=engine, asked=lambda: True)
    return first, Path(shutil.copytree(first, tmp_path / "alone"))


class Watch(QuietReporter):
    """Remembers every state; `on` is called with each."""

    def __init__(self, on: Callable[[ProgressState], None] = lambda state: None) -> None:
        self.states: list[ProgressState] = []
        self._on = on

    def update(self, state: ProgressState) -> None:
        self.states.append(state)
        self._on(state)


def together(*jobs: JobOfSeveral) -> tuple[RunSummary, dict[int, Any]]:
    ends: dict[int, Any] = {}
    return run_together(jobs, engine, describe, ends.__setitem__), ends


def quiet(spec: JobSpec) -> JobOfSeveral:
    return JobOfSeveral(spec, QuietReporter())


def test_texts_are_those_of_the_jobs_alone_and_less_is_computed(
    folders: tuple[Path, Path],
) -> None:
    watches = [Watch(), Watch()]
    jobs = [JobOfSeveral(spec_of(folders[0], job), watches[job]) for job in range(2)]
    summary, ends = together(*jobs)
    alone = [run_job(spec_of(folders[1], job), engine=engine) for job in range(2)]
    for job in range(2):
        assert isinstance(ends[job], JobResult)
        assert ends[job].summary.requests == alone[job].summary.requests
        assert answers(ends[job].output) == answers(alone[job].output)
        assert answers(ends[job].errors) == answers(alone[job].errors)
        assert watches[job].states[-1].done == watches[job].states[-1].total == 27
    assert len({repr(record) for record in answers(alone[0].output)}) > 20  # they are sampled
    apart = sum(result.summary.tokens.prompt_computed for result in alone)
    assert summary.tokens.prompt_computed < 0.7 * apart
    assert summary.requests.total == 54
    assert summary.tokens.prompt == sum(result.summary.tokens.prompt for result in alone)
    assert together(*jobs)[1].keys() == {0, 1}  # again: they are finished already


def test_the_engine_waits_for_no_journal_and_the_tokenizer_is_proved_once(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, went_on, renderers = 0, threading.Event(), list[Renderer]()
    compute, take, prepare = Pipeline.next, OpenJob.take, Renderer.__init__

    def counted(pipeline: Pipeline) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            went_on.set()
        return compute(pipeline)

    def late(job: OpenJob, completions: Any) -> None:
        assert went_on.wait(20), "the engine waits for what its first iteration gave"
        take(job, completions)

    def noticed(renderer: Renderer, tokenizer: Any) -> None:
        renderers.append(renderer)
        prepare(renderer, tokenizer)

    monkeypatch.setattr(Pipeline, "next", counted)
    monkeypatch.setattr(OpenJob, "take", late)
    monkeypatch.setattr(Renderer, "__init__", noticed)
    ends = together(*(quiet(spec_of(folders[0], job)) for job in range(2)))[1]
    assert [ends[job].summary.requests.total for job in range(2)] == [27, 27]
    assert len(renderers) == 1


@pytest.mark.parametrize("ahead", [False, True], ids=["in step", "ahead"])
def test_one_is_interrupted_and_the_other_goes_on(
    folders: tuple[Path, Path], ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ahead:
        run_ahead(monkeypatch)
    asked: list[int] = []

    def stop(state: ProgressState) -> None:
        if len(watch.states) > 1:
            asked.append(len(watch.states))

    watch, other = Watch(stop), Watch()
    stopped = JobOfSeveral(spec_of(folders[0], 0), watch, lambda: bool(asked))
    summary, ends = together(stopped, JobOfSeveral(spec_of(folders[0], 1), other))
    assert isinstance(ends[0], Interrupted)
    assert len(watch.states) == asked[0]  # no iteration more
    assert isinstance(ends[1], JobResult)
    assert len(other.states) > len(watch.states)
    alone = [run_job(spec_of(folders[1], job), engine=engine) for job in range(2)]
    generated = [result.summary.tokens.generated for result in alone]
    assert summary.tokens.generated < generated[1] + generated[0] / 2  # the rest was not run
    assert answers(ends[1].output) == answers(alone[1].output)
    resumed = run_job(spec_of(folders[0], 0), engine=engine)
    assert answers(resumed.output) == answers(alone[0].output)


def test_one_of_several_devices_jobs_is_interrupted(folders: tuple[Path, Path]) -> None:
    """What a device has begun, what waits for one, and what is released in between."""
    options = EngineOptions.create(kv_memory="64MiB", token_budget=64, devices=2)
    group = make_engine(describe(None), options)
    watch = Watch()
    specs = [replace(spec_of(folders[0], job), options=options) for job in range(2)]

    def asked() -> bool:
        return bool(watch.states) and watch.states[-1].done > 3

    jobs = [JobOfSeveral(specs[0], watch, asked), quiet(specs[1])]
    ends: dict[int, Any] = {}
    run_together(jobs, lambda *_: group, describe, ends.__setitem__)
    assert isinstance(ends[0], Interrupted)
    assert isinstance(ends[1], JobResult)
    alone = run_job(spec_of(folders[1], 1), engine=engine)
    assert answers(ends[1].output) == answers(alone.output)


def test_all_are_interrupted(folders: tuple[Path, Path]) -> None:
    jobs = [JobOfSeveral(spec_of(folders[0], i), Watch(), lambda: True) for i in range(2)]
    ends = together(*jobs)[1]
    assert [type(ends[job]) for job in range(2)] == [Interrupted] * 2


def test_one_that_cannot_go_on_takes_no_other_down(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One was begun with another input; of another the disk refuses the results."""
    first = folders[0]
    write_lines(first / "2.jsonl", lines(2))
    write_lines(first / "0.jsonl", lines(1))
    spec = spec_of(first, 2)
    full = OutputWriteError("the disk is full")

    def refuse(state: ProgressState) -> None:
        if state.done > 2:
            raise full

    jobs = [quiet(spec_of(first, 0)), quiet(spec_of(first, 1)), JobOfSeveral(spec, Watch(refuse))]
    ends = together(*jobs)[1]
    assert isinstance(ends[0], JobChangedError)
    assert isinstance(ends[1], JobResult)
    assert ends[2] is full
    assert ends[1].summary.requests.total == 27


def test_an_engine_that_fails_ends_all(folders: tuple[Path, Path]) -> None:
    class Broken:
        machine = kept_engine().machine

        def run(self, table: Any) -> Any:
            raise ShoalError("the engine broke")

        def close(self) -> None:
            pass

    ends: dict[int, Any] = {}
    jobs = [quiet(spec_of(folders[0], job)) for job in range(2)]
    run_together(jobs, lambda *_: Broken(), describe, ends.__setitem__)  # type: ignore[arg-type,return-value]
    assert [str(ends[job]) for job in range(2)] == ["the engine broke"] * 2
    assert all(isinstance(end, JobResult) for end in together(*jobs)[1].values())
