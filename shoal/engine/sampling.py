"""From logits to tokens, for a whole batch at once.

The order of operations is vLLM's:

1. log-probabilities, from the raw logits;
2. `logit_bias`;
3. before `min_tokens` tokens: end of sequence and `stop_token_ids` made impossible;
4. repetition penalty (prompt and output), then frequency and presence penalty (output alone);
5. greedy rows take the likeliest token, among equals the lowest id;
6. the others: temperature, min-p, top-k, top-p, and one uniform number through the inverse CDF.

Nothing advances inside: a token is a function of the logits, the sequence's parameters, key and
prompt, its output before the position, and the position. Sampling a position again repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shoal.engine.choose import UNSOUND, Settings, choose
from shoal.engine.history import TokenHistory
from shoal.engine.logprobs import rows_per_chunk, token_logprobs
from shoal.engine.processors import Pairs, add_bias, mask, penalise
from shoal.engine.random import uniform
from shoal.engine.rows import LogitRows
from shoal.errors import InternalError, InvalidLogitsError, InvalidRequestError
from shoal.kernels import Kernels
from shoal.types import Int32Array, Int64Array, SamplingParams, TokenLogprob

_COLUMNS = np.dtype(
    [
        ("key", np.uint64),
        ("temperature", np.float32),
        ("min_p", np.float32),
        ("top_k", np.int64),
        ("top_p", np.float64),
        ("repetition", np.float32),
        ("frequency", np.float32),
        ("presence", np.float32),
        ("min_tokens", np.int64),
        ("num_logprobs", np.int64),
        ("biased", np.bool_),
        ("penalised", np.bool_),
    ]
)
_NO_LOGPROBS = -1

Columns = npt.NDArray[np.void]


@dataclass(frozen=True)
class Sampled:
    """The tokens of one iteration.

    Attributes:
        token_ids: int32 [S].
        logprobs: [S], None where the sequence did not ask; empty when none did.
    """

    token_ids: Int32Array
    logprobs: Sequence[TokenLogprob | None] = ()


def check_vocabulary(params: SamplingParams, vocab_size: int, prefix: str = "") -> None:
    """Refuse parameters that name tokens the model does not have.

    Raises:
        InvalidRequestError: names the field as `prefix` + its name.
    """
    named = {
        "logit_bias": [token for token, _ in params.logit_bias],
        "stop_token_ids": list(params.stop_token_ids),
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
        self, vocab_size: int, eos_token_ids: tuple[int, ...], kernels: Kernels | None = None
    ) -> None:
        """`kernels`: used where they know the logits; see `shoal.engine.choose`."""
        self._vocab_size = vocab_size
        self._kernels = kernels
        # An id beyond the vocabulary cannot come out of the logits.
        self._eos = [token for token in eos_token_ids if token < vocab_size]
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._columns: Columns = np.zeros(0, dtype=_COLUMNS)
        self._bias: dict[int, tuple[Int64Array, npt.NDArray[np.float32]]] = {}
        self._stops: dict[int, Int64Array] = {}
        self._history: dict[int, TokenHistory] = {}

    def add(self, sequence: int, params: SamplingParams, key: int, prompt: Int32Array) -> None:
        """Register a sequence.

        Args:
            sequence: any number not registered.
            params: how to sample it.
            key: its stream of random numbers, see `shoal.engine.random.stream_key`.
            prompt: int32 token ids, within the vocabulary; not kept.

        Raises:
            InvalidRequestError: see `check_vocabulary`.
        """
        if sequence in self._slots:
            raise InternalError(f"sequence {sequence} is already registered for sampling")
        check_vocabulary(params, self._vocab_size)
        slot = self._take_slot()
        self._slots[sequence] = slot
        self._fill(self._columns[slot], params, key)
        if params.logit_bias:
            tokens, values = zip(*params.logit_bias, strict=True)
            self._bias[slot] = np.array(tokens, np.int64), np.array(values, np.float32)
        if params.min_tokens:
            self._stops[slot] = np.array([*self._eos, *params.stop_token_ids], np.int64)
        if self._columns[slot]["penalised"]:
            counted = prompt if params.repetition_penalty != 1 else prompt[:0]
            self._history[slot] = TokenHistory(counted)

    def remove(self, sequence: int) -> None:
        """Forget a registered sequence."""
        slot = self._slots_of([sequence])[0]
        del self._slots[sequence]
        for held in (self._bias, self._stops, self._history):
            held.pop(slot, None)
        self._free.append(slot)

    def sample(self, rows: LogitRows, sequences: Int32Array, positions: Int32Array) -> Sampled:
        """Choose a token for each sequence.

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
        slots = np.array(self._slots_of(sequences.tolist()), dtype=np.int64)
        columns = self._columns[slots]
        settings = _settings(columns, positions)
        processed = self._processed(columns, positions)
        if processed.any():
            token_ids = np.empty(len(slots), dtype=np.int32)
            plain = np.flatnonzero(~processed)
            token_ids[plain] = choose(rows.take(plain), settings.rows(plain), self._kernels)
            for index in _chunks(np.flatnonzero(processed), rows_per_chunk(self._vocab_size)):
                changed = self._changed(rows.take(index), slots[index], positions[index])
                token_ids[index] = choose(changed, settings.rows(index), self._kernels)
        else:
            token_ids = choose(rows, settings, self._kernels)
        unsound = token_ids == UNSOUND
        if unsound.any():
            raise _invalid(sequences[unsound])
        logprobs = _logprobs(rows, token_ids, columns["num_logprobs"])
        for row in np.flatnonzero(columns["penalised"]).tolist():
            self._history[int(slots[row])].record(int(positions[row]), int(token_ids[row]))
        return Sampled(token_ids, logprobs)

    def _processed(self, columns: Columns, positions: Int32Array) -> npt.NDArray[np.bool_]:
        """Which rows have logits to change before the likeliest token is taken."""
        waiting = positions < columns["min_tokens"]
        return np.asarray(columns["biased"] | columns["penalised"] | waiting)

    def _changed(self, rows: LogitRows, slots: Int64Array, positions: Int32Array) -> LogitRows:
        """A float32 copy of the rows with bias, masks and penalties."""
        logits = rows.tensor().to(torch.float32, copy=True).contiguous()
        columns = self._columns[slots]
        biased = np.flatnonzero(columns["biased"])
        if len(biased):
            found = [self._bias[slot] for slot in slots[biased].tolist()]
            pairs = Pairs.gather(biased, [tokens for tokens, _ in found], self._vocab_size)
            add_bias(logits, pairs, np.concatenate([bias for _, bias in found]))
        waiting = np.flatnonzero(positions < columns["min_tokens"])
        if len(waiting):
            stops = [self._stops[slot] for slot in slots[waiting].tolist()]
            mask(logits, Pairs.gather(waiting, stops, self._vocab_size))
        penalised = np.flatnonzero(columns["penalised"])
        if len(penalised):
            places = zip(slots[penalised].tolist(), positions[penalised].tolist(), strict=True)
            seen = [self._history[slot].at(position) for slot, position in places]
            pairs = Pairs.gather(penalised, [tokens for tokens, _ in seen], self._vocab_size)
            counts = np.concatenate([count for _, count in seen])
            penalties = [columns[name] for name in ("repetition", "frequency", "presence")]
            penalise(logits, pairs, counts, *penalties)
        return LogitRows.whole(logits)

    def _fill(self, row: np.void, params: SamplingParams, key: int) -> None:
        penalties = (
            params.repetition_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
        row["key"] = key
        row["temperature"] = params.temperature
        row["min_p"] = params.min_p
        row["top_k"] = params.top_k if 0 < params.top_k < self._vocab_size else self._vocab_size
        row["top_p"] = params.top_p
        row["repetition"], row["frequency"], row["presence"] = penalties
        row["min_tokens"] = params.min_tokens
        asked = params.num_logprobs
        row["num_logprobs"] = _NO_LOGPROBS if asked is None else asked
        row["biased"] = bool(params.logit_bias)
        row["penalised"] = penalties != (1.0, 0.0, 0.0)

    def _slots_of(self, sequences: list[int]) -> list[int]:
        try:
            return [self._slots[sequence] for sequence in sequences]
        except KeyError as error:
            raise InternalError(f"sequence {error} is not registered for sampling") from None

    def _take_slot(self) -> int:
        if not self._free:
            held = len(self._columns)
            room = max(64, held)
            self._columns = np.concatenate([self._columns, np.zeros(room, dtype=_COLUMNS)])
            self._free = list(range(held + room - 1, held - 1, -1))
        return self._free.pop()


def _settings(columns: Columns, positions: Int32Array) -> Settings:
    greedy = not columns["temperature"].any()
    # A view into a column has the stride of a whole record: hence the copies.
    return Settings(
        temperature=columns["temperature"].copy(),
        min_p=columns["min_p"].copy(),
        top_k=columns["top_k"].copy(),
        top_p=columns["top_p"].copy(),
        uniforms=np.zeros(len(columns)) if greedy else uniform(columns["key"], positions),
    )


def _chunks(index: Int64Array, step: int) -> list[Int64Array]:
    return [index[start : start + step] for start in range(0, len(index), step)]


def _logprobs(
    rows: LogitRows, token_ids: Int32Array, nums: Int64Array
) -> list[TokenLogprob | None]:
    asked = np.flatnonzero(nums != _NO_LOGPROBS)
    if not len(asked):
        return []
    found: list[TokenLogprob | None] = [None] * len(nums)
    logits = rows.take(asked).tensor()
    for row, logprob in zip(
        asked.tolist(), token_logprobs(logits, token_ids[asked], nums[asked]), strict=True
    ):
        found[row] = logprob
    return found


def _invalid(sequences: Int32Array) -> InvalidLogitsError:
    ids = tuple(sequences.tolist())
    return InvalidLogitsError(
        ids,
        f"the model gave NaN or infinite logits for {len(ids)} sequence(s); "
        "its weights may be damaged, or its dtype too narrow: try --dtype float32.",
    )
