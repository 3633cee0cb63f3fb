"""The worker of one rank alone: what it keeps, and what it answers."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest
import torch

from shoal.attention import KVLayer
from shoal.errors import InternalError
from shoal.processes import Parent
from shoal.tensor_parallel.commands import Allocate, Answer, Free, Outcome
from shoal.tensor_parallel.rank_worker import RankWorker, main

SHAPE = (1, 8, 8, 4, 32)


class Talk:
    """A worker in a thread, without a model. `rank_0` speaks to it as rank 0 does."""

    def __init__(self) -> None:
        self.control, theirs = Pipe()
        self.rank_0 = Parent(self.control)
        model = SimpleNamespace(layers=[(1, 8, 8)])
        description = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))
        shard = SimpleNamespace(model=model)
        self.worker = RankWorker(Parent(theirs), shard, description)  # type: ignore[arg-type]
        self.raised: BaseException | None = None
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        try:
            self.worker.serve()
        except BaseException as error:
            self.raised = error

    def answer(self) -> Answer:
        assert self.control.poll(10)
        answer: Answer = self.rank_0.receive()
        return answer


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    talk.control.close()
    talk.thread.join(10)
    assert not talk.thread.is_alive()


def test_memory_is_given_back(talk: Talk) -> None:
    talk.rank_0.send(Allocate(3, SHAPE))
    assert talk.answer() == Answer(Outcome.done)
    layer: weakref.ref[KVLayer] = weakref.ref(talk.worker._layers[3])
    talk.rank_0.send(Free((3, 99)))
    talk.rank_0.send(Allocate(4, SHAPE))
    assert talk.answer() == Answer(Outcome.done)
    gc.collect()
    assert layer() is None
    assert list(talk.worker._layers) == [4]


def test_memory_that_is_not_there_is_told(talk: Talk) -> None:
    talk.rank_0.send(Allocate(0, (1, 8, 8, 2**40, 32)))
    answer = talk.answer()
    assert answer.outcome in (Outcome.failed, Outcome.out_of_memory)
    assert answer.text.startswith("RuntimeError: ")
    talk.rank_0.send(Allocate(0, SHAPE))
    assert talk.answer() == Answer(Outcome.done)


def test_out_of_memory_is_told_apart() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert Answer.of(error) == Answer(Outcome.out_of_memory, "OutOfMemoryError: CUDA out of memory")
    assert Answer.of(error, lost=True).outcome is Outcome.lost


def test_it_ends_when_rank_0_is_gone(talk: Talk) -> None:
    talk.control.close()
    talk.thread.join(10)
    assert isinstance(talk.raised, SystemExit)


def test_what_is_no_command_is_refused(talk: Talk) -> None:
    talk.rank_0.send("hello")
    talk.thread.join(10)
    assert isinstance(talk.raised, InternalError)


def test_a_start_that_makes_no_sense_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    ours, theirs = Pipe()
    description = SimpleNamespace(tensor_parallel=2)
    assert main(Parent(theirs), 1, -1, description) == 1  # type: ignore[arg-type]
    rank_0 = Parent(ours)
    assert rank_0.receive() == Answer(Outcome.done)
    assert rank_0.receive().outcome is Outcome.lost
    assert "Traceback" in capfd.readouterr().err
