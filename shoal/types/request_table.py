"""Requests as columns of numbers, not as one object each, so that millions fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shoal.types.adapter import BASE_MODEL, Adapter
from shoal.types.arrays import BoolArray, Int32Array, Int64Array
from shoal.types.length_switch import LengthSwitch
from shoal.types.request_params import RequestParams


@dataclass(frozen=True)
class RequestTable:
    """N requests as columns.

    Attributes:
        tokens: int32 [total prompt tokens], all prompts one after another.
        offsets: int64 [N + 1]; prompt i is tokens[offsets[i]:offsets[i + 1]], never empty.
        params: the distinct sampling parameters (their `seed` is ignored, see `seeds`).
        params_index: int32 [N], each request's index in `params`.
        max_new_tokens: int32 [N], hard limit on generated tokens per choice, at least 1; without
            meaning where none is generated (`generates`).
        expected_new_tokens: int32 [N], what a choice is expected to generate, at least 1.
        seeds: int64 [N], and has_seed: bool [N]; a request without seed draws from `job_seed`.
        job_seed: seeds the streams of requests that have none.
        job_seeds: int64 [N], the same where requests of several jobs are together (`joined`); None:
            it is `job_seed` for all.
        line: int64 [N], what the caller calls request i (for a job, its line number from 0; the
            prompts of one line are neighbours). Ascending, but where `prompt_index` is given.
        prompt_index: int64 [N], the request's index among the prompts of its line, where the table
            is a part of another and may lack some of them; None: as `line` counts them.
        switch: of a model that computes something else where a request is long; None: of others.
        adapters: that some of the requests may name.
        adapter: int32 [N], index in `adapters` of the one each runs with, `BASE_MODEL`: with none;
            None: no request has one.
    """

    tokens: Int32Array
    offsets: Int64Array
    params: Sequence[RequestParams]
    params_index: Int32Array
    max_new_tokens: Int32Array
    expected_new_tokens: Int32Array
    seeds: Int64Array
    has_seed: BoolArray
    line: Int64Array
    job_seed: int = 0
    prompt_index: Int64Array | None = None
    switch: LengthSwitch | None = None
    job_seeds: Int64Array | None = None
    adapters: tuple[Adapter, ...] = ()
    adapter: Int32Array | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def prompt(self, request: int) -> Int32Array:
        """The prompt's token ids, a view."""
        return self.tokens[self.offsets[request] : self.offsets[request + 1]]

    def sampling(self, request: int) -> RequestParams:
        """The request's sampling parameters."""
        return self.params[int(self.params_index[request])]

    @property
    def lengths(self) -> Int64Array:
        """Prompt lengths in tokens, int64 [N]."""
        return np.diff(self.offsets)

    @property
    def prefix_classes(self) -> Int64Array | None:
        """Requests of different classes share no prefix, int64 [N]; None: all are of one."""
        classes = None if self.switch is None else self.switch.classes(self.lengths)
        if self.adapter is None:
            return classes
        of_adapter = self.adapter.astype(np.int64) - BASE_MODEL
        return (
            of_adapter if classes is None else of_adapter * (classes.max(initial=0) + 1) + classes
        )

    def per_request(self, values: Sequence[int]) -> Int32Array:
        """A column [N] from one value per entry of `params`, for example `n`."""
        return np.asarray(values, dtype=np.int32)[self.params_index]

    @property
    def choices(self) -> Int32Array:
        """Choices per request, int32 [N]."""
        return self.per_request([p.n for p in self.params])

    @property
    def generates(self) -> BoolArray:
        """Requests that generate tokens, bool [N]; the others may ask what their prompt scores."""
        return self.per_request([p.generates for p in self.params]).astype(np.bool_)

    @property
    def expected_output(self) -> Int32Array:
        """`expected_new_tokens`, and 0 where none is generated, int32 [N]."""
        return np.where(self.generates, self.expected_new_tokens, np.int32(0))

    @property
    def scored(self) -> BoolArray:
        """Requests whose prompt logprobs are asked for, bool [N]."""
        wanted = [p.num_prompt_logprobs is not None for p in self.params]
        return self.per_request(wanted).astype(np.bool_)

    @property
    def score_start(self) -> Int64Array:
        """Position of the first prompt token that is scored, int64 [N]; its length: none is.

        At least 1: nothing says what the first token scores.
        """
        starts = [max(1, p.prompt_logprob_start or 0) for p in self.params]
        given = np.minimum(self.per_request(starts), self.lengths)
        return np.where(self.scored, given, self.lengths)

    @property
    def computed_lengths(self) -> Int64Array:
        """Prompt tokens that the model must see, int64 [N].

        All, where an answer follows. Else all but the last, which is only a target: its score is
        read from the row before. None, where nothing is scored either.
        """
        if all(p.generates for p in self.params):
            return self.lengths
        shorter = np.where(self.score_start < self.lengths, self.lengths - 1, 0)
        return np.where(self.generates, self.lengths, shorter)

    def prompt_index_of(self, request: int) -> int:
        """The request's index, from 0, among the prompts of its line."""
        if self.prompt_index is not None:
            return int(self.prompt_index[request])
        return request - int(np.searchsorted(self.line, self.line[request]))

    def job_seed_of(self, request: int) -> int:
        """What seeds a request's streams if it has no seed."""
        return self.job_seed if self.job_seeds is None else int(self.job_seeds[request])

    @property
    def prompt_indices(self) -> Int64Array:
        """`prompt_index_of` for all requests, int64 [N]."""
        if self.prompt_index is not None:
            return self.prompt_index
        return np.arange(len(self), dtype=np.int64) - np.searchsorted(self.line, self.line)

    def select(self, requests: Int64Array) -> RequestTable:
        """The table of some requests, copied.

        They draw the same random numbers as in the whole table: lines keep their numbers, and
        `prompt_index` says where in its line a request stood.

        Args:
            requests: int64 [R], ascending, at least one.
        """
        distinct, index = np.unique(self.params_index[requests], return_inverse=True)
        line = self.line[requests]
        prompt_index = self.prompt_index
        lengths = self.offsets[requests + 1] - self.offsets[requests]  # `lengths` is of all
        return RequestTable(
            tokens=self._prompts(requests),
            offsets=np.append(0, np.cumsum(lengths)).astype(np.int64),
            params=[self.params[number] for number in distinct.tolist()],
            params_index=index.reshape(-1).astype(np.int32),
            max_new_tokens=self.max_new_tokens[requests],
            expected_new_tokens=self.expected_new_tokens[requests],
            seeds=self.seeds[requests],
            has_seed=self.has_seed[requests],
            line=line,
            job_seed=self.job_seed,
            prompt_index=requests - np.searchsorted(self.line, line)
            if prompt_index is None
            else prompt_index[requests],
            switch=self.switch,
            job_seeds=None if self.job_seeds is None else self.job_seeds[requests],
            adapters=self.adapters,
            adapter=None if self.adapter is None else self.adapter[requests],
        )

    def _prompts(self, requests: Int64Array) -> Int32Array:
        """Their prompts one after another; requests that follow each other are copied together."""
        heads = np.flatnonzero(np.diff(requests, prepend=-2) != 1)
        tails = np.append(heads[1:], len(requests)) - 1
        begin, end = self.offsets[requests[heads]], self.offsets[requests[tails] + 1]
        runs = [self.tokens[a:b] for a, b in zip(begin.tolist(), end.tolist(), strict=True)]
        return np.concatenate(runs)


def joined(tables: Sequence[RequestTable]) -> RequestTable:
    """The requests of several jobs in one table, those of the first table first.

    Each draws the same random numbers as in its own table. Of one table that is the table itself.
    All are of one model, so of one `switch`.
    """
    if len(tables) == 1:
        return tables[0]
    numbers: dict[RequestParams, int] = {}
    index = []
    for table in tables:
        own = [numbers.setdefault(params, len(numbers)) for params in table.params]
        index.append(np.asarray(own, dtype=np.int32)[table.params_index])
    seeds = [np.full(len(table), table.job_seed, dtype=np.int64) for table in tables]
    adapters, adapter = _joined_adapters(tables)
    return RequestTable(
        tokens=np.concatenate([table.tokens for table in tables]),
        offsets=np.append(0, np.cumsum(np.concatenate([table.lengths for table in tables]))),
        params=list(numbers),
        params_index=np.concatenate(index),
        max_new_tokens=np.concatenate([table.max_new_tokens for table in tables]),
        expected_new_tokens=np.concatenate([table.expected_new_tokens for table in tables]),
        seeds=np.concatenate([table.seeds for table in tables]),
        has_seed=np.concatenate([table.has_seed for table in tables]),
        line=np.concatenate([table.line for table in tables]),
        prompt_index=np.concatenate([table.prompt_indices for table in tables]),
        switch=tables[0].switch,
        job_seeds=np.concatenate(seeds),
        adapters=adapters,
        adapter=adapter,
    )


def _joined_adapters(
    tables: Sequence[RequestTable],
) -> tuple[tuple[Adapter, ...], Int32Array | None]:
    """The adapters of all tables, each once, and the column of their requests."""
    if all(table.adapter is None for table in tables):
        return (), None
    numbers: dict[Adapter, int] = {}
    columns = []
    for table in tables:
        own = [numbers.setdefault(adapter, len(numbers)) for adapter in table.adapters]
        known = np.asarray([*own, BASE_MODEL], dtype=np.int32)  # the last is found by -1
        none = np.full(len(table), BASE_MODEL, dtype=np.int32)
        columns.append(known[none if table.adapter is None else table.adapter])
    return tuple(numbers), np.concatenate(columns)
