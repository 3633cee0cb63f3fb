"""Rank 0's part of a model, which has the other ranks run every forward with it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import torch
import torch.distributed as dist
from transformers.utils.import_utils import is_accelerate_available

from shoal.attention import AttentionBackend
from shoal.errors import (
    DeviceLostError,
    InternalError,
    ModelLoadError,
    ShoalError,
)
from shoal.model.description import ModelDescription
from shoal.model.hook import current_step
from shoal.model.load import LoadedModel, load_model
from shoal.processes import PATIENCE_SECONDS
from shoal.tensor_parallel import rank_worker
from shoal.tensor_parallel.collectives import CollectiveCalls, OutOfStepError
from shoal.tensor_parallel.commands import ForwardBatch
from shoal.tensor_parallel.process_group import abort, join, leave, make_store
from shoal.tensor_parallel.shard import load_shard
from shoal.tensor_parallel.split_attention import MirroredAttention, MirroredLayer, MirroredWork
from shoal.tensor_parallel.worker_group import WorkerGroup


@dataclass(frozen=True)
class ShardedModel(LoadedModel):
    """A model in several processes, used like one that is in this process alone.

    A failed forward leaves all processes in step, so the batch can be tried again.
    """

    workers: WorkerGroup = field(kw_only=True)
    calls: CollectiveCalls = field(kw_only=True)

    def logits(
        self, token_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """See `LoadedModel.logits`.

        Raises:
            DeviceLostError: another process is gone; the model is closed then.
        """
        step = current_step()
        if not isinstance(step.prepared, MirroredWork):
            raise InternalError("a model in several processes ran with attention in one")
        layers = [step.kv[layer] for layer in range(len(self.layers))]
        numbers = [layer.number for layer in layers if isinstance(layer, MirroredLayer)]
        tokens, wanted = len(token_ids), None if rows is None else len(rows)
        columns = torch.cat([token_ids, positions, step.slots, *([] if rows is None else [rows])])
        batch = ForwardBatch(tokens, wanted, np.array(numbers, dtype=np.int64), step.prepared.work)
        try:
            self.workers.tell(batch)
            return self._together(batch, columns, token_ids, positions, rows)
        except Exception:
            raise
        except BaseException:
            # Ctrl-C in the middle: nobody knows where the others are.
            self.workers.close()
            raise

    def _together(
        self,
        batch: ForwardBatch,
        columns: torch.Tensor,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        try:
            dist.broadcast(columns, src=0)
        except RuntimeError as error:
            raise self.workers.lost(str(error)) from error
        wanted = batch.tokens if batch.rows is None else batch.rows
        try:
            logits = self.calls.run(
                batch.tokens,
                wanted,
                lambda: LoadedModel.logits(self, token_ids, positions, rows),
            )
        except OutOfStepError as error:
            raise self.workers.lost(str(error)) from error
        except Exception as error:
            self._agree_despite(error)
            raise
        self.workers.agree()
        return logits

    def _agree_despite(self, error: Exception) -> None:
        """Take the others' answers after a failure here; theirs only count if one is gone."""
        try:
            self.workers.agree()
        except DeviceLostError:
            raise
        except RuntimeError as other:
            error.add_note(f"and {other}")

    def mirrored(self, backend: AttentionBackend) -> AttentionBackend:
        """See `LoadedModel.mirrored`."""
        return MirroredAttention(backend, self.workers)

    def check(self) -> None:
        """See `LoadedModel.check`."""
        self.workers.check()

    def close(self) -> None:
        """See `LoadedModel.close`."""
        self.workers.close()


def load(description: ModelDescription) -> LoadedModel:
    """Load a model, in as many processes as its description says; see `load_model`."""
    return load_sharded(description) if description.tensor_parallel > 1 else load_model(description)


def load_sharded(description: ModelDescription) -> ShardedModel:
    """Start the other ranks' processes, and load a part of the model in each and in this one.

    Raises:
        OptionError: another tensor parallel model is open in this process.
        ModelLoadError: a process could not be started, or not load its part.
        ModelError: see `load_model`.
    """
    if not is_accelerate_available():
        raise ModelLoadError(
            "tensor_parallel: transformers loads a part of a model only where the package "
            "accelerate is installed: pip install accelerate"
        )
    world = description.tensor_parallel
    store = make_store(world)
    threads = max(1, torch.get_num_threads() // world)
    workers = WorkerGroup(world, patience=PATIENCE_SECONDS, abort=abort, leave=leave)
    try:
        workers.start(rank_worker.main, store.port, description, threads=threads)
        workers.agree()  # They are there.
        join(store, 0, world, description.device)
        shard = load_shard(description, 0)
        workers.agree()  # Each has its part.
    except Exception as error:
        # A failure of one shows in the others as a closed connection: both are told.
        here, there = f"{type(error).__name__}: {error}", workers.cause()
        workers.close()
        if isinstance(error, ShoalError) and (there is None or here in there):
            raise
        reasons = here if there is None else f"{there}; here: {here}"
        raise ModelLoadError(
            f"cannot load {description.id!r} in {world} processes: {reasons}"
        ) from error
    parts = {each.name: getattr(shard.model, each.name) for each in fields(LoadedModel)}
    return ShardedModel(**parts, workers=workers, calls=shard.calls)
