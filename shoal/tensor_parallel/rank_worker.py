"""The process of a rank other than 0: holds a part of a model, runs every forward rank 0 runs."""

from __future__ import annotations

import traceback
from typing import NoReturn

import torch
import torch.distributed as dist

from shoal.attention import AttentionBackend, KVLayer, KVShape, select_backend
from shoal.errors import InternalError
from shoal.model.description import ModelDescription
from shoal.model.hook import AttentionStep, attention_step
from shoal.model.kv import KVPool
from shoal.processes import EXIT_FAILED, Parent
from shoal.tensor_parallel.collectives import OutOfStepError
from shoal.tensor_parallel.commands import Allocate, Answer, ForwardBatch, Free, Outcome
from shoal.tensor_parallel.process_group import find_store, join
from shoal.tensor_parallel.shard import Shard, load_shard


def main(parent: Parent, rank: int, port: int, description: ModelDescription) -> int:
    """Everything this process is for; its exit code.

    Args:
        parent: rank 0.
        port: of the store by which the ranks find each other.
    """
    world = description.tensor_parallel
    try:
        parent.send(Answer(Outcome.done))
        join(find_store(port, world), rank, world, description.device)
        shard = load_shard(description, rank)
        parent.send(Answer(Outcome.done))
        RankWorker(parent, shard, description).serve()
    except Exception as error:
        traceback.print_exc()
        parent.send(Answer.of(error, lost=True))
        return EXIT_FAILED


class RankWorker:
    """Does what rank 0 says, and answers."""

    def __init__(self, parent: Parent, shard: Shard, description: ModelDescription) -> None:
        self._parent, self._shard, self._description = parent, shard, description
        self._backend: AttentionBackend = select_backend(
            description.dtype, description.device, shard.model.layers
        )
        self._layers: dict[int, KVLayer] = {}

    def serve(self) -> NoReturn:
        """Until rank 0 is gone, or has closed the model.

        Raises:
            OutOfStepError, RuntimeError: the other ranks cannot be reached any more.
        """
        while True:
            match self._parent.receive():
                case Free(numbers):
                    for number in numbers:
                        self._layers.pop(number, None)
                case Allocate() as command:
                    self._parent.send(self._allocated(command))
                case ForwardBatch() as batch:
                    self._parent.send(self._computed(batch))
                case message:
                    raise InternalError(f"{type(message).__name__} is no command")

    def _allocated(self, command: Allocate) -> Answer:
        description = self._description
        shape = KVShape(*command.shape, description.dtype, description.device)
        try:
            self._layers[command.number] = self._backend.allocate(shape)
        except Exception as error:
            return Answer.of(error)
        return Answer(Outcome.done)

    def _computed(self, batch: ForwardBatch) -> Answer:
        device, tokens = self._description.device, batch.tokens
        columns = torch.empty(batch.num_columns, dtype=torch.int64, device=device)
        dist.broadcast(columns, src=0)
        token_ids, positions, slots = columns[: 3 * tokens].view(3, tokens)
        rows = None if batch.rows is None else columns[3 * tokens :]
        layers = [self._layers[number] for number in batch.layers.tolist()]

        def forward() -> None:
            step = AttentionStep(
                kv=KVPool.of(self._backend, layers, self._shard.model.owners),
                slots=slots,
                prepared=self._backend.prepare(batch.work, device),
            )
            with torch.inference_mode(), attention_step(step):
                self._shard.model.logits(token_ids, positions, rows)

        wanted = tokens if batch.rows is None else batch.rows
        try:
            self._shard.calls.run(tokens, wanted, forward)
        except OutOfStepError:
            raise
        except Exception as error:
            traceback.print_exc()
            return Answer.of(error)
        return Answer(Outcome.done)
