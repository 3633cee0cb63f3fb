"""From logits to tokens without a look at them: everything is enqueued, nothing read back.

The order of operations, and the tokens, are those of `shoal.sampling.sampler`. What differs is who
decides: which rows are drawn, truncated or changed is known on the host, from parameters alone;
what depends on logits (rows that are no numbers, how many candidates a row needs) is found out on
the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shoal.cuda.transfers import Stage
from shoal.errors import InternalError
from shoal.sampling.draw import DrawParams
from shoal.sampling.logprobs import (
    NUM_REPORTED_PARTS,
    Named,
    listed,
    padded,
    reported_logprobs,
    rows_per_chunk,
)
from shoal.sampling.processors import Change
from shoal.sampling.row_group import Chooser, RowGroup
from shoal.sampling.sampler import Sampler, SampleTask, check_sound, chunks_of
from shoal.scheduler import TokenBatch
from shoal.types import BoolArray, Int32Array, Int64Array, TokenLogprob

Retained = Mapping[int, torch.Tensor]
"""Logits [vocab] kept from earlier batches, by segment."""


@dataclass(frozen=True)
class _Reported:
    """Rows that ask for logprobs, all of one tensor of logits.

    Attributes:
        index: int64 [n], which of the batch's samples, on the host.
        samples, rows: the same on the device, and the row of logits of each.
        kept: whether they are rows of the logits kept earlier.
        num: the most logprobs that one of them asks for.
        named: tokens that they name, and `ids`, int64 [n, K], the same on the device, padded.
    """

    index: Int64Array
    samples: torch.Tensor
    rows: torch.Tensor
    kept: bool
    num: int
    named: Named
    ids: torch.Tensor


@dataclass(frozen=True)
class _Chosen:
    """A group of rows, all of one tensor of logits, and what is changed in copies of them first.

    Attributes:
        copied: int64 [n], the rows to copy; None if they are read where they are. The group's rows
            are those of the copy.
        kept: whether they are rows of the logits kept earlier.
    """

    group: RowGroup
    copied: torch.Tensor | None
    changes: list[Change]
    kept: bool


@dataclass(frozen=True)
class SamplingPlan:
    """What is enqueued for a batch's samples; each is in one of the groups `chosen`."""

    task: SampleTask
    kept: tuple[int, ...]
    """Segments whose kept logits are sampled from."""
    chosen: list[_Chosen]
    reported: list[_Reported]


class DeviceSampler:
    """Samples for the sequences that a `Sampler` knows."""

    def __init__(self, sampler: Sampler, vocab_size: int, chooser: Chooser) -> None:
        """`chooser`: see `chooser_for`."""
        self._sampler, self._vocab_size, self._chooser = sampler, vocab_size, chooser

    def plan(self, batch: TokenBatch, stage: Stage) -> SamplingPlan:
        """Put on the stage what sampling needs on the device."""
        task = self._sampler.task(batch.sample_sequences, batch.sample_positions)
        source, num_computed = batch.sample_logits, len(batch.logit_rows)
        kept = source >= num_computed
        # Rows of the batch's own logits, then of the kept ones.
        rows = np.where(kept, source - num_computed, source)
        small = rows_per_chunk(self._vocab_size)
        ranked = task.settings.ranked(self._vocab_size)
        chosen = []
        for index in _alike(task.processed, kept, ranked):
            changed, held = bool(task.processed[index[0]]), bool(kept[index[0]])
            whole = self._chooser.in_place and not changed
            chosen += [
                self._chosen(task, chunk, rows[chunk], held, stage)
                for chunk in chunks_of(index, len(index) if whole else small)
            ]
        reported = []
        asked = task.reported
        for held in (False, True):
            for index in chunks_of(asked[kept[asked] == held], small):
                num = int(task.num_logprobs[index].max())
                samples, where = stage.put(index), stage.put(rows[index])
                named = self._sampler.named(task, index)
                ids = stage.put(padded(named, len(index)))
                reported.append(_Reported(index, samples, where, held, num, named, ids))
        return SamplingPlan(task, batch.sample_retained, chosen, reported)

    def _chosen(
        self, task: SampleTask, index: Int64Array, rows: Int64Array, kept: bool, stage: Stage
    ) -> _Chosen:
        """Samples at `index` that are `_alike`, and the row of each."""
        settings = task.settings.rows(index)
        params = DrawParams(
            stage.put(settings.temperature),
            stage.put(settings.min_p),
            stage.put(settings.top_k),
            stage.put(settings.top_p),
            stage.put(settings.uniforms),
        )
        changed = bool(task.processed[index[0]])
        group = RowGroup(
            samples=stage.put(index),
            rows=stage.put(np.arange(len(index)) if changed else rows),
            params=params,
            drawn=bool(settings.drawn.any()),
            min_p=bool((settings.drawn & (settings.min_p > 0)).any()),
            ranked=bool(settings.ranked(self._vocab_size)[0]),
        )
        if not changed:
            return _Chosen(group, None, [], kept)
        changes = self._sampler.changes(task, index, stage.put)
        return _Chosen(group, stage.put(rows), changes, kept)

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
        samples = len(plan.task.sequences)
        tokens = torch.empty(samples, dtype=torch.int64, device=logits.device)
        for chosen in plan.chosen:
            rows = kept if chosen.kept else logits
            if chosen.copied is not None:
                rows = rows.index_select(0, chosen.copied).float()
                for change in chosen.changes:
                    change.apply(rows)
            self._chooser(rows, chosen.group, tokens)
        return tokens

    def logprobs(
        self,
        plan: SamplingPlan,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        retained: Retained,
    ) -> list[torch.Tensor]:
        """What `collect` needs for those that ask: `NUM_REPORTED_PARTS` tensors per entry of
        `plan.reported`."""
        found: list[torch.Tensor] = []
        if not plan.reported:
            return found
        kept = self._kept(plan, retained)
        for reported in plan.reported:
            rows = (kept if reported.kept else logits).index_select(0, reported.rows)
            own = tokens.index_select(0, reported.samples).clamp_(min=0)
            found += reported_logprobs(rows, own, reported.num, reported.ids)
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
            parts = arrays[NUM_REPORTED_PARTS * number : NUM_REPORTED_PARTS * (number + 1)]
            nums = plan.task.num_logprobs[index]
            entries = listed(tokens[index], nums, parts, reported.named)
            for place, entry in zip(index.tolist(), entries, strict=True):
                found[place] = entry
        return found

    def _kept(self, plan: SamplingPlan, retained: Retained) -> torch.Tensor:
        """The kept logits [any, vocab] that the plan's rows are counted in."""
        if not plan.kept:
            return torch.empty(0, self._vocab_size)
        return torch.stack([retained[segment] for segment in plan.kept])


def _alike(*columns: BoolArray) -> list[Int64Array]:
    """The samples, int64, in groups of which all columns are the same."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        code = 2 * code + column
    return [np.flatnonzero(code == value) for value in np.unique(code)]
