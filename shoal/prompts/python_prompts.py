"""Prompts as Python programs have them: lists, NumPy arrays, pandas and Arrow columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shoal.arrow import arrow_chunks, has_pyarrow, is_arrow
from shoal.errors import InvalidRequestError, OptionError
from shoal.prompts.length_rules import LengthRules, OutputLength
from shoal.prompts.refusals import empty_prompt, outside_vocabulary, wrong_value
from shoal.prompts.render import Renderer
from shoal.prompts.table_builder import TableBuilder
from shoal.prompts.token_columns import TokenColumns
from shoal.types import Completion, RequestParams, RequestTable

_OF_TABLES = ("columns", "column_names")
"""What tables of pandas, polars, Arrow and datasets have, and their columns have not."""

CheckedPrompt = str | Sequence[int] | InvalidRequestError
"""What a prompt turned out to be: text, token ids, or wrong."""


def prompts_of(prompts: Any) -> TokenColumns | list[Any]:
    """All prompts; columns of token ids are viewed, others become a list of their values.

    A text, a mapping or a list of whole numbers is one prompt.

    Raises:
        OptionError: no prompts, a whole table, or an Arrow column of neither text nor token ids.
    """
    if any(hasattr(type(prompts), name) for name in _OF_TABLES):
        raise OptionError(
            f"prompts are a whole {type(prompts).__name__}: give one of its columns, as in "
            'llm.generate(df["prompt"]).'
        )
    if isinstance(prompts, TokenColumns):
        return prompts
    if isinstance(prompts, str | Mapping) or _is_token_ids(prompts):
        return [prompts]
    if is_arrow(prompts) and has_pyarrow():
        return _of_arrow(prompts)
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise OptionError(f"prompts must be text or token ids, or a list, not {prompts!r:.80}.")
    return list(prompts)


def _is_token_ids(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.size > 0 and value.dtype.kind in "iu"
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(token, int | np.integer) for token in value)


def text_of(prompt: Any) -> str | None:
    """The text of a prompt, if it came with one."""
    text = prompt.get("prompt") if isinstance(prompt, Mapping) else prompt
    return str(text) if isinstance(text, str) else None


def _of_arrow(column: Any) -> TokenColumns | list[Any]:
    import pyarrow.types as types
    from pyarrow import ArrowException

    try:
        chunks = arrow_chunks(column)
    except ArrowException:  # values of several kinds, which are Python's own
        return list(column)
    kind = chunks.type.value_type if types.is_dictionary(chunks.type) else chunks.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        values: list[Any] = chunks.to_pylist()
        return values
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not lists or not types.is_integer(kind.value_type):
        raise OptionError(f"an Arrow column of prompts must hold text or token ids, not {kind}.")
    try:
        if types.is_int32(kind.value_type) and not types.is_fixed_size_list(kind):
            return TokenColumns.from_arrow(chunks)
    except InvalidRequestError:
        pass  # a row is null or empty: its prompt is refused, the others are run
    values = chunks.to_pylist()
    return values


def checked_prompt(prompt: Any, where: str) -> CheckedPrompt:
    """A prompt's text, its token ids, or the error of one that is missing (None, NaN) or empty.

    Args:
        where: names the prompt in errors.

    Raises:
        OptionError: it is neither text nor token ids, or a mapping that holds something else.
    """
    if isinstance(prompt, Mapping):
        prompt = _of_mapping(prompt, where)
    if isinstance(prompt, str):
        return prompt or empty_prompt(where)
    if prompt is None or (isinstance(prompt, float) and np.isnan(prompt)):
        return wrong_value(where, "is missing")
    try:
        ids = np.asarray(prompt)
    except ValueError:  # lists of unequal lengths
        ids = np.zeros((0, 0))
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise OptionError(f"{where} must be text or a list of token ids, not {prompt!r:.80}.")
    found: list[int] = ids.tolist()
    return found or empty_prompt(where)


def _of_mapping(prompt: Mapping[str, Any], where: str) -> Any:
    """The token ids of a `TokensPrompt`, the text of a `TextPrompt`."""
    for name, value in prompt.items():
        known = name in ("prompt", "prompt_token_ids", "cache_salt")
        if not known and value is not None and value != {}:
            raise OptionError(f"{where}: {name} is not supported; give text or token ids.")
    ids = prompt.get("prompt_token_ids")
    return prompt.get("prompt") if ids is None else ids


class PromptReader:
    """Makes request tables of the prompts of one call.

    Args:
        name: of the prompts in errors, such as "prompts" or "messages".
        job_seed: see `RequestTable`.
        special_tokens: whether the tokenizer adds its own. A chat template writes them itself.
        padding: see `TableBuilder`.
    """

    def __init__(
        self,
        renderer: Renderer,
        vocab_size: int,
        name: str,
        job_seed: int,
        *,
        special_tokens: bool,
        padding: int | None = None,
    ) -> None:
        self._renderer, self._vocab_size = renderer, vocab_size
        self._name, self._job_seed = name, job_seed
        self._special_tokens, self._padding = special_tokens, padding

    def table(
        self,
        prompts: Sequence[CheckedPrompt],
        params: Sequence[RequestParams],
        rules: LengthRules,
    ) -> tuple[RequestTable, dict[int, Completion]]:
        """The requests, line i of prompt i, and the completions of those that are wrong.

        Args:
            params: one for all prompts, or one for each.
        """
        builder = TableBuilder(self._padding)
        refused: dict[int, Completion] = {}
        keys: dict[int, bytes] = {}
        for index, ids in enumerate(self._tokenised(prompts)):
            wanted = params[index if len(params) > 1 else 0]
            try:
                if isinstance(ids, InvalidRequestError):
                    raise ids
                length = self._length(ids, wanted, rules, f"{self._name}[{index}]")
            except InvalidRequestError as error:
                tokens = 0 if isinstance(ids, InvalidRequestError) else len(ids)
                refused[index] = Completion(index, tokens, (), error)
                continue
            if id(wanted) not in keys:
                seedless = wanted.model_copy(update={"seed": None})
                keys[id(wanted)] = seedless.model_dump_json().encode()
            builder.add(index, ids, wanted, keys[id(wanted)], wanted.seed, length)
        nothing = np.zeros(0, dtype=np.int64)
        table = builder.build(job_seed=self._job_seed, without_lines=nothing, switch=rules.switch)
        return table, refused

    def _length(
        self, ids: Sequence[int], wanted: RequestParams, rules: LengthRules, where: str
    ) -> OutputLength:
        if ids and (min(ids) < 0 or max(ids) >= self._vocab_size):
            position = next(i for i, t in enumerate(ids) if not 0 <= t < self._vocab_size)
            raise outside_vocabulary(where, ids[position], position, self._vocab_size)
        return rules.output_length(len(ids), wanted, where)

    def _tokenised(
        self, prompts: Sequence[CheckedPrompt]
    ) -> Iterator[Sequence[int] | InvalidRequestError]:
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        special = self._special_tokens
        encoded = iter(self._renderer.tokenize(texts, add_special_tokens=special))
        for index, prompt in enumerate(prompts):
            ids = next(encoded) if isinstance(prompt, str) else prompt
            if isinstance(prompt, str) and isinstance(ids, InvalidRequestError):
                ids = renamed(ids, f"{self._name}[{index}]")
            yield ids


def renamed(error: InvalidRequestError, where: str) -> InvalidRequestError:
    """The same error of a prompt that is in no file."""
    return InvalidRequestError(f"{where}: {error.message}", code=error.code, param=where)
