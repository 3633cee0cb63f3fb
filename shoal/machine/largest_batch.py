"""The most demanding token batch of a size: shows what a batch needs besides weights and KV.

Every row is sampled from, by a sequence of its own, with every transformation of the logits there
is and with logprobs; and every row scores a prompt. So no batch of as many rows makes more logits,
which is what takes most memory in a model with a large vocabulary; and no batch runs more rows
through the layers. A model that does not generate gives a vector of every row.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shoal.config import Sharing
from shoal.executor.pooling_executor import make_executor
from shoal.model.description import ModelDescription
from shoal.model.kv import KVPool
from shoal.model.load import LoadedModel
from shoal.planner import make_plan
from shoal.scheduler import BLOCK_SIZE, Chunks, ScoredRange, TokenBatch
from shoal.state_work import StateWork
from shoal.types import MAX_LOGPROBS, RequestParams, RequestTable
from shoal.work import SegmentWork, own_rows

CHUNK = 512
"""Prompt tokens of a sequence of the batch."""

SHARED = 3
"""Segments that every row attends to besides its own: partial results to merge take memory too."""

_PARAMS = (
    RequestParams(temperature=0.0),
    RequestParams(
        temperature=1.0,
        top_p=0.9,
        min_p=0.01,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        logit_bias=((0, 1.0),),
        logprobs=0,
    ),
)
"""Of the first sequence, and of the others: their logits are no view of all the logits."""


def blocks_for_probe(rows: int) -> int:
    """KV blocks that `probe` writes to."""
    return -(-rows // BLOCK_SIZE)


def probe(model: LoadedModel, kv: KVPool, description: ModelDescription, rows: int) -> None:
    """Run the batch of `rows` rows, to its sampled tokens; overwrites the KV pool.

    Args:
        kv: at least `blocks_for_probe(rows)` blocks.
    """
    table = _table(rows)
    plan = make_plan(table, sharing=Sharing.none)  # the batch has no segment of a plan
    executor = make_executor(model, kv, description, table, plan)
    states = None
    if kv.states is not None:
        begins = own_rows(chunks_behind_segments(rows))
        states = StateWork.apart(begins, kv.states.num_slots)
    executor.execute(replace(_batch(rows, description), states=states))


def _table(rows: int) -> RequestTable:
    """One request per row, of one token."""
    ones = np.ones(rows, dtype=np.int32)
    return RequestTable(
        tokens=np.zeros(rows, dtype=np.int32),
        offsets=np.arange(rows + 1),
        params=list(_PARAMS),
        params_index=np.minimum(np.arange(rows), 1).astype(np.int32),
        max_new_tokens=ones,
        expected_new_tokens=ones,
        seeds=np.zeros(rows, dtype=np.int64),
        has_seed=np.zeros(rows, dtype=np.bool_),
        line=np.arange(rows),
    )


def _batch(rows: int, description: ModelDescription) -> TokenBatch:
    row, none = np.arange(rows), np.zeros(0, dtype=np.int32)
    scored = ScoredRange(False, 0, 0, 0, np.zeros(rows, dtype=np.int32), none, MAX_LOGPROBS)
    return TokenBatch(
        token_ids=(row % description.vocab_size).astype(np.int32),
        positions=(row % CHUNK % description.max_model_len).astype(np.int32),
        slots=row,
        attention=chunks_behind_segments(rows),
        logit_rows=row,
        sample_sequences=row.astype(np.int32),
        sample_positions=np.zeros(rows, dtype=np.int32),
        sample_logits=row,
        scored=() if description.pooling else (scored,),
        chunks=Chunks(
            shared=np.zeros(1, np.bool_),
            segments=np.zeros(0, np.int64),
            slots=np.zeros(1, np.int64),
            first=np.zeros(1, np.int64),
            count=np.array([rows]),
        ),
        num_decodes=0,
        sequences=row.astype(np.int32),
    )


def chunks_behind_segments(rows: int) -> SegmentWork:
    """Whole prompts of up to `CHUNK` tokens in slots [0, rows), behind segments all of them use."""
    first = np.arange(0, rows, CHUNK)
    last = np.minimum(first + CHUNK, rows)
    tokens = np.concatenate([np.full(SHARED, last[0]), last - first])
    used = -(-tokens // BLOCK_SIZE)
    offsets = np.concatenate([[0], np.cumsum(used)])
    begins = np.concatenate([np.zeros(SHARED, np.int64), first // BLOCK_SIZE])
    blocks = np.concatenate([np.arange(b, b + n) for b, n in zip(begins, used, strict=True)])
    return SegmentWork(
        num_rows=rows,
        row_first=np.concatenate([np.zeros(SHARED, np.int64), first]).astype(np.int32),
        row_last=np.concatenate([np.full(SHARED, rows), last]).astype(np.int32),
        kv_tokens=tokens.astype(np.int32),
        starts=(last[0] * np.minimum(np.arange(len(tokens)), SHARED)).astype(np.int32),
        causal=np.arange(len(tokens)) >= SHARED,
        block_offsets=offsets,
        blocks=blocks.astype(np.int32),
        block_size=BLOCK_SIZE,
    )
