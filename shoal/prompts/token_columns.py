"""Prompts that are token ids already: two arrays, viewed and not copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.arrow import arrow_chunks, require_pyarrow
from shoal.errors import OptionError
from shoal.prompts.length_rules import LengthRules
from shoal.prompts.refusals import empty_prompt, outside_vocabulary, wrong_value
from shoal.types import Int32Array, Int64Array, RequestParams, RequestTable

_CHUNK_TOKENS = 1 << 22


@dataclass(frozen=True)
class TokenColumns:
    """N prompts as two arrays.

    Attributes:
        tokens: int32 [total], all prompts one after another.
        offsets: int64 [N + 1]; prompt i is tokens[offsets[i]:offsets[i + 1]], never empty.
    """

    tokens: Int32Array
    offsets: Int64Array

    def __post_init__(self) -> None:
        """Check the shape, not the ids.

        Raises:
            OptionError: wrong types, or offsets that do not fit the tokens.
            InvalidRequestError: a prompt is empty; `param` names it.
        """
        for name, dtype in (("tokens", np.int32), ("offsets", np.int64)):
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != dtype:
                raise OptionError(
                    f"{name} must be a one-dimensional array of {np.dtype(dtype)}, not "
                    f"{array.ndim}-dimensional of {array.dtype}"
                )
        bounds = self.offsets[[0, -1]].tolist() if len(self.offsets) else None
        if bounds != [0, len(self.tokens)]:
            raise OptionError(f"offsets must run from 0 to the {len(self.tokens):,} tokens")
        lengths = np.diff(self.offsets)
        if len(lengths) and lengths.min() < 1:
            row = int(np.argmax(lengths < 1))
            where = f"prompts[{row}]"
            raise wrong_value(where, "ends too early") if lengths[row] else empty_prompt(where)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_arrow(cls, column: Any) -> TokenColumns:
        """View an Arrow column of lists of int32.

        One array is viewed in place; several chunks are copied together, once.

        Args:
            column: a pyarrow Array or ChunkedArray, or what offers Arrow's C interface as they do.

        Raises:
            OptionError: pyarrow is missing, or it is a column of something else.
            InvalidRequestError: a prompt is null, holds a null, or is empty; `param` names it.
        """
        types = require_pyarrow("Arrow data needs").types
        chunks = arrow_chunks(column)
        is_list = types.is_list(chunks.type) or types.is_large_list(chunks.type)
        if not is_list or not types.is_int32(chunks.type.value_type):
            raise OptionError(
                f"token ids must be of type list<int32> or large_list<int32>, not {chunks.type}"
            )
        parts: list[tuple[Int32Array, Int64Array]] = []
        row = 0
        for chunk in chunks.chunks:
            parts.append(_view(chunk, row))
            row += len(chunk)
        return cls(*_joined(parts))

    def check_vocabulary(self, vocab_size: int) -> None:
        """Read all token ids, a chunk at a time.

        Raises:
            InvalidRequestError: an id is negative or not below `vocab_size`; `param` names the
                first prompt that has one.
        """
        for begin in range(0, len(self.tokens), _CHUNK_TOKENS):
            unsigned = self.tokens[begin : begin + _CHUNK_TOKENS].view(np.uint32)
            if unsigned.max() >= vocab_size:  # a negative id is a large unsigned one
                at = begin + int(np.argmax(unsigned >= vocab_size))
                row = int(np.searchsorted(self.offsets, at, side="right")) - 1
                position, token = at - int(self.offsets[row]), int(self.tokens[at])
                raise outside_vocabulary(f"prompts[{row}]", token, position, vocab_size)

    def table(
        self, params: Sequence[RequestParams], rules: LengthRules, *, job_seed: int
    ) -> RequestTable:
        """The request table of these prompts; line i is prompt i.

        Args:
            params: one for all prompts, or one for each.
            rules: what bounds prompt and output of a request.

        Raises:
            InvalidRequestError: a prompt is too long; `param` names the first.
        """
        distinct, index = _distinct(params, len(self))
        limit, expected = _output_lengths(np.diff(self.offsets), distinct, index, rules)
        seeds = [p.seed for p in params]
        return RequestTable(
            tokens=self.tokens,
            offsets=self.offsets,
            params=distinct,
            params_index=index,
            max_new_tokens=limit,
            expected_new_tokens=expected,
            seeds=self._column([seed or 0 for seed in seeds], np.int64),
            has_seed=self._column([seed is not None for seed in seeds], np.bool_),
            line=np.arange(len(self)),
            job_seed=job_seed,
            switch=rules.switch,
        )

    def _column(self, values: list[Any], dtype: type) -> Any:
        """[N] from one value for all or one for each; one for all takes no memory."""
        return np.broadcast_to(np.array(values, dtype=dtype), (len(self),))


def _view(chunk: Any, first_row: int) -> tuple[Int32Array, Int64Array]:
    """Values and offsets (from 0) of one Arrow array of lists without nulls."""
    if chunk.null_count:
        row = int(np.argmax(chunk.is_null().to_numpy(zero_copy_only=False)))
        raise wrong_value(f"prompts[{first_row + row}]", "is null; give token ids")
    offsets = chunk.offsets.to_numpy().astype(np.int64)
    values = chunk.values.slice(offsets[0], offsets[-1] - offsets[0])
    offsets -= offsets[0]
    if values.null_count:
        at = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        row = int(np.searchsorted(offsets, at, side="right")) - 1
        raise wrong_value(
            f"prompts[{first_row + row}]", f"holds a null at position {at - offsets[row]}"
        )
    return values.to_numpy(), offsets


def _joined(parts: list[tuple[Int32Array, Int64Array]]) -> tuple[Int32Array, Int64Array]:
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0] + [len(tokens) for tokens, _ in parts])
    tokens = np.empty(before[-1], dtype=np.int32)
    offsets = [np.zeros(1, dtype=np.int64)]
    for (values, ends), at in zip(parts, before, strict=False):
        tokens[at : at + len(values)] = values
        offsets.append(ends[1:] + at)
    return tokens, np.concatenate(offsets)


def _distinct(
    params: Sequence[RequestParams], count: int
) -> tuple[list[RequestParams], Int32Array]:
    """The distinct parameters without their seeds, and each prompt's index among them."""
    number: dict[RequestParams, int] = {}
    of_object: dict[int, int] = {}
    index = np.empty(len(params), dtype=np.int32)
    for i, wanted in enumerate(params):
        if id(wanted) not in of_object:
            seedless = wanted.model_copy(update={"seed": None})
            of_object[id(wanted)] = number.setdefault(seedless, len(number))
        index[i] = of_object[id(wanted)]
    return list(number), np.broadcast_to(index, (count,))


def _output_lengths(
    prompt: Int64Array, params: list[RequestParams], index: Int32Array, rules: LengthRules
) -> tuple[Int32Array, Int32Array]:
    """Limit and expectation of each prompt's output, int32 [N]: one look-up per distinct case."""
    size = int(prompt.max(initial=0)) + 1
    case, row, inverse = np.unique(
        index * np.int64(size) + prompt, return_index=True, return_inverse=True
    )
    limit = np.empty(len(case), dtype=np.int32)
    expected = np.empty(len(case), dtype=np.int32)
    for k in np.argsort(row).tolist():  # by first occurrence: the first failure is the first row's
        of_params, tokens = divmod(int(case[k]), size)
        output = rules.output_length(tokens, params[of_params], f"prompts[{row[k]}]")
        limit[k], expected[k] = output.limit, output.expected
    return limit[inverse], expected[inverse]
