"""A process that holds a part of a model and runs every forward the first process runs."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from shoal.attention import AttentionBackend, KVLayer, KVShape, select_backend
from shoal.model.description import ModelDescription
from shoal.model.hook import AttentionStep, attention_step
from shoal.model.kv import KVPool
from shoal.tensor_parallel.collectives import OutOfStepError
from shoal.tensor_parallel.commands import Allocate, Forward, Free, Stop, decode
from shoal.tensor_parallel.process_group import find_store, join
from shoal.tensor_parallel.replies import Answer, Outcome
from shoal.tensor_parallel.shard import Shard, load_shard
from shoal.tensor_parallel.start import Start


class Follower:
    """Does what it is told, and answers."""

    def __init__(self, control: Connection, shard: Shard, description: ModelDescription) -> None:
        self._control, self._shard, self._description = control, shard, description
        self._backend: AttentionBackend = select_backend(
            description.dtype, description.device, shard.model.layers
        )
        self._layers: dict[int, KVLayer] = {}

    def serve(self) -> None:
        """Until told to stop.

        Raises:
            OutOfStepError, RuntimeError: the other processes cannot be reached any more.
            EOFError: the first process is gone.
        """
        while True:
            match decode(self._control.recv_bytes()):
                case Stop():
                    return
                case Free(numbers):
                    for number in numbers:
                        self._layers.pop(number, None)
                case Allocate() as order:
                    self._answer(self._allocated(order))
                case Forward() as order:
                    self._answer(self._computed(order))

    def _answer(self, answer: Answer) -> None:
        self._control.send_bytes(answer.encode())

    def _allocated(self, order: Allocate) -> Answer:
        description = self._description
        shape = KVShape(*order.shape, description.dtype, description.device)
        try:
            self._layers[order.number] = self._backend.allocate(shape)
        except Exception as error:
            return Answer.of(error)
        return Answer(Outcome.done)

    def _computed(self, order: Forward) -> Answer:
        device, tokens = self._description.device, order.tokens
        columns = torch.empty(order.num_columns, dtype=torch.int64, device=device)
        dist.broadcast(columns, src=0)
        token_ids, positions, slots = columns[: 3 * tokens].view(3, tokens)
        rows = None if order.rows is None else columns[3 * tokens :]
        layers = [self._layers[number] for number in order.layers.tolist()]

        def forward() -> None:
            step = AttentionStep(
                kv=KVPool.of(self._backend, layers),
                slots=slots,
                prepared=self._backend.prepare(order.work, device),
            )
            with torch.inference_mode(), attention_step(step):
                self._shard.model.logits(token_ids, positions, rows)

        wanted = tokens if order.rows is None else order.rows
        try:
            self._shard.calls.run(tokens, wanted, forward)
        except OutOfStepError:
            raise
        except Exception as error:
            traceback.print_exc()
            return Answer.of(error)
        return Answer(Outcome.done)


def serve(control: Connection) -> int:
    """Everything this process is for; its exit code."""
    try:
        start: Start = pickle.loads(control.recv_bytes())
        description = start.description
        world = description.tensor_parallel
        control.send_bytes(Answer(Outcome.done).encode())
        join(find_store(start.port, world), start.rank, world, description.device)
        shard = load_shard(description, start.rank)
        control.send_bytes(Answer(Outcome.done).encode())
        Follower(control, shard, description).serve()
    except (EOFError, BrokenPipeError):
        return 1  # The first process is gone, and nobody is left to tell.
    except Exception as error:
        traceback.print_exc()
        control.send_bytes(Answer.of(error, lost=True).encode())
        return 1
    return 0


def watch(lifeline: int) -> None:
    """End this process, whatever it is doing, when the other end of a pipe closes."""

    def end_with_it() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def main(arguments: Sequence[str]) -> None:
    """`python -m shoal.tensor_parallel.follower CONTROL LIFELINE`, both file descriptors."""
    control, lifeline = (int(argument) for argument in arguments)
    watch(lifeline)
    code = serve(Connection(control))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the interpreter's end: what torch would tidy up there may wait for dead processes.
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
