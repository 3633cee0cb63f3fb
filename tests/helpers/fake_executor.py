"""An executor without a model that checks every batch: who sees which tokens, exactly.

Each KV slot remembers the token written to it. A row's visible context is read back through the
batch's attention items, must be the sequence's tokens so far, and alone decides the next token:
a wrong slot, a wrong order or a missing segment cannot go unnoticed.
"""

from __future__ import annotations

import zlib

import numpy as np

from shoal.planner import Plan
from shoal.scheduler import TokenBatch
from shoal.types import BoolArray, Int32Array, RequestParams, RequestTable


def make_table(
    prompts: list[list[int]], limits: list[int], expected: list[int], choices: list[int]
) -> RequestTable:
    """A request table from lists."""
    count = len(prompts)
    params = [RequestParams(n=n) for n in range(1, max(choices) + 1)]
    return RequestTable(
        tokens=np.array([t for prompt in prompts for t in prompt], dtype=np.int32),
        offsets=np.cumsum([0] + [len(p) for p in prompts]).astype(np.int64),
        params=params,
        params_index=np.array(choices, dtype=np.int32) - 1,
        max_new_tokens=np.array(limits, dtype=np.int32),
        expected_new_tokens=np.minimum(expected, limits).astype(np.int32),
        seeds=np.zeros(count, dtype=np.int64),
        has_seed=np.zeros(count, dtype=np.bool_),
        line=np.arange(count, dtype=np.int64),
    )


def next_token(context: list[int]) -> int:
    """The fake model: a token from all tokens before it."""
    return zlib.crc32(np.array(context, dtype=np.int32).tobytes()) % 50


def answer(prompt: list[int], length: int) -> list[int]:
    """What the fake model generates for a prompt."""
    context = list(prompt)
    for _ in range(length):
        context.append(next_token(context))
    return context[len(prompt) :]


class CheckingExecutor:
    """Samples with the fake model and asserts that every row sees its own past and only that."""

    def __init__(self, table: RequestTable, plan: Plan, num_slots: int, lengths: list[int]) -> None:
        self.table, self.plan, self.lengths = table, plan, lengths
        self.kv = np.full((num_slots, 2), -1, dtype=np.int64)
        self.retained: dict[int, int] = {}
        self.generated: dict[int, list[int]] = {}
        self.newest: Int32Array = np.zeros(0, dtype=np.int32)

    def execute(self, batch: TokenBatch, block_size: int) -> tuple[Int32Array, BoolArray]:
        """Next tokens, and which sequences they finish."""
        results = self.launch(batch, block_size)
        self.release(batch)
        return results

    def launch(self, batch: TokenBatch, block_size: int) -> tuple[Int32Array, BoolArray]:
        """The same, logits no longer needed being kept until `release`."""
        token_ids = batch.token_ids.copy()
        assert not token_ids[batch.feedback.rows].any()
        token_ids[batch.feedback.rows] = self.newest[batch.feedback.source]
        self.kv[batch.slots, 0] = token_ids
        self.kv[batch.slots, 1] = batch.positions
        assert len(np.unique(batch.slots)) == batch.num_tokens
        contexts = [self.context(batch, row, block_size) for row in range(batch.num_tokens)]
        logits = [next_token(contexts[row]) for row in batch.logit_rows.tolist()]
        either = logits + [self.retained[segment] for segment in batch.sample_retained]
        tokens = [either[row] for row in batch.sample_logits.tolist()]
        self.check_samples(batch, contexts)
        for row, segment in batch.retain:
            assert segment not in self.retained
            self.retained[segment] = logits[row]
        finished = []
        for sequence, token, position in zip(
            batch.sample_sequences.tolist(), tokens, batch.sample_positions.tolist(), strict=True
        ):
            mine = self.generated.setdefault(sequence, [])
            assert len(mine) == position
            mine.append(token)
            finished.append(len(mine) == self.lengths[self.plan.sequence_request[sequence]])
        self.newest = np.array(tokens, dtype=np.int32)
        return self.newest, np.array(finished, dtype=np.bool_)

    def release(self, batch: TokenBatch) -> None:
        """Forget the logits that nobody needs after a batch."""
        for segment in batch.release:
            del self.retained[segment]

    def spoil(self, batch: TokenBatch) -> None:
        """A launched batch failed, all later ones being spoilt already: nothing of it is right."""
        self.kv[batch.slots] = -7
        for _, segment in batch.retain:
            del self.retained[segment]
        for sequence, position in zip(
            batch.sample_sequences.tolist(), batch.sample_positions.tolist(), strict=True
        ):
            del self.generated[sequence][position:]

    def context(self, batch: TokenBatch, row: int, block_size: int) -> list[int]:
        """The tokens a row attends to, in order of position."""
        items = batch.attention
        seen: list[tuple[int, int]] = []
        for item in range(len(items)):
            first, last = int(items.row_first[item]), int(items.row_last[item])
            if not first <= row < last:
                continue
            tokens = int(items.kv_tokens[item])
            if items.causal[item]:
                tokens -= last - row - 1
            index = np.arange(tokens)
            blocks = items.blocks[items.block_offsets[item] : items.block_offsets[item + 1]]
            at = blocks[index // block_size].astype(np.int64) * block_size + index % block_size
            kv = self.kv[at]
            seen += [(int(position), int(token)) for token, position in kv]
        seen.sort()
        assert [position for position, _ in seen] == list(range(int(batch.positions[row]) + 1))
        return [token for _, token in seen]

    def check_samples(self, batch: TokenBatch, contexts: list[list[int]]) -> None:
        """A sampled row must end the sequence it is sampled for."""
        for sequence, source in zip(
            batch.sample_sequences.tolist(), batch.sample_logits.tolist(), strict=True
        ):
            prompt = self.table.prompt(int(self.plan.sequence_request[sequence])).tolist()
            if source < len(batch.logit_rows):
                row = int(batch.logit_rows[source])
                assert contexts[row] == prompt + self.generated.get(sequence, [])
