"""One rank's part of a model: loading it, and a forward in step with the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shoal.model.description import ModelDescription
from shoal.model.hook import AttentionProbe, attention_step
from shoal.model.load import LoadedModel, load_model
from shoal.tensor_parallel.collectives import CollectiveCalls
from shoal.tensor_parallel.process_group import launched_as


@dataclass(frozen=True)
class Shard:
    """A part of a model, and the exchanges its forward takes part in."""

    model: LoadedModel
    calls: CollectiveCalls


def load_shard(description: ModelDescription, rank: int) -> Shard:
    """Load the part of rank `rank`; every process does at the same time.

    Raises: see `load_model`.
    """
    with launched_as(rank, description.tensor_parallel):
        model = load_model(description)

    @torch.inference_mode()
    def forward(tokens: int, rows: int) -> torch.Tensor:
        ids = torch.arange(tokens, device=description.device)
        with attention_step(AttentionProbe()):
            return model.logits(ids, ids, ids[:rows])

    return Shard(model, CollectiveCalls(model.module, forward))
