"""First come, first served over a prefix cache: the scheduler of the baselines.

An iteration serves the running sequences in the order they were admitted, one token for each that
decodes, the next chunk for the one whose prompt is not finished; then it admits waiting ones,
while tokens of the budget, places and KV blocks are left. Who runs out of blocks preempts the
sequence admitted last, whose KV is dropped and computed again later. Nobody is admitted in an
iteration that preempted, nor past the first that waits, nor before its whole prompt finds room.

A full block can be found by others from the iteration on that computes it: all keys and values of
a layer are written before anything attends to them. At least the last token of a prompt is computed
even where all its blocks are found, for its logits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.policies.batch import Chunk, make_batch
from benchmarks.policies.blocks import PrefixCache
from benchmarks.policies.sequence import Sequence
from shoal.errors import InternalError
from shoal.planner import Plan
from shoal.scheduler import TokenBatch
from shoal.types import BoolArray, Int32Array, RequestTable


@dataclass
class LruStats:
    """Counts of a run.

    `prompt_tokens` and `hit_tokens` count at each admission what was looked up in the index, and
    what was found; a preempted sequence looks itself up again.
    """

    iterations: int = 0
    tokens: int = 0
    prefill_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    hit_tokens: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the tokens looked up that were found."""
        return self.hit_tokens / max(self.prompt_tokens, 1)


def waiting_sequences(table: RequestTable, plan: Plan, block_size: int) -> list[Sequence]:
    """The sequences of a plan that shares nothing, in its order."""
    return [
        Sequence.waiting(
            number, table.prompt(request), int(table.max_new_tokens[request]), block_size
        )
        for number, request in enumerate(plan.sequence_request.tolist())
    ]


class LruScheduler:
    """See the module. After `step` comes `commit`."""

    def __init__(
        self,
        sequences: Iterable[Sequence],
        cache: PrefixCache,
        token_budget: int,
        max_requests: int = 256,
    ) -> None:
        """`max_requests`: most sequences that run at a time."""
        self.stats = LruStats()
        self.cache = cache
        self._budget = token_budget
        self._max_requests = max_requests
        self._waiting = deque(sequences)
        self._running: list[Sequence] = []
        self._chunks: list[Chunk] = []

    def step(self) -> TokenBatch | None:
        """The next token batch, or None when every sequence is finished."""
        if not self._running and not self._waiting:
            return None
        self._chunks = []
        left, preempted = self._serve_running(self._budget)
        if not preempted:
            self._admit(left)
        if not self._chunks:
            needed = self._waiting[0].known if self._waiting else 0
            raise InternalError(
                f"a sequence of {needed} tokens does not fit {self.cache.num_blocks} KV blocks"
            )
        return make_batch(self._chunks, self.cache.block_size)

    def commit(self, batch: TokenBatch, token_ids: Int32Array, finished: BoolArray) -> None:
        """Take the tokens sampled for `batch.sample_sequences` back; `finished` ones leave."""
        sampled = iter(zip(token_ids.tolist(), finished.tolist(), strict=True))
        left = set()
        for chunk in self._chunks:
            sequence = chunk.sequence
            sequence.computed += chunk.count
            if sequence.computed == sequence.known:
                token, is_last = next(sampled)
                sequence.append_token(token)
                if is_last:
                    left.add(sequence.number)
                    self.cache.release(sequence.drop_blocks())
        if left:
            self._running = [s for s in self._running if s.number not in left]
        self.stats.iterations += 1
        self.stats.tokens += batch.num_tokens
        self.stats.prefill_tokens += batch.num_tokens - batch.num_decodes
        self.stats.generated_tokens += len(token_ids)

    def _serve_running(self, left: int) -> tuple[int, bool]:
        """Chunks of the running sequences; tokens left, and whether anybody was preempted."""
        preempted, place = False, 0
        while place < len(self._running) and left > 0:
            sequence = self._running[place]
            count = min(sequence.known - sequence.computed, left)
            needed = self._missing_blocks(sequence, sequence.computed + count)
            while needed > self.cache.free_blocks:
                preempted = True
                if self._preempt_last() is sequence:
                    return left, preempted
            self._schedule(sequence, count, needed)
            left -= count
            place += 1
        return left, preempted

    def _admit(self, left: int) -> None:
        size, cache = self.cache.block_size, self.cache
        while self._waiting and left > 0 and len(self._running) < self._max_requests:
            sequence = self._waiting[0]
            hashes = sequence.hash_full_blocks(size)
            found = cache.match(hashes[: (sequence.known - 1) // size])
            room = cache.free_blocks - cache.free_among(found)
            if cache.blocks_for(sequence.known) - len(found) > room:
                return
            self._waiting.popleft()
            cache.hold(found)
            sequence.append_blocks(found)
            sequence.computed = len(found) * size
            sequence.indexed = len(found)
            self._running.append(sequence)
            self.stats.prompt_tokens += sequence.known
            self.stats.hit_tokens += sequence.computed
            count = min(sequence.known - sequence.computed, left)
            needed = self._missing_blocks(sequence, sequence.computed + count)
            self._schedule(sequence, count, needed)
            left -= count

    def _missing_blocks(self, sequence: Sequence, tokens: int) -> int:
        return max(0, self.cache.blocks_for(tokens) - sequence.num_blocks)

    def _schedule(self, sequence: Sequence, count: int, needed: int) -> None:
        """Compute `count` more tokens, with `needed` more blocks; index what gets full."""
        if needed:
            sequence.append_blocks(self.cache.allocate(needed))
        self._chunks.append(Chunk(sequence, count))
        size = self.cache.block_size
        full = (sequence.computed + count) // size
        if full > sequence.indexed:
            hashes = sequence.hash_full_blocks(size)
            for place in range(sequence.indexed, full):
                self.cache.index(int(sequence.blocks[place]), hashes[place])
            sequence.indexed = full

    def _preempt_last(self) -> Sequence:
        """Preempt the sequence admitted last: it waits first in line, nothing of it computed."""
        sequence = self._running.pop()
        self.cache.release(sequence.drop_blocks())
        self._waiting.appendleft(sequence)
        self.stats.preemptions += 1
        return sequence
