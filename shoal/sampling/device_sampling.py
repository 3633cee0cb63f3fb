"""From logits to tokens without a look at them: everything is enqueued, nothing read back.

The order of operations, and the tokens, are those of `shoal.sampling.sampler`. What differs is who
decides: which rows are drawn, truncated or changed is known on the host, from parameters alone;
what depends on logits (rows that are no numbers, rows whose likeliest candidates do not suffice)
is computed for all and selected on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch

from shoal.cuda.transfers import Stage
from shoal.errors import InternalError
from shoal.sampling.choose import UNSOUND, Settings
from shoal.sampling.draw import DrawParams, Kinds, Rest, draw, sort_all
from shoal.sampling.logprobs import NUM_PARTS, best_logprobs, listed, rows_per_chunk
from shoal.sampling.processors import Change
from shoal.sampling.sampler import Sampler, SampleTask, check_sound, chunks_of
from shoal.scheduler import TokenBatch
from shoal.types import Int32Array, Int64Array, TokenLogprob

Retained = Mapping[int, torch.Tensor]
"""Logits [vocab] kept from earlier batches, by segment."""


@dataclass(frozen=True)
class _Rows:
    """Some of a batch's samples, and where their logits are; int64 on the device.

    Attributes:
        samples: [n], which of the batch's samples.
        computed: rows of the batch's own logits, of the first of them.
        kept: rows of the logits kept earlier, of the others.
    """

    samples: torch.Tensor
    computed: torch.Tensor
    kept: torch.Tensor

    def logits(self, computed: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """A copy [n, vocab]."""
        rows = computed.index_select(0, self.computed)
        if kept is None or not len(self.kept):
            return rows
        return torch.cat([rows, kept.index_select(0, self.kept)])


@dataclass(frozen=True)
class _Special:
    """Rows that are drawn, or whose logits are changed first."""

    rows: _Rows
    changes: list[Change]
    drawn: torch.Tensor
    """int64 [d], those of them that are drawn."""
    params: DrawParams
    kinds: Kinds


@dataclass(frozen=True)
class _Reported:
    """Rows that ask for logprobs, of which the most asked for is `num`."""

    rows: _Rows
    index: Int64Array
    """The same as `rows.samples`, on the host."""
    num: int


@dataclass(frozen=True)
class SamplingPlan:
    """What is enqueued for a batch's samples."""

    task: SampleTask
    source: torch.Tensor
    """int64 [S], the row of each sample: of the batch's logits, then of the kept ones."""
    kept: tuple[int, ...]
    """Segments whose kept logits are sampled from."""
    special: list[_Special]
    reported: list[_Reported]


class DeviceSampler:
    """Samples for the sequences that a `Sampler` knows."""

    def __init__(self, sampler: Sampler, vocab_size: int, rest: Rest) -> None:
        """`rest`: see `rest_for`."""
        self._sampler, self._vocab_size, self._rest = sampler, vocab_size, rest

    def plan(self, batch: TokenBatch, stage: Stage) -> SamplingPlan:
        """Put on the stage what sampling needs on the device."""
        task = self._sampler.task(batch.sample_sequences, batch.sample_positions)
        chosen = np.flatnonzero(task.processed | (task.settings.temperature > 0))
        index, rows = self._rows(chosen, batch, stage)
        special = self._special(task, index, rows, stage) if len(index) else []
        index, rows = self._rows(task.reported, batch, stage)
        parts = chunks_of(index, self._step)
        reported = [
            _Reported(where, part, int(task.num_logprobs[part].max()))
            for where, part in zip(rows, parts, strict=True)
        ]
        source = stage.put(batch.sample_logits)
        return SamplingPlan(task, source, batch.sample_retained, special, reported)

    def _rows(
        self, index: Int64Array, batch: TokenBatch, stage: Stage
    ) -> tuple[Int64Array, list[_Rows]]:
        """Where the logits of some samples are, a few at a time.

        Every column is put on the stage once, whatever it is divided into: with a vocabulary of
        128,256 the 4,096 samples of a batch are 32 pieces.

        Returns:
            The samples in another order, and the rows of each `self._step` of them.
        """
        if not len(index):
            return index, []
        source, num_computed = batch.sample_logits, len(batch.logit_rows)
        computed = source[index] < num_computed
        index = np.concatenate([index[computed], index[~computed]])
        count = int(np.count_nonzero(computed))
        bounds = self._bounds(index)
        columns = (
            _put(stage, index, bounds),
            _put(stage, source[index[:count]], np.minimum(bounds, count)),
            _put(stage, source[index[count:]] - num_computed, np.maximum(bounds - count, 0)),
        )
        return index, [_Rows(*piece) for piece in zip(*columns, strict=True)]

    def _special(
        self, task: SampleTask, index: Int64Array, rows: list[_Rows], stage: Stage
    ) -> list[_Special]:
        bounds = self._bounds(index)
        drawn = np.flatnonzero(task.settings.temperature[index] > 0)
        first = np.searchsorted(drawn, bounds)
        draws = self._draws(task.settings.rows(index[drawn]), first, stage)
        pieces = chunks_of(index, self._step), _put(stage, drawn % self._step, first), draws
        return [
            _Special(where, self._changes(task, part, stage), own, *draw)
            for where, part, own, draw in zip(rows, *pieces, strict=True)
        ]

    def _draws(
        self, settings: Settings, bounds: Int64Array, stage: Stage
    ) -> list[tuple[DrawParams, Kinds]]:
        """How the rows that are drawn are, for each piece of them."""
        columns = (
            settings.temperature,
            settings.min_p,
            settings.top_k,
            settings.top_p,
            settings.uniforms,
        )
        params = zip(*(_put(stage, column, bounds) for column in columns), strict=True)
        rows = settings.truncated(self._vocab_size)
        ends = np.searchsorted(rows, bounds)
        truncated = _put(stage, rows - np.repeat(bounds[:-1], np.diff(ends)), ends)
        min_p = np.diff(np.searchsorted(np.flatnonzero(settings.min_p > 0), bounds)) > 0
        return [
            (DrawParams(*piece), Kinds(some, which))
            for piece, some, which in zip(params, min_p.tolist(), truncated, strict=True)
        ]

    def _changes(self, task: SampleTask, index: Int64Array, stage: Stage) -> list[Change]:
        if not task.processed[index].any():
            return []
        return self._sampler.changes(task, index, stage.put)

    @property
    def _step(self) -> int:
        return rows_per_chunk(self._vocab_size)

    def _bounds(self, index: Int64Array) -> Int64Array:
        """Where each `_step` of the index begins, and its end."""
        return np.append(np.arange(0, len(index), self._step), len(index))

    def choose(self, plan: SamplingPlan, logits: torch.Tensor, retained: Retained) -> torch.Tensor:
        """A token per sample, int64 [S]; `UNSOUND` where the logits are no numbers.

        Args:
            logits: [R, vocab] of the batch; left unchanged.
        """
        if logits.shape[1] != self._vocab_size:
            raise InternalError(
                f"logits of shape {tuple(logits.shape)} for a vocabulary of {self._vocab_size}"
            )
        kept = self._kept(plan, retained)
        best = logits.max(dim=-1)
        tokens = _if_sound(best.indices, best.values)
        if kept is not None:
            best = kept.max(dim=-1)
            tokens = torch.cat([tokens, _if_sound(best.indices, best.values)])
        tokens = tokens.index_select(0, plan.source)
        for special in plan.special:
            rows = special.rows.logits(logits, kept).float()
            for change in special.changes:
                change.apply(rows)
            tokens.index_copy_(0, special.rows.samples, self._chosen(special, rows))
        return tokens

    def _chosen(self, special: _Special, logits: torch.Tensor) -> torch.Tensor:
        best = logits.max(dim=-1)
        tokens, drawn = best.indices, special.drawn
        if len(drawn):
            every = len(drawn) == len(logits)
            picked = logits if every else logits.index_select(0, drawn)
            sound = (best.values if every else best.values.index_select(0, drawn)).isfinite()
            # Whatever is drawn for a row without numbers is a token, and not used.
            picked = torch.where(sound[:, None], picked, 0.0)
            found = draw(picked, special.params, special.kinds, self._rest)
            tokens = tokens.index_copy(0, drawn, found)
        return _if_sound(tokens, best.values)

    def logprobs(
        self,
        plan: SamplingPlan,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        retained: Retained,
    ) -> list[torch.Tensor]:
        """What `collect` needs for those that ask: `NUM_PARTS` tensors per entry of
        `plan.reported`."""
        found: list[torch.Tensor] = []
        kept = self._kept(plan, retained) if plan.reported else None
        for reported in plan.reported:
            rows = reported.rows.logits(logits, kept)
            own = tokens.index_select(0, reported.rows.samples).clamp_(min=0)
            found += best_logprobs(rows, own, reported.num)
        return found

    def collect(
        self, plan: SamplingPlan, tokens: Int32Array, arrays: Sequence[npt.NDArray[np.generic]]
    ) -> list[TokenLogprob | None]:
        """The logprobs [S] of those that ask, from what `logprobs` gave; [] where none does.

        Raises:
            InvalidLogitsError: a row's logits are not numbers; no state has changed.
        """
        check_sound(plan.task, tokens)
        self._sampler.record(plan.task, tokens)
        found: list[TokenLogprob | None] = [None] * len(tokens) if plan.reported else []
        for number, reported in enumerate(plan.reported):
            index = reported.index
            parts = arrays[NUM_PARTS * number : NUM_PARTS * (number + 1)]
            entries = listed(tokens[index], plan.task.num_logprobs[index], parts)
            for place, entry in zip(index.tolist(), entries, strict=True):
                found[place] = entry
        return found

    def _kept(self, plan: SamplingPlan, retained: Retained) -> torch.Tensor | None:
        return torch.stack([retained[s] for s in plan.kept]) if plan.kept else None


def rest_for(device: torch.device) -> Rest:
    """How rows are drawn on a device that need all of the vocabulary, without reading back.

    On CUDA by a kernel that passes over the rows that need it alone; sorting, where there is no
    Triton, sorts all that are truncated.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return sort_all
    from shoal.sampling.draw_kernel import draw_rest

    return draw_rest


def _put(stage: Stage, column: npt.NDArray[np.generic], bounds: Int64Array) -> list[torch.Tensor]:
    """A column on the stage, divided where `bounds` say."""
    return list(torch.split(stage.put(column), np.diff(bounds).tolist()))


def _if_sound(tokens: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    return torch.where(best.isfinite(), tokens, UNSOUND)
