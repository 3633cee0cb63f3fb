"""A follower alone: what it keeps, and what it answers."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import SimpleNamespace

import pytest
import torch

from shoal.attention import KVLayer
from shoal.tensor_parallel.commands import Allocate, Free, Message, Stop, encode
from shoal.tensor_parallel.follower import Follower, serve
from shoal.tensor_parallel.replies import Answer, Outcome

SHAPE = (1, 8, 8, 4, 32)


class Talk:
    """A follower in a thread, without a model."""

    def __init__(self) -> None:
        self.control, theirs = Pipe()
        model = SimpleNamespace(layers=[(1, 8, 8)])
        description = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))
        self.follower = Follower(theirs, SimpleNamespace(model=model), description)  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self.follower.serve)
        self.thread.start()

    def tell(self, message: Message) -> None:
        self.control.send_bytes(encode(message))

    def answer(self) -> Answer:
        assert self.control.poll(10)
        return Answer.decode(self.control.recv_bytes())


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    talk.tell(Stop())
    talk.thread.join(10)
    assert not talk.thread.is_alive()


def test_memory_is_given_back(talk: Talk) -> None:
    talk.tell(Allocate(3, SHAPE))
    assert talk.answer() == Answer(Outcome.done)
    layer: weakref.ref[KVLayer] = weakref.ref(talk.follower._layers[3])
    talk.tell(Free((3, 99)))
    talk.tell(Allocate(4, SHAPE))
    assert talk.answer() == Answer(Outcome.done)
    gc.collect()
    assert layer() is None
    assert list(talk.follower._layers) == [4]


def test_memory_that_is_not_there_is_told(talk: Talk) -> None:
    talk.tell(Allocate(0, (1, 8, 8, 2**40, 32)))
    answer = talk.answer()
    assert answer.outcome in (Outcome.failed, Outcome.out_of_memory)
    assert answer.text.startswith("RuntimeError: ")
    talk.tell(Allocate(0, SHAPE))
    assert talk.answer() == Answer(Outcome.done)


def test_out_of_memory_is_told_apart() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert Answer.of(error) == Answer(Outcome.out_of_memory, "OutOfMemoryError: CUDA out of memory")
    assert Answer.of(error, lost=True).outcome is Outcome.lost


def test_a_first_process_that_is_gone_ends_it() -> None:
    ours, theirs = Pipe()
    ours.close()
    assert serve(theirs) == 1


def test_a_start_that_makes_no_sense_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    ours, theirs = Pipe()
    ours.send_bytes(b"no pickle")
    assert serve(theirs) == 1
    told: Connection = ours
    assert Answer.decode(told.recv_bytes()).outcome is Outcome.lost
    assert "Traceback" in capfd.readouterr().err
