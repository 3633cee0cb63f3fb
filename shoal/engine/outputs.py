"""From sampled tokens to finished choices: when a sequence ends, and what its text is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.answers.detokenize import Context, Detokenizer
from shoal.answers.stops import StopSearch
from shoal.errors import InternalError, InvalidRequestError
from shoal.sampling.results import Sampled
from shoal.types import (
    BoolArray,
    Choice,
    Completion,
    FinishReason,
    Int32Array,
    RequestParams,
    RequestTable,
    TokenLogprob,
)


@dataclass(slots=True)
class _Sequence:
    """One choice being generated."""

    request: int
    choice: int
    params: RequestParams
    limit: int
    end_ids: frozenset[int]
    """Tokens that end it."""
    reports: bool
    """Whether logprobs are asked for."""
    context: Context
    search: StopSearch | None
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stopped_at: tuple[int, int] | None = None


@dataclass(slots=True)
class _Request:
    """A request with choices under way."""

    choices: dict[int, Choice] = field(default_factory=dict)
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None


class OutputProcessor:
    """Collects the tokens of all sequences and completes requests.

    A sequence ends, in this order of precedence, by a token of `stop_token_ids` or the model's end
    of sequence unless `ignore_eos`, by a stop string, or by its length. Each request is completed
    once, by its last choice or by `fail`.
    """

    def __init__(
        self, table: RequestTable, detokenizer: Detokenizer, eos_token_ids: Sequence[int]
    ) -> None:
        self._table = table
        self._detokenizer = detokenizer
        self._eos = frozenset(eos_token_ids)
        self._sequences: dict[int, _Sequence] = {}
        self._dropped: set[int] = set()
        self._requests: dict[int, _Request] = {}
        self._done = np.zeros(len(table), dtype=np.bool_)
        self._ready: list[Completion] = []

    def add(self, sequence: int, request: int, choice: int) -> None:
        """Begin a choice of a request under a sequence id not in use."""
        if sequence in self._sequences:
            raise InternalError(f"sequence {sequence} is already being generated")
        if self._done[request]:
            self._dropped.add(sequence)
            return
        params = self._table.sampling(request)
        skip = params.skip_special_tokens
        context = self._detokenizer.context(self._table.prompt(request), skip)
        search = None
        if params.stop:
            search = StopSearch(params.stop, params.min_tokens, skip, context)
        self._requests.setdefault(request, _Request())
        eos_ids = frozenset() if params.ignore_eos else self._eos
        self._sequences[sequence] = _Sequence(
            request=request,
            choice=choice,
            params=params,
            limit=int(self._table.max_new_tokens[request]),
            end_ids=eos_ids.union(params.stop_token_ids),
            reports=params.num_logprobs is not None,
            context=context,
            search=search,
        )

    def accept(self, sequences: Int32Array, sampled: Sampled) -> BoolArray:
        """Append one token to each sequence.

        Returns:
            bool [S], whether each is finished (or belongs to a request that failed): it takes no
            more tokens.
        """
        ids = sequences.tolist()
        states = list(map(self._sequences.get, ids))
        tokens = sampled.token_ids.tolist()
        # This loop runs for every token generated: the common case does next to nothing.
        ended: list[int] = []
        searched: list[int] = []
        for row, (state, token) in enumerate(zip(states, tokens, strict=True)):
            if state is None:
                self._drop(ids[row])
                ended.append(row)
                continue
            state.ids.append(token)
            if state.reports:
                state.logprobs.append(_reported(sampled, row))
            if state.search is not None:
                searched.append(row)
            elif token in state.end_ids or len(state.ids) >= state.limit:
                ended.append(row)
        if searched:
            self._search([state for row in searched if (state := states[row]) is not None])
            ended += searched
        finished = np.zeros(len(ids), dtype=np.bool_)
        for row in sorted(ended):
            state = states[row]
            reason = _finish_reason(state) if state is not None else None
            finished[row] = state is None or reason is not None
            if state is not None and reason is not None:
                self._finish(ids[row], state, reason)
        return finished

    def set_prompt_logprobs(self, request: int, logprobs: Sequence[TokenLogprob]) -> None:
        """The logprobs of a request's prompt, one per token; `echo` shows them before the output.

        Due before the request's first choice finishes; ignored once the request is completed.
        """
        if not self._done[request]:
            self._requests.setdefault(request, _Request()).prompt_logprobs = tuple(logprobs)

    def fail(self, request: int, error: InvalidRequestError) -> None:
        """Complete a request with an error and drop its choices; does nothing if it is completed.

        Its sequences may still be accepted: their tokens are discarded.
        """
        if self._done[request]:
            return
        self._requests.pop(request, None)
        dropped = [s for s, state in self._sequences.items() if state.request == request]
        for sequence in dropped:
            del self._sequences[sequence]
        self._dropped.update(dropped)
        self._complete(request, (), error)

    def take(self) -> list[Completion]:
        """The requests completed since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def generated(self, sequence: int) -> list[int]:
        """The tokens an unfinished sequence has so far, a copy."""
        if sequence not in self._sequences:
            raise InternalError(f"sequence {sequence} is not being generated")
        return list(self._sequences[sequence].ids)

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
            windows = [search.window(state.ids) for state, search in group]
            ids, contexts = [w for w, _ in windows], [context for _, context in windows]
            texts = self._detokenizer.texts(ids, skip, contexts) if windows else []
            for (state, search), text in zip(group, texts, strict=True):
                state.stopped_at = search.advance(state.ids, text, self._detokenizer)

    def _finish(self, sequence: int, state: _Sequence, reason: FinishReason) -> None:
        del self._sequences[sequence]
        request = self._requests[state.request]
        request.choices[state.choice] = self._choice(state, reason, request.prompt_logprobs)
        if len(request.choices) == state.params.n:
            del self._requests[state.request]
            choices = tuple(request.choices[index] for index in sorted(request.choices))
            self._complete(state.request, choices, None, request.prompt_logprobs)

    def _choice(
        self,
        state: _Sequence,
        reason: FinishReason,
        prompt_logprobs: tuple[TokenLogprob, ...] | None,
    ) -> Choice:
        params = state.params
        if params.token_limit == 0:
            # A prompt alone still needs one iteration; the token that it samples is not output.
            state.ids, state.logprobs = [], []
            text, taken, stop, reason = "", 0, None, "length"
        else:
            text, taken, stop = self._text(state)
        logprobs = tuple(state.logprobs) if params.num_logprobs is not None else None
        if params.echo:
            prompt = self._table.prompt(state.request).tolist()
            before = self._detokenizer.text(prompt, params.skip_special_tokens)
            text = before[: len(before) - taken] + text
            if logprobs is not None:
                if prompt_logprobs is None:
                    raise InternalError(f"request {state.request} echoes without prompt logprobs")
                logprobs = prompt_logprobs + logprobs
        return Choice(state.choice, text, tuple(state.ids), reason, logprobs, stop)

    def _text(self, state: _Sequence) -> tuple[str, int, int | str | None]:
        """The text, how many characters the prompt's loses to it, and the `stop_reason`.

        As in vLLM a token that ends the sequence is not shown unless the request includes stops,
        whether special tokens are shown or not.
        """
        params, ids = state.params, state.ids
        include = params.include_stop_str_in_output
        by_token = ids[-1] in state.end_ids
        ended = by_token and not include
        text, taken = self._detokenizer.continued(
            ids[:-1] if ended else ids, params.skip_special_tokens, state.context
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
        prompt_logprobs: tuple[TokenLogprob, ...] | None = None,
    ) -> None:
        self._done[request] = True
        prompt_tokens = len(self._table.prompt(request))
        self._ready.append(Completion(request, prompt_tokens, choices, error, prompt_logprobs))


def _finish_reason(state: _Sequence) -> FinishReason | None:
    last = state.ids[-1]
    if last in state.end_ids or state.stopped_at is not None:
        return "stop"
    return "length" if len(state.ids) >= state.limit else None


def _reported(sampled: Sampled, row: int) -> TokenLogprob:
    logprob = sampled.logprobs[row] if sampled.logprobs else None
    if logprob is None:
        raise InternalError("a sequence that asked for logprobs was sampled without")
    return logprob
