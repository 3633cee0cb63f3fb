"""Token batches to measure a model with: prompts in chunks, and sequences that decode.

They overwrite the KV pool, so they run only before a run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from shoal.config import Order, Sharing
from shoal.costs import BLOCK_SIZE
from shoal.cuda.graphs import GraphedForward
from shoal.errors import InternalError
from shoal.model.description import ModelDescription
from shoal.model.hook import AttentionStep, StateStep, attention_step
from shoal.model.kv import KVPool
from shoal.model.layer_sizes import layer_sizes
from shoal.model.load import LoadedModel
from shoal.model.shards import kv_shards
from shoal.planner import Plan
from shoal.scheduler import BlockPool, Scheduler, TokenBatch
from shoal.state_work import StateWork
from shoal.types import RequestParams, RequestTable
from shoal.work import SegmentWork, own_rows

PROMPT = 512
"""Tokens of the prompts that are measured with."""

OWN = 16
"""Tokens of its own that a decoding sequence begins with: half a block of 32."""

STEPS = 48
"""Tokens that a decoding sequence may generate: iterations that it can be measured in."""


@dataclass(frozen=True)
class Bench:
    """A loaded model with its KV pool of `num_blocks` blocks.

    Attributes:
        graphs: replays of batches, with which runs will compute those that they take.
    """

    model: LoadedModel
    description: ModelDescription
    pool: KVPool
    num_blocks: int
    graphs: GraphedForward | None = None

    def prefill_seconds(self, tokens: int) -> float:
        """The faster of two batches of `tokens` prompt tokens, a multiple of `PROMPT`."""
        return min(self._forward(*self._prompts(tokens)) for _ in range(2))

    def _prompts(self, tokens: int) -> tuple[SegmentWork, torch.Tensor, torch.Tensor]:
        """Work list, slots and positions of whole prompts."""
        sequences, blocks = tokens // PROMPT, tokens // BLOCK_SIZE
        work = SegmentWork(
            num_rows=tokens,
            row_first=np.arange(0, tokens, PROMPT, dtype=np.int32),
            row_last=np.arange(PROMPT, tokens + 1, PROMPT, dtype=np.int32),
            kv_tokens=np.full(sequences, PROMPT, dtype=np.int32),
            starts=np.zeros(sequences, dtype=np.int32),
            causal=np.ones(sequences, dtype=np.bool_),
            block_offsets=np.arange(0, blocks + 1, PROMPT // BLOCK_SIZE, dtype=np.int64),
            blocks=np.arange(blocks, dtype=np.int32),
            block_size=BLOCK_SIZE,
        )
        rows = torch.arange(tokens)
        return work, rows, rows % PROMPT

    def decode_seconds(self, batch: TokenBatch) -> float:
        """A forward of a batch, with the logits of its first row."""
        slots, positions = torch.from_numpy(batch.slots), torch.from_numpy(batch.positions)
        return self._forward(batch.attention, slots, positions.long())

    def _forward(self, work: SegmentWork, slots: torch.Tensor, positions: torch.Tensor) -> float:
        device = self.description.device
        ids = torch.arange(work.num_rows, device=device) % self.description.vocab_size
        positions = positions.to(device) % self.description.max_model_len
        slots = slots.to(device)
        with torch.inference_mode():
            began = time.perf_counter()
            # Reading a number back waits for the device.
            self._logits(work, ids, positions, slots).max().item()
            return time.perf_counter() - began

    def _logits(
        self, work: SegmentWork, ids: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor
    ) -> torch.Tensor:
        """Of the first row, computed as a run would."""
        if self.graphs is not None:
            replayed = self.graphs.run(ids, positions, slots, work, ids[:1])
            if replayed is not None:
                return replayed
        prepared = self.pool.backend.prepare(work, ids.device)
        step = AttentionStep(kv=self.pool, slots=slots, prepared=prepared)
        if self.pool.states is not None:
            states = StateWork.apart(own_rows(work), self.pool.states.num_slots)
            step.states = StateStep.of(self.pool.states, states, ids.device)
        with attention_step(step):
            return self.model.logits(ids, positions, ids[:1])

    def attention_seconds(self, batch: TokenBatch) -> float:
        """The attention of all layers over all of a batch's segments, and its preparation."""
        device, config = self.description.device, self.description.config
        shards = kv_shards(config, self.description.tensor_parallel)
        queries = {
            layer: torch.ones(
                (sizes.heads // shards, batch.num_tokens, key_dim),
                dtype=self.description.dtype,
                device=device,
            )
            for layer, (sizes, (count, key_dim, _)) in enumerate(
                zip(layer_sizes(config), self.model.layers, strict=True)
            )
            if count
        }
        began = time.perf_counter()
        prepared = self.pool.backend.prepare(batch.attention, device)
        for layer, query in queries.items():
            out = self.pool.backend(query, self.pool[layer], prepared, 1.0)
        out.max().item()
        return time.perf_counter() - began


class Decoding:
    """Sequences that decode, in groups that share segments: the scheduler's own batches.

    Each iteration is a `step`; what the model would have sampled is made up.
    """

    def __init__(
        self, bench: Bench, *, groups: int, users: int, levels: list[int], own: int = OWN
    ) -> None:
        """`users` sequences per group, behind segments of `levels` tokens, the first on top."""
        sequences = groups * users
        table = _table(sequences, sum(levels) + own)
        plan = _plan(groups, users, levels, table)
        pool = BlockPool(bench.num_blocks)
        self._scheduler = Scheduler(table, plan, pool, plan.computed_prompt_tokens)
        self._num_sequences = sequences
        self.step()
        self.batch, _ = self.step()

    def step(self) -> tuple[TokenBatch, float]:
        """The next batch, and the seconds that scheduling it and taking its tokens back took.

        Raises:
            InternalError: the sequences have ended.
        """
        began = time.perf_counter()
        batch = self._scheduler.step()
        if batch is None or len(batch.sample_sequences) != self._num_sequences:
            raise InternalError("calibration asked for more iterations than its sequences last")
        tokens = np.zeros(self._num_sequences, dtype=np.int32)
        self._scheduler.commit(batch, tokens, tokens.astype(np.bool_))
        return batch, time.perf_counter() - began


def _table(requests: int, tokens: int) -> RequestTable:
    zeros = np.zeros(requests, dtype=np.int64)
    return RequestTable(
        tokens=np.zeros(requests * tokens, dtype=np.int32),
        offsets=np.arange(requests + 1, dtype=np.int64) * tokens,
        params=[RequestParams()],
        params_index=zeros.astype(np.int32),
        max_new_tokens=np.full(requests, STEPS, dtype=np.int32),
        expected_new_tokens=np.full(requests, STEPS, dtype=np.int32),
        seeds=zeros,
        has_seed=zeros.astype(np.bool_),
        line=np.arange(requests),
    )


def _plan(groups: int, users: int, levels: list[int], table: RequestTable) -> Plan:
    """Each group behind a chain of segments."""
    depth = len(levels)
    segment = np.arange(groups * depth, dtype=np.int32)
    level, group = segment % max(depth, 1), segment // max(depth, 1)
    length = np.array(levels, dtype=np.int32)[level] if depth else segment
    start = (np.cumsum(levels) - levels).astype(np.int32)[level] if depth else segment
    sequence = np.arange(groups * users, dtype=np.int32)
    prompt_tokens = int(table.lengths.sum())
    return Plan(
        segment_parent=np.where(level == 0, -1, segment - 1).astype(np.int32),
        segment_start=start,
        segment_length=length,
        segment_request=group * users,
        segment_first=group * users,
        segment_last=(group + 1) * users,
        sequence_request=sequence,
        sequence_choice=0 * sequence,
        sequence_segment=(sequence // users + 1) * depth - 1 if depth else 0 * sequence - 1,
        sharing=Sharing.forest,
        order=Order.input,
        prompt_tokens=prompt_tokens,
        computed_prompt_tokens=prompt_tokens - groups * (users - 1) * sum(levels),
    )
