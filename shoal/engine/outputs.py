"""From sampled tokens to finished choices: when a sequence ends, and what its text is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.answers.detokenize import Context, Detokenizer
from shoal.answers.stops import StopSearch
from shoal.errors import InternalError, InvalidRequestError
from shoal.sampling.results import Sampled
from shoal.scheduler import GeneratedTokens
from shoal.slots import SlotMap
from shoal.types import (
    BoolArray,
    Choice,
    Completion,
    FinishReason,
    Int32Array,
    Int64Array,
    RequestParams,
    RequestTable,
    TokenLogprob,
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What all choices of a request have in common."""

    params: RequestParams
    limit: int
    end_ids: frozenset[int]
    """Tokens that end them."""
    reports: bool
    """Whether logprobs are asked for."""
    context: Context


@dataclass(slots=True)
class _Sequence:
    """One choice being generated."""

    request: int
    choice: int
    asked: _Asked
    search: StopSearch | None
    searched: list[int] = field(default_factory=list)
    """Its tokens, where stop strings are searched for: those are read at every one."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stopped_at: tuple[int, int] | None = None


@dataclass(slots=True)
class _Request:
    """A request with choices under way."""

    choices: dict[int, Choice] = field(default_factory=dict)
    prompt_logprobs: Sequence[TokenLogprob] | None = None


class OutputProcessor:
    """Collects the tokens of all sequences and completes requests.

    A sequence ends, in this order of precedence, by a token of `stop_token_ids` or the model's end
    of sequence unless `ignore_eos`, by a stop string, or by its length. One that is to generate
    nothing ends by `complete`. Each request is completed once, by its last choice or by `fail`.
    """

    def __init__(
        self, table: RequestTable, detokenizer: Detokenizer, eos_token_ids: Sequence[int]
    ) -> None:
        self._table = table
        self._detokenizer = detokenizer
        self._eos = frozenset(eos_token_ids)
        self._sequences: dict[int, _Sequence] = {}
        self._answers = GeneratedTokens()
        self._slots = SlotMap()
        self._limit: Int64Array = np.zeros(self._slots.capacity, dtype=np.int64)
        """Tokens after which a slot must be looked at; 0: after each."""
        self._end_ids: Int64Array = np.zeros(0, dtype=np.int64)
        """Tokens that end some sequence, sorted; and the same as a set."""
        self._known_end_ids: set[int] = set()
        self._dropped: set[int] = set()
        self._requests: dict[int, _Request] = {}
        self._asked: dict[int, _Asked] = {}
        """Of requests with a choice that has begun, and not completed."""
        self._done = np.zeros(len(table), dtype=np.bool_)
        self._ready: list[Completion] = []

    def add(self, sequence: int, request: int, choice: int) -> None:
        """Begin a choice of a request under a sequence id not in use."""
        if sequence in self._sequences:
            raise InternalError(f"sequence {sequence} is already being generated")
        if self._done[request]:
            self._dropped.add(sequence)
            return
        asked = self._asked.get(request)
        if asked is None:
            asked = self._asked[request] = self._asked_by(request)
            self._requests.setdefault(request, _Request())
        params, search = asked.params, None
        if params.stop:
            skip = params.skip_special_tokens
            search = StopSearch(params.stop, params.min_tokens, skip, asked.context)
        self._sequences[sequence] = _Sequence(request, choice, asked, search)
        slot = self._slots.add(sequence)
        if slot >= len(self._limit):
            more = np.zeros(self._slots.capacity - len(self._limit), dtype=np.int64)
            self._limit = np.concatenate([self._limit, more])
        self._limit[slot] = 0 if asked.reports or search is not None else asked.limit

    def _asked_by(self, request: int) -> _Asked:
        params = self._table.sampling(request)
        eos_ids = frozenset() if params.ignore_eos else self._eos
        end_ids = eos_ids.union(params.stop_token_ids)
        if not end_ids.issubset(self._known_end_ids):
            self._known_end_ids |= end_ids
            self._end_ids = np.array(sorted(self._known_end_ids), dtype=np.int64)
        return _Asked(
            params=params,
            limit=int(self._table.max_new_tokens[request]),
            end_ids=end_ids,
            reports=params.num_logprobs is not None,
            context=self._detokenizer.context(
                self._table.prompt(request), params.skip_special_tokens
            ),
        )

    def unknown(self, sequences: Int32Array) -> list[int]:
        """Those of some sequences that were not added, or have ended."""
        missing = sequences[self._slots.find(sequences) < 0].tolist()
        return [sequence for sequence in missing if sequence not in self._dropped]

    def accept(self, sequences: Int32Array, sampled: Sampled) -> BoolArray:
        """Append one token to each sequence.

        Returns:
            bool [S], whether each is finished (or belongs to a request that failed): it takes no
            more tokens.
        """
        slots, tokens = self._slots.find(sequences), sampled.token_ids
        known = np.flatnonzero(slots >= 0)
        counts = np.zeros(len(slots), dtype=np.int64)
        counts[known] = self._answers.append(sequences[known], tokens[known])
        # Most tokens of an iteration end nothing, and are not looked at one by one.
        due = (counts >= self._limit[slots]) | (slots < 0) | np.isin(tokens, self._end_ids)
        finished = np.zeros(len(slots), dtype=np.bool_)
        rows = np.flatnonzero(due)
        states = self._looked_at(rows, sequences[rows].tolist(), sampled)
        for row, state in zip(rows.tolist(), states, strict=True):
            if state is None:
                finished[row] = True
                continue
            reason = _finish_reason(state, int(tokens[row]), int(counts[row]))
            if reason is not None:
                finished[row] = True
                self._finish(int(sequences[row]), state, reason)
        return finished

    def _looked_at(
        self, rows: Int64Array, sequences: list[int], sampled: Sampled
    ) -> list[_Sequence | None]:
        """The state of sequences, after their logprobs and stop strings; None: it was dropped."""
        states = list(map(self._sequences.get, sequences))
        searched: list[_Sequence] = []
        for row, sequence, state in zip(rows.tolist(), sequences, states, strict=True):
            if state is None:
                self._drop(sequence)
                continue
            if state.asked.reports:
                state.logprobs.append(_reported(sampled, row))
            if state.search is not None:
                state.searched.append(int(sampled.token_ids[row]))
                searched.append(state)
        if searched:
            self._search(searched)
        return states

    def set_prompt_logprobs(self, request: int, logprobs: Sequence[TokenLogprob]) -> None:
        """The logprobs of a request's prompt, one per token; `echo` shows them before the output.

        Due before the request's first choice finishes; ignored once the request is completed.
        """
        if not self._done[request]:
            self._requests.setdefault(request, _Request()).prompt_logprobs = logprobs

    def has_prompt_logprobs(self, request: int) -> bool:
        """Whether they are set, of a request that is not completed."""
        state = self._requests.get(request)
        return state is not None and state.prompt_logprobs is not None

    def complete(self, sequences: Int32Array) -> None:
        """Finish sequences that were to generate nothing."""
        for sequence in sequences.tolist():
            state = self._sequences.get(sequence)
            if state is None:
                self._drop(sequence)
            else:
                self._finish(sequence, state, "length")

    def fail(self, request: int, error: InvalidRequestError) -> None:
        """Complete a request with an error and drop its choices; does nothing if it is completed.

        Its sequences may still be accepted: their tokens are discarded.
        """
        if self._done[request]:
            return
        self._requests.pop(request, None)
        begun = self._sequences.items() if request in self._asked else ()
        dropped = [sequence for sequence, state in begun if state.request == request]
        for sequence in dropped:
            self._forget(sequence)
        self._dropped.update(dropped)
        self._complete(request, (), error)

    def unfinished(self, requests: Int64Array) -> Int64Array:
        """Those of some requests that are not completed."""
        return requests[~self._done[requests]]

    def take(self) -> list[Completion]:
        """The requests completed since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def generated(self, sequence: int) -> list[int]:
        """The tokens an unfinished sequence has so far, a copy."""
        if sequence not in self._sequences:
            raise InternalError(f"sequence {sequence} is not being generated")
        tokens: list[int] = self._answers.tokens(sequence).tolist()
        return tokens

    def _forget(self, sequence: int) -> None:
        del self._sequences[sequence]
        self._slots.remove(sequence)
        self._answers.forget(sequence)

    def _drop(self, sequence: int) -> None:
        if sequence not in self._dropped:
            raise InternalError(f"a token came for sequence {sequence}, which is not known")
        self._dropped.remove(sequence)

    def _search(self, states: list[_Sequence]) -> None:
        """Look for stop strings, decoding all windows of a kind together."""
        for skip in (True, False):
            group = [
                (state, state.search)
                for state in states
                if state.search and state.search.skip_special_tokens == skip
            ]
            windows = [search.window(state.searched) for state, search in group]
            ids, contexts = [w for w, _ in windows], [context for _, context in windows]
            texts = self._detokenizer.texts(ids, skip, contexts) if windows else []
            for (state, search), text in zip(group, texts, strict=True):
                state.stopped_at = search.advance(state.searched, text, self._detokenizer)

    def _finish(self, sequence: int, state: _Sequence, reason: FinishReason) -> None:
        ids: list[int] = self._answers.tokens(sequence).tolist()
        self._forget(sequence)
        request = self._requests[state.request]
        request.choices[state.choice] = self._choice(state, ids, reason, request.prompt_logprobs)
        if len(request.choices) == state.asked.params.n:
            del self._requests[state.request]
            choices = tuple(request.choices[index] for index in sorted(request.choices))
            self._complete(state.request, choices, None, request.prompt_logprobs)

    def _choice(
        self,
        state: _Sequence,
        ids: list[int],
        reason: FinishReason,
        prompt_logprobs: Sequence[TokenLogprob] | None,
    ) -> Choice:
        params = state.asked.params
        text, taken, stop = self._text(state, ids) if ids else ("", 0, None)
        logprobs = tuple(state.logprobs) if params.num_logprobs is not None else None
        if params.echo:
            prompt = self._table.prompt(state.request).tolist()
            before = self._detokenizer.text(prompt, params.skip_special_tokens)
            text = before[: len(before) - taken] + text
            if logprobs is not None:
                if prompt_logprobs is None:
                    raise InternalError(f"request {state.request} echoes without prompt logprobs")
                logprobs = (*prompt_logprobs, *logprobs)
        return Choice(state.choice, text, tuple(ids), reason, logprobs, stop)

    def _text(self, state: _Sequence, ids: list[int]) -> tuple[str, int, int | str | None]:
        """The text, how many characters the prompt's loses to it, and the `stop_reason`.

        As in vLLM a token that ends the sequence is not shown unless the request includes stops,
        whether special tokens are shown or not.
        """
        params = state.asked.params
        include = params.include_stop_str_in_output
        by_token = ids[-1] in state.asked.end_ids
        ended = by_token and not include
        text, taken = self._detokenizer.continued(
            ids[:-1] if ended else ids, params.skip_special_tokens, state.asked.context
        )
        stop: int | str | None = None
        if by_token:
            eos = not params.ignore_eos and ids[-1] in self._eos
            stop = None if eos else ids[-1]
        if state.stopped_at is not None and not ended:
            begin, end = state.stopped_at
            stop = stop if by_token else text[begin:end]
            text = text[: end if include else begin]
        return text, taken, stop

    def _complete(
        self,
        request: int,
        choices: tuple[Choice, ...],
        error: InvalidRequestError | None,
        prompt_logprobs: Sequence[TokenLogprob] | None = None,
    ) -> None:
        self._done[request] = True
        self._asked.pop(request, None)
        prompt_tokens = len(self._table.prompt(request))
        self._ready.append(Completion(request, prompt_tokens, choices, error, prompt_logprobs))


def _finish_reason(state: _Sequence, last: int, count: int) -> FinishReason | None:
    if last in state.asked.end_ids or state.stopped_at is not None:
        return "stop"
    return "length" if count >= state.asked.limit else None


def _reported(sampled: Sampled, row: int) -> TokenLogprob:
    logprob = sampled.logprobs[row] if sampled.logprobs else None
    if logprob is None:
        raise InternalError("a sequence that asked for logprobs was sampled without")
    return logprob
