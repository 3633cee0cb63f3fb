"""The bodies of requests that generate nothing: what they ask for, and which prompts they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from shoal.errors import InvalidRequestError
from shoal.model.pooling import Pooling, Task
from shoal.pooling import PairTexts, Scoring, check_params
from shoal.prompts.prompts import parse_prompts
from shoal.prompts.refusals import check_fields, kind_of, missing, wrong_value
from shoal.requests.pooled_fields import POOLED_FIELDS
from shoal.types import CLASSIFY_URL, EMBEDDINGS_URL, RERANK_URL, PoolingParams

_ENCODINGS = ("float", "base64")
_FIRST, _SECOND = ("queries", "text_1", "data_1"), ("documents", "text_2", "data_2", "items")


@dataclass(frozen=True)
class PooledBody:
    """What a body asks for, checked.

    Attributes:
        base64: how an embedding is written.
        first, second: the texts of a score's or rerank's pairs.
        second_name: the field that `second` came in.
        top_n: how many documents a rerank lists; 0: all.
    """

    params: PoolingParams
    base64: bool = False
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    second_name: str = ""
    top_n: int = 0


@dataclass(frozen=True)
class PooledPrompts:
    """The prompts of a body.

    Attributes:
        prompts: texts or token ids, at least one.
        places: the field that each comes from.
        special_tokens: whether the tokenizer adds its own to texts.
    """

    prompts: tuple[str | list[int], ...]
    places: tuple[str, ...]
    special_tokens: bool


class PooledBodies:
    """Reads bodies for one model.

    Args:
        vocab_size: token ids must be below it.
    """

    def __init__(
        self, pooling: Pooling, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int
    ) -> None:
        self.pooling = pooling
        self.scoring = Scoring(pooling, PairTexts(tokenizer, pooling))
        self._vocab_size = vocab_size

    def read(self, url: str, given: Mapping[str, Any]) -> PooledBody:
        """A body without its nulls, `model` checked already.

        Raises:
            InvalidRequestError: names the first field that is wrong.
        """
        self._check_kind(url)
        check_fields(given, POOLED_FIELDS[url], "body.")
        params = PoolingParams(given.get("use_activation"), given.get("dimensions"))
        check_params(params, self.pooling, "body.")
        if url in (EMBEDDINGS_URL, CLASSIFY_URL):
            encoding = given.get("encoding_format", "float")
            if encoding not in _ENCODINGS:
                raise wrong_value("body.encoding_format", 'must be "float" or "base64"')
            return PooledBody(params, base64=encoding == "base64")
        return self._pairs(url, given, params)

    def prompts(self, url: str, given: Mapping[str, Any], body: PooledBody) -> PooledPrompts:
        """The prompts that a body takes.

        Raises:
            InvalidRequestError: names the text that is wrong.
        """
        if not body.second:
            return self._inputs(given)
        kwargs = dict(given.get("chat_template_kwargs", {}))
        if "instruction" in given:
            kwargs.setdefault("instruction", given["instruction"])
        where = f"body.{body.second_name}"
        try:
            prompts = self.scoring.prompts(body.first, body.second, kwargs, where)
        except ValueError as error:
            counts = f"{len(body.first)} and {len(body.second)}"
            raise wrong_value(where, f"and queries are {counts}: {error}") from None
        places = [f"{where}[{i}]" for i in range(len(body.second))]
        if self.pooling.task is Task.embed:
            queries = "query" if url == RERANK_URL else _name_of(given, _FIRST)
            places = [f"body.{queries}[{i}]" for i in range(len(body.first))] + places
        return PooledPrompts(tuple(prompts), tuple(places), self.scoring.special_tokens)

    def _inputs(self, given: Mapping[str, Any]) -> PooledPrompts:
        prompts = parse_prompts(given.get("input"), self._vocab_size, "body.input")
        several = len(prompts) > 1
        places = [f"body.input[{i}]" if several else "body.input" for i in range(len(prompts))]
        return PooledPrompts(prompts, tuple(places), True)

    def _check_kind(self, url: str) -> None:
        """Refuse an endpoint that the model of this job does not serve."""
        why = None
        if url == EMBEDDINGS_URL and self.pooling.task is not Task.embed:
            why = "this job gives scores or classes; put lines for embeddings into another file"
        elif url == CLASSIFY_URL and self.pooling.task is not Task.classify:
            why = "this job gives embeddings; put lines for classes into another file"
        elif url not in (EMBEDDINGS_URL, CLASSIFY_URL):
            self.scoring.check("url")
            if self.pooling.task is Task.embed and not self.pooling.declared:
                why = (
                    "this job gives embeddings, and nothing in the model's folder says that they "
                    "are to be compared; put lines for scores into another file"
                )
        if why is not None:
            raise InvalidRequestError(f"url {url}: {why}.", code="invalid_url", param="url")

    def _pairs(self, url: str, given: Mapping[str, Any], params: PoolingParams) -> PooledBody:
        name = "documents" if url == RERANK_URL else _name_of(given, _SECOND)
        second = _texts(given.get(name), f"body.{name}")
        top_n = given.get("top_n", 0)
        if type(top_n) is not int or top_n < 0:
            raise wrong_value("body.top_n", "must be a whole number of at least 0")
        if url == RERANK_URL:
            query = given.get("query")
            if not isinstance(query, str):
                raise missing("body.query") if query is None else _no_text("body.query", query)
            return PooledBody(params, first=(query,), second=second, second_name=name, top_n=top_n)
        of_first = _name_of(given, _FIRST)
        first = _texts(given.get(of_first), f"body.{of_first}")
        return PooledBody(params, first=first, second=second, second_name=name)


def _name_of(given: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The name under which a body gives something that has several."""
    found = [name for name in names if name in given]
    if len(found) > 1:
        raise wrong_value(f"body.{found[1]}", f"is another name of {found[0]}; give one of them")
    return found[0] if found else names[0]


def _texts(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        raise missing(where)
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise wrong_value(where, "is empty; give at least one text")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise _no_text(f"{where}[{i}]" if isinstance(value, list) else where, text)
    return tuple(texts)


def _no_text(where: str, value: object) -> InvalidRequestError:
    return wrong_value(where, f"must be a text, not {kind_of(value)}")
