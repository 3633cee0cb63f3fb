"""From logits to tokens, for a whole batch at once.

The order of operations is vLLM's:

1. log-probabilities, from the raw logits;
2. `logit_bias`;
3. before `min_tokens` tokens: end of sequence and `stop_token_ids` made impossible;
4. what a grammar does not allow made impossible; for its rows this is step 3, too;
5. repetition penalty (prompt and output), then frequency and presence penalty (output alone);
6. greedy rows take the likeliest token, among equals the lowest id;
7. the others: temperature, min-p, top-k, top-p, and one uniform number through the inverse CDF.

Nothing advances inside: a token is a function of the logits, the sequence's parameters, key and
prompt, its output before the position, and the position. Sampling a position again repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from shoal.answers.grammar import GrammarCompiler
from shoal.errors import InternalError, InvalidLogitsError, InvalidRequestError
from shoal.kernels import Kernels
from shoal.sampling.choose import UNSOUND, Settings, choose
from shoal.sampling.grammar_rows import GrammarRows
from shoal.sampling.history import TokenHistory
from shoal.sampling.logprobs import Named, rows_per_chunk, some_logprobs
from shoal.sampling.processors import Allowed, Bias, Change, Mask, Pairs, Penalty, Put, penalties
from shoal.sampling.random import uniform
from shoal.sampling.results import Sampled
from shoal.sampling.rows import LogitRows
from shoal.slots import SlotMap
from shoal.types import BoolArray, Int32Array, Int64Array, RequestParams

_COLUMNS = {
    "key": np.uint64,
    "temperature": np.float32,
    "min_p": np.float32,
    "top_k": np.int64,
    "top_p": np.float64,
    "repetition": np.float32,
    "frequency": np.float32,
    "presence": np.float32,
    "min_tokens": np.int64,
    "num_logprobs": np.int64,
    "reported": np.bool_,
    "biased": np.bool_,
    "penalised": np.bool_,
    "guided": np.bool_,
}

Columns = Mapping[str, npt.NDArray[Any]]
"""Parameters by name, each an array of its own: a gather of records is slower than of columns."""


@dataclass(frozen=True)
class SampleTask:
    """What is to be done for S samples; columns [S].

    Attributes:
        sequences, positions: as in `TokenBatch`.
        slots, columns: where and what their parameters are.
        processed: bool, rows with logits to change before a token is chosen.
    """

    sequences: Int32Array
    positions: Int32Array
    slots: Int64Array
    columns: Columns
    settings: Settings
    processed: BoolArray

    @property
    def num_logprobs(self) -> Int64Array:
        """Alternatives each row asks for, int64 [S]; see `reported` for those that ask at all."""
        nums: Int64Array = self.columns["num_logprobs"]
        return nums

    @property
    def reported(self) -> Int64Array:
        """The rows that ask for logprobs, int64."""
        return np.flatnonzero(self.columns["reported"])


def needs_history(params: RequestParams) -> bool:
    """Whether a token depends on those before it by more than the model: penalties, a grammar."""
    return _penalised(params) or params.grammar is not None


def check_vocabulary(params: RequestParams, vocab_size: int, prefix: str = "") -> None:
    """Refuse parameters that name tokens the model does not have.

    Raises:
        InvalidRequestError: names the field as `prefix` + its name.
    """
    named = {
        "logit_bias": [token for token, _ in params.logit_bias],
        "stop_token_ids": list(params.stop_token_ids),
        "logprob_token_ids": list(params.logprob_token_ids),
    }
    for name, tokens in named.items():
        if tokens and max(tokens) >= vocab_size:
            raise InvalidRequestError(
                f"{prefix}{name}: token id {max(tokens)} is not in the model's vocabulary; "
                f"ids go from 0 to {vocab_size - 1}.",
                code="invalid_value",
                param=prefix + name,
            )


class Sampler:
    """Samples the next tokens of the sequences it knows.

    Sequences are registered with `add` and forgotten with `remove`; one that is preempted stays.
    Parameters live in columns, gathered by slot for each batch.
    """

    def __init__(
        self,
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
        kernels: Kernels | None = None,
        compiler: GrammarCompiler | None = None,
    ) -> None:
        """Know no sequence yet.

        Args:
            kernels: used where they know the logits; see `shoal.sampling.choose`.
            compiler: of the grammars that sequences have; without it none may have one.
        """
        self._vocab_size = vocab_size
        self._kernels = kernels
        # An id beyond the vocabulary cannot come out of the logits.
        self._eos = [token for token in eos_token_ids if token < vocab_size]
        self._slots = SlotMap()
        self._columns = _columns(self._slots.capacity)
        self._bias: dict[int, tuple[Int64Array, npt.NDArray[np.float32]]] = {}
        self._stops: dict[int, Int64Array] = {}
        self._named: dict[int, tuple[int, ...]] = {}
        self._history: dict[int, TokenHistory] = {}
        self._grammars = GrammarRows(compiler)

    def add(self, sequence: int, params: RequestParams, key: int, prompt: Int32Array) -> None:
        """Register a sequence.

        Args:
            sequence: any number not registered.
            params: how to sample it.
            key: its stream of random numbers, see `shoal.sampling.random.stream_key`.
            prompt: int32 token ids, within the vocabulary; not kept.

        Raises:
            InvalidRequestError: see `check_vocabulary`.
        """
        if sequence in self._slots:
            raise InternalError(f"sequence {sequence} is already registered for sampling")
        check_vocabulary(params, self._vocab_size)
        slot = self._slots.add(sequence)
        if slot >= (held := len(self._columns["key"])):
            more = _columns(self._slots.capacity - held)
            self._columns = {n: np.concatenate([c, more[n]]) for n, c in self._columns.items()}
        self._fill(slot, params, key)
        if params.logit_bias:
            tokens, values = zip(*params.logit_bias, strict=True)
            self._bias[slot] = np.array(tokens, np.int64), np.array(values, np.float32)
        if params.logprob_token_ids:
            self._named[slot] = params.logprob_token_ids
        if params.min_tokens:
            self._stops[slot] = np.array([*self._eos, *params.stop_token_ids], np.int64)
        if _penalised(params):
            counted = prompt if params.repetition_penalty != 1 else prompt[:0]
            self._history[slot] = TokenHistory(counted)
        if params.grammar is not None:
            self._grammars.add(slot, params.grammar)

    def remove(self, sequence: int) -> None:
        """Forget a registered sequence."""
        slot = int(self._slots_of(np.array([sequence]))[0])
        self._slots.remove(sequence)
        for held in (self._bias, self._stops, self._named, self._history):
            held.pop(slot, None)
        self._grammars.remove(slot)

    def __contains__(self, sequence: int) -> bool:
        """Whether a sequence is registered."""
        return sequence in self._slots

    def unknown(self, sequences: Int32Array) -> Int32Array:
        """Those of some sequences that are not registered."""
        return sequences[self._slots.find(sequences) < 0]

    def sample(self, rows: LogitRows, sequences: Int32Array, positions: Int32Array) -> Sampled:
        """Choose a token for each sequence, on the host's side: see `DeviceSampler` for the other.

        Args:
            rows: [S, vocab] logits, any float dtype and device; left unchanged.
            sequences: int32 [S], registered, each at most once.
            positions: int32 [S], how many tokens each has generated so far.

        Raises:
            InvalidLogitsError: a row's logits are not numbers; no state has changed.
        """
        if rows.shape != (len(sequences), self._vocab_size):
            raise InternalError(
                f"logits of shape {rows.shape} for {len(sequences)} sequences "
                f"and a vocabulary of {self._vocab_size}"
            )
        task = self.task(sequences, positions)
        if task.processed.any():
            token_ids = self._processed(rows, task)
        else:
            token_ids = choose(rows, task.settings, self._kernels)
        check_sound(task, token_ids)
        asked = task.reported
        named = self.named(task, asked)
        logprobs = some_logprobs(rows, asked, token_ids, task.num_logprobs, named, self._kernels)
        self.record(task, token_ids)
        return Sampled(token_ids, logprobs)

    def _processed(self, rows: LogitRows, task: SampleTask) -> Int32Array:
        """A token per row where some are processed; only rows with other changes are copied."""
        columns, positions = task.columns, task.positions
        token_ids = np.empty(len(positions), dtype=np.int32)
        held = columns["guided"] & ~(columns["biased"] | columns["penalised"])
        # The likeliest token is the answer if the grammar allows it.
        guessed = held & (columns["temperature"] == 0) & (positions >= columns["min_tokens"])
        plain = np.flatnonzero(~task.processed | guessed)
        token_ids[plain] = choose(rows.take(plain), task.settings.rows(plain), self._kernels)
        at = np.flatnonzero(guessed)
        guessed[at] = self._grammars.fits(task.slots[at], positions[at], token_ids[at])
        held_rows = np.flatnonzero(held & ~guessed)
        if len(held_rows):
            token_ids[held_rows] = choose(
                rows.take(held_rows),
                task.settings.rows(held_rows),
                self._kernels,
                allowed=self._allowed(task, held_rows, np.arange(len(held_rows))),
            )
        changed = np.flatnonzero(task.processed & ~held)
        for index in chunks_of(changed, rows_per_chunk(self._vocab_size)):
            logits = rows.take(index).tensor().to(torch.float32, copy=True).contiguous()
            for change in self.changes(task, index, partial(_moved, device=logits.device)):
                change.apply(logits)
            copied = LogitRows.whole(logits)
            token_ids[index] = choose(copied, task.settings.rows(index), self._kernels)
        return token_ids

    def task(self, sequences: Int32Array, positions: Int32Array) -> SampleTask:
        """What is to be done for registered sequences; see `sample`."""
        slots = self._slots_of(sequences)
        columns = {name: column[slots] for name, column in self._columns.items()}
        waiting = positions < columns["min_tokens"]
        processed = columns["biased"] | columns["penalised"] | columns["guided"] | waiting
        return SampleTask(
            sequences, positions, slots, columns, _settings(columns, positions), processed
        )

    def changes(self, task: SampleTask, index: Int64Array, put: Put) -> list[Change]:
        """What changes the rows at `index`, in the order it is applied in."""
        columns = {name: column[index] for name, column in task.columns.items()}
        slots, positions = task.slots[index], task.positions[index]
        found: list[Change] = []
        biased = np.flatnonzero(columns["biased"])
        if len(biased):
            held = [self._bias[slot] for slot in slots[biased].tolist()]
            pairs = Pairs.gather(biased, [tokens for tokens, _ in held], self._vocab_size)
            found.append(Bias(put(pairs.flat), put(np.concatenate([bias for _, bias in held]))))
        guided = np.flatnonzero(columns["guided"])
        waiting = np.flatnonzero((positions < columns["min_tokens"]) & ~columns["guided"])
        if len(waiting):
            stops = [self._stops[slot] for slot in slots[waiting].tolist()]
            pairs = Pairs.gather(waiting, stops, self._vocab_size)
            found.append(Mask(put(pairs.flat)))
        if len(guided):
            found.append(Allowed(partial(self._allowed, task, index, guided)))
        penalised = np.flatnonzero(columns["penalised"])
        if len(penalised):
            sampled = zip(slots[penalised].tolist(), positions[penalised].tolist(), strict=True)
            seen = [self._history[slot].at(position) for slot, position in sampled]
            pairs = Pairs.gather(penalised, [tokens for tokens, _ in seen], self._vocab_size)
            counts = np.concatenate([count for _, count in seen])
            rates = [columns[name] for name in ("repetition", "frequency", "presence")]
            factor, less = penalties(pairs, counts, *rates)
            found.append(Penalty(put(pairs.flat), put(factor), put(less)))
        return found

    def _allowed(self, task: SampleTask, index: Int64Array, guided: Int64Array) -> Int32Array:
        """What grammars allow in the rows at `index`; `guided` are those of them that have one."""
        at = index[guided]
        slots, positions = task.slots[at], task.positions[at]
        waiting = positions < task.columns["min_tokens"][at]
        nothing = np.zeros(0, dtype=np.int64)
        withheld = [
            self._stops[slot] if wait else nothing
            for slot, wait in zip(slots.tolist(), waiting.tolist(), strict=True)
        ]
        return self._grammars.masks(len(index), guided, slots, positions, withheld)

    def record(self, task: SampleTask, token_ids: Int32Array) -> None:
        """Remember the tokens where penalties or grammars need them."""
        for row in np.flatnonzero(task.columns["penalised"]).tolist():
            history = self._history[int(task.slots[row])]
            history.record(int(task.positions[row]), int(token_ids[row]))
        for row in np.flatnonzero(task.columns["guided"]).tolist():
            slot, position = int(task.slots[row]), int(task.positions[row])
            self._grammars.record(slot, position, int(token_ids[row]))

    def named(self, task: SampleTask, index: Int64Array) -> Named:
        """Tokens whose logprobs the rows at `index` name; see `shoal.sampling.logprobs`."""
        slots = task.slots[index].tolist() if self._named else ()
        named = [self._named.get(slot, ()) for slot in slots]
        return named if any(named) else ()

    def _fill(self, slot: int, params: RequestParams, key: int) -> None:
        every = self._vocab_size
        repetition, frequency, presence = _penalties(params)
        values = {
            "key": key,
            "temperature": params.temperature,
            "min_p": params.min_p,
            "top_k": params.top_k if 0 < params.top_k < every else every,
            "top_p": params.top_p,
            "repetition": repetition,
            "frequency": frequency,
            "presence": presence,
            "min_tokens": params.min_tokens,
            "num_logprobs": params.num_logprobs or 0,
            "reported": params.num_logprobs is not None,
            "biased": bool(params.logit_bias),
            "penalised": _penalised(params),
            "guided": params.grammar is not None,
        }
        for name, value in values.items():
            self._columns[name][slot] = value

    def _slots_of(self, sequences: Int32Array | Int64Array) -> Int64Array:
        slots = self._slots.find(sequences)
        if len(slots) and slots.min() < 0:
            sequence = int(sequences[np.argmin(slots)])
            raise InternalError(f"sequence {sequence} is not registered for sampling")
        return slots


def _settings(columns: Columns, positions: Int32Array) -> Settings:
    greedy = not columns["temperature"].any()
    return Settings(
        temperature=columns["temperature"],
        min_p=columns["min_p"],
        top_k=columns["top_k"],
        top_p=columns["top_p"],
        uniforms=np.zeros(len(positions)) if greedy else uniform(columns["key"], positions),
    )


def _columns(size: int) -> dict[str, npt.NDArray[Any]]:
    return {name: np.zeros(size, dtype) for name, dtype in _COLUMNS.items()}


def _penalties(params: RequestParams) -> tuple[float, float, float]:
    return params.repetition_penalty, params.frequency_penalty, params.presence_penalty


def _penalised(params: RequestParams) -> bool:
    return _penalties(params) != (1.0, 0.0, 0.0)


def chunks_of(index: Int64Array, step: int) -> list[Int64Array]:
    """`index` in pieces of at most `step`."""
    return [index[start : start + step] for start in range(0, len(index), step)]


def _moved(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array).to(device)


def check_sound(task: SampleTask, token_ids: Int32Array) -> None:
    """Raise for rows whose logits are no numbers.

    Raises:
        InvalidLogitsError: names their sequences.
    """
    unsound = token_ids == UNSOUND
    if not unsound.any():
        return
    ids = tuple(task.sequences[unsound].tolist())
    raise InvalidLogitsError(
        ids,
        f"the model gave NaN or infinite logits for {len(ids)} sequence(s); "
        "its weights may be damaged, or its dtype too narrow: try --dtype float32.",
    )
