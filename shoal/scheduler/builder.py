"""Assembles one token batch from the sequences chosen for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shoal.planner import Plan
from shoal.scheduler.batch import Chunks, Feedback, PromptLogits, TokenBatch
from shoal.scheduler.running import RunningSequences
from shoal.scheduler.segments import SegmentTable
from shoal.scheduler.work_list import attention_work
from shoal.types import BoolArray, Int32Array, Int64Array, RequestTable

_TILE = 16
"""A prefill chunk that does not reach its end is cut to a multiple of this many tokens."""
SCORED_ROWS = 256
"""Most rows per batch that score a prompt: each takes logits over the whole vocabulary."""
_LAST = np.int64(2**62)
"""Sorts after every depth and exceeds every length."""


@dataclass
class _Samples:
    """Who samples from which row, collected while a batch is put together."""

    sequences: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    logit_rows: list[int] = field(default_factory=list)
    retain: list[tuple[int, int]] = field(default_factory=list)
    release: list[int] = field(default_factory=list)

    def add_row(self, row: int) -> int:
        """Ask for the logits of a row; returns its place."""
        self.logit_rows.append(row)
        return len(self.logit_rows) - 1


class BatchBuilder:
    """Turns decoding and prefilling slots into a `TokenBatch`; changes no state but its own.

    Rows are ordered along the plan, a shared segment's own tokens just before its first user's, so
    that whoever uses a segment is one range of rows and attention needs no gather of queries.
    """

    def __init__(
        self,
        table: RequestTable,
        plan: Plan,
        running: RunningSequences,
        segments: SegmentTable,
        generated: dict[int, list[int]],
        block_size: int,
        scored: BoolArray,
    ) -> None:
        """`scored`: bool [N], requests whose prompts' logits are wanted; they share nothing."""
        self._table = table
        self._scored_requests = scored
        self.replan(plan)
        self._running = running
        self._segments = segments
        self._generated = generated
        self._block_size = block_size
        self._release: list[int] = []

    def replan(self, plan: Plan) -> None:
        """Sequences and segments not yet begun have other numbers from now on."""
        self._segment_request = plan.segment_request
        self._sequence_request = plan.sequence_request
        self._scored: BoolArray = self._scored_requests[plan.sequence_request]

    def ender_gone(self, segment: int) -> None:
        """A sequence that would have sampled from this segment's last logits was cancelled."""
        self._segments.unsampled_enders[segment] -= 1
        if self._segments.unsampled_enders[segment] == 0 and segment in self._segments.retained:
            self._release.append(segment)

    def batch(
        self,
        decoding: Int64Array,
        prefilling: Int64Array,
        budget: int,
        awaited: Int64Array | None = None,
    ) -> TokenBatch:
        """One token for each decoding slot, then chunks of the prefilling ones up to `budget`.

        Args:
            awaited: see `UnderWay.awaited`.
        """
        chunks, enders = self._chunks(decoding, prefilling, budget)
        blocks, block_offsets = self._chunk_blocks(chunks)
        token_ids, positions, slots, newest = self._tokens(chunks, blocks, block_offsets)
        feedback = self._feedback(chunks, token_ids, newest, awaited)
        samples = self._samples(chunks, enders)
        prompt_logits = self._prompt_logits(chunks, samples)
        sampled = np.array(samples.sequences, dtype=np.int32)
        own = self._running.sequence[chunks.owner[~chunks.shared]]
        first_users = self._segments.first_user[chunks.owner[chunks.shared]]
        samplers = self._running.slots_of(sampled)
        generated = self._running.own_total[samplers] - self._running.own_prompt[samplers]
        batch = TokenBatch(
            token_ids=token_ids,
            positions=positions,
            slots=slots,
            attention=attention_work(
                chunks, blocks, block_offsets, self._running, self._segments, self._block_size
            ),
            logit_rows=np.array(samples.logit_rows, dtype=np.int64),
            sample_sequences=sampled,
            sample_source=np.array(samples.sources, dtype=np.int64),
            sample_positions=generated.astype(np.int32),
            retain=tuple(samples.retain),
            release=(*samples.release, *self._release),
            prompt_logits=prompt_logits,
            chunks=chunks,
            num_decodes=len(decoding),
            sequences=np.unique(np.concatenate([own, sampled, self._waiting(first_users)])).astype(
                np.int32
            ),
            feedback=feedback,
        )
        self._release = []
        return batch

    def dropped(self, batch: TokenBatch) -> None:
        """A batch was not computed: what only it releases, the next one must."""
        held = self._segments.retained.difference(self._release).intersection(batch.release)
        self._release += [s for s in held if self._segments.unsampled_enders[s] == 0]

    def _waiting(self, first_users: Int32Array) -> Int64Array:
        """The running sequence that stands for each segment chunk: its first running user."""
        order = self._running.sequence[self._running.in_order()]
        found: Int64Array = order[np.searchsorted(order, first_users)]
        return found

    # Which tokens.

    def _chunks(
        self, decoding: Int64Array, prefilling: Int64Array, budget: int
    ) -> tuple[Chunks, list[int]]:
        """Chunks in row order, and the slots that sample without a row of their own."""
        running = self._running
        owner, shared, first, count, enders = self._prefill(prefilling, budget - len(decoding))
        owners = np.concatenate([decoding, np.array(owner, dtype=np.int64)])
        is_shared = np.concatenate(
            [np.zeros(len(decoding), np.bool_), np.array(shared, dtype=np.bool_)]
        )
        firsts = np.concatenate([running.computed[decoding], np.array(first, dtype=np.int64)])
        counts = np.concatenate([np.ones(len(decoding), np.int64), np.array(count, dtype=np.int64)])
        segment = np.where(is_shared, owners, 0)
        slot = np.where(is_shared, 0, owners)
        if len(self._segments.start):
            place = np.where(is_shared, self._segments.first_user[segment], running.sequence[slot])
            depth = np.where(is_shared, self._segments.start[segment], _LAST)
        else:
            place, depth = running.sequence[slot], np.zeros(len(slot), np.int64)
        order = np.lexsort((depth, place))
        return Chunks(owners[order], is_shared[order], firsts[order], counts[order]), enders

    def _prefill(
        self, slots: Int64Array, left: int
    ) -> tuple[list[int], list[bool], list[int], list[int], list[int]]:
        """Chunk columns for prefilling slots, in their order, within `left` tokens; and enders."""
        running, segments = self._running, self._segments
        scored_rows = SCORED_ROWS
        owner: list[int] = []
        shared: list[bool] = []
        first: list[int] = []
        count: list[int] = []
        enders: list[int] = []
        seen: set[int] = set()

        def take(who: int, is_shared: bool, start: int, remaining: int) -> bool:
            """Schedule what fits; whether that was all."""
            nonlocal left
            fits = min(remaining, left)
            if _TILE <= fits < remaining:
                fits -= fits % _TILE
            if fits > 0:
                owner.append(who)
                shared.append(is_shared)
                first.append(start)
                count.append(fits)
                left -= fits
            return fits == remaining

        for slot in slots.tolist():
            for segment in segments.path(int(running.segment[slot])):
                done = int(segments.computed[segment])
                missing = int(segments.length[segment]) - done
                if missing == 0 or segment in seen:
                    continue
                seen.add(segment)
                if not take(segment, True, done, missing):
                    return owner, shared, first, count, enders
            done = int(running.computed[slot])
            missing = int(running.own_total[slot]) - done
            if missing == 0:
                enders.append(slot)
                continue
            limit = missing
            if self._scored[running.sequence[slot]]:
                limit = min(missing, scored_rows)
                scored_rows -= limit
                if limit == 0:
                    continue
            if not take(slot, False, done, limit):
                break
        return owner, shared, first, count, enders

    def _tokens(
        self, chunks: Chunks, blocks: Int32Array, block_offsets: Int64Array
    ) -> tuple[Int32Array, Int32Array, Int64Array, BoolArray]:
        """Token ids, positions and KV slots of all rows, and which of them decode."""
        running, table = self._running, self._table
        chunk_of_row = np.repeat(np.arange(len(chunks)), chunks.count)
        index = np.arange(len(chunk_of_row)) - chunks.row_starts[chunk_of_row]
        index += chunks.first[chunk_of_row]
        before, request = self._origin(chunks)
        positions = before[chunk_of_row] + index
        block = blocks[block_offsets[chunk_of_row] + index // self._block_size]
        slots = block.astype(np.int64) * self._block_size + index % self._block_size
        source = table.offsets[request][chunk_of_row] + positions
        slot = np.where(chunks.shared, 0, chunks.owner)
        prompt_end = np.where(chunks.shared, _LAST, running.own_prompt[slot])
        from_prompt = index < prompt_end[chunk_of_row]
        pending = ~chunks.shared & running.decoding[slot]
        token_ids = table.tokens[np.where(from_prompt, source, 0)]
        newest = pending[chunk_of_row]
        token_ids[newest] = running.last_token[slot[chunk_of_row[newest]]]
        for row in np.flatnonzero(~from_prompt & ~newest).tolist():
            owner = int(slot[chunk_of_row[row]])
            generated = self._generated[int(running.sequence[owner])]
            token_ids[row] = generated[int(index[row] - running.own_prompt[owner])]
        return token_ids, positions.astype(np.int32), slots, newest

    def _feedback(
        self,
        chunks: Chunks,
        token_ids: Int32Array,
        newest: BoolArray,
        awaited: Int64Array | None,
    ) -> Feedback:
        """The decoding rows whose token is not known yet; their ids become 0."""
        if awaited is None:
            return Feedback.none()
        rows = np.flatnonzero(newest)
        source = awaited[chunks.owner[np.searchsorted(chunks.row_starts, rows, side="right") - 1]]
        rows, source = rows[source >= 0], source[source >= 0]
        token_ids[rows] = 0
        return Feedback(rows, source)

    def _origin(self, chunks: Chunks) -> tuple[Int64Array, Int64Array]:
        """Per chunk: prompt tokens before its owner's first, and the request they come from."""
        before = np.empty(len(chunks), dtype=np.int64)
        request = np.empty(len(chunks), dtype=np.int64)
        shared, own = chunks.shared, ~chunks.shared
        segments, slots = chunks.owner[shared], chunks.owner[own]
        before[shared] = self._segments.start[segments]
        before[own] = self._running.shared[slots]
        request[shared] = self._segment_request[segments]
        request[own] = self._sequence_request[self._running.sequence[slots]]
        return before, request

    def _chunk_blocks(self, chunks: Chunks) -> tuple[Int32Array, Int64Array]:
        """KV blocks of each chunk's owner up to the chunk's end, flat, and their offsets."""
        counts = -(-(chunks.first + chunks.count) // self._block_size)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        flat = np.empty(int(offsets[-1]), dtype=np.int32)
        own = ~chunks.shared
        width = np.arange(int(counts[own].max(initial=0)))
        table = self._running.blocks[chunks.owner[own], : len(width)]
        taken = width < counts[own][:, None]
        places = offsets[:-1][own][:, None] + width
        flat[places[taken]] = table[taken]
        for chunk in np.flatnonzero(chunks.shared).tolist():
            blocks = self._segments.blocks[int(chunks.owner[chunk])]
            flat[offsets[chunk] : offsets[chunk + 1]] = blocks[: counts[chunk]]
        return flat, offsets

    # Who samples.

    def _samples(self, chunks: Chunks, enders: list[int]) -> _Samples:
        running, segments = self._running, self._segments
        samples = _Samples()
        last_rows = chunks.row_starts[1:] - 1
        slot = np.where(chunks.shared, 0, chunks.owner)
        complete = ~chunks.shared & (chunks.first + chunks.count == running.own_total[slot])
        samples.sequences = running.sequence[chunks.owner[complete]].tolist()
        samples.logit_rows = last_rows[complete].tolist()
        samples.sources = list(range(len(samples.sequences)))
        completed = self._completed_segments(chunks, last_rows)
        place: dict[int, int] = {}
        sampled: dict[int, int] = {}
        for ender in enders:
            segment = int(running.segment[ender])
            if segment in completed and segment not in place:
                place[segment] = samples.add_row(completed[segment])
            samples.sequences.append(int(running.sequence[ender]))
            samples.sources.append(place.get(segment, -1 - segment))
            sampled[segment] = sampled.get(segment, 0) + 1
        for segment, row in completed.items():
            later = segments.unsampled_enders[segment] - sampled.get(segment, 0)
            if later > 0 and segment not in segments.retained:
                if segment not in place:
                    place[segment] = samples.add_row(row)
                samples.retain.append((place[segment], segment))
        for segment, count in sampled.items():
            if segment in segments.retained and segments.unsampled_enders[segment] == count:
                samples.release.append(segment)
        return samples

    def _prompt_logits(self, chunks: Chunks, samples: _Samples) -> tuple[PromptLogits, ...]:
        """Ask for the rows that score prompts; a row scores the token after its own."""
        running = self._running
        found = []
        slots = np.where(chunks.shared, 0, chunks.owner)
        scored = ~chunks.shared & self._scored[running.sequence[slots]]
        for chunk in np.flatnonzero(scored).tolist():
            first, slot = int(chunks.first[chunk]), int(slots[chunk])
            count = min(int(chunks.count[chunk]), int(running.own_prompt[slot]) - 1 - first)
            if count > 0:
                place, row = len(samples.logit_rows), int(chunks.row_starts[chunk])
                samples.logit_rows.extend(range(row, row + count))
                sequence = int(running.sequence[slot])
                found.append(PromptLogits(sequence, first + 1, place, count))
        return tuple(found)

    def _completed_segments(self, chunks: Chunks, last_rows: Int64Array) -> dict[int, int]:
        """Segments whose last token is in this batch, and its row."""
        return {
            int(chunks.owner[chunk]): int(last_rows[chunk])
            for chunk in np.flatnonzero(chunks.shared).tolist()
            if chunks.first[chunk] + chunks.count[chunk]
            == self._segments.length[chunks.owner[chunk]]
        }
