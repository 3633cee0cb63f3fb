"""From a batch file to the columns the engine runs, streaming: read, check, render, tokenise."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from shoal.answers.answer_format import AnswerFormat
from shoal.answers.choice_scores import requests_of
from shoal.answers.grammar import grammar_compiler
from shoal.answers.structure import Structure
from shoal.disk import ContentDigest
from shoal.errors import InvalidRequestError
from shoal.model.description import ModelDescription
from shoal.prompts.choices import ChoiceTokenizer, ContextTokens, ContextToScore
from shoal.prompts.length_rules import LengthRules, OutputLength
from shoal.prompts.render import Renderer, TokenIds
from shoal.prompts.table_builder import TableBuilder
from shoal.requests.index import LineIndex
from shoal.requests.lines import LineReader, RawLine, open_input
from shoal.requests.parsed_request import ParsedRequest
from shoal.requests.pooled_bodies import PooledBodies
from shoal.requests.scored_choices import AskedChoices
from shoal.requests.validate import Validator, custom_id_of, decode_line
from shoal.types import RequestParams, RequestTable

_BATCH_REQUESTS = 512
_BATCH_CHARACTERS = 2**19
"""A batch for the tokenizer: enough work for all cores, and a few tens of MB of its results."""
_BATCHES_AHEAD = 2

_log = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Told now and then how many lines were read."""

Note = Callable[[int, Mapping[str, Any]], None]
"""Told a line's number from 0 and what it says, once it is known to be right."""

Reject = Callable[[int, str | None, InvalidRequestError], None]
"""Takes a bad line: its number from 0, its custom_id if it has one, and what is wrong."""


@dataclass(frozen=True)
class JobInput:
    """A batch file, read.

    Attributes:
        table: the requests to run, in input order; `line` counts from 0. A line with several
            prompts is several requests.
        index: finds a line's name again. The caller closes it.
        rejected: lines handed to `reject`.
        digest: of the content that was read.
    """

    table: RequestTable
    index: LineIndex
    rejected: int
    digest: ContentDigest

    @property
    def requests(self) -> int:
        """Lines of the file that are not blank."""
        return len(self.index) - self.index.blank


@dataclass
class _Pending:
    """A checked line whose prompts are being tokenised."""

    line: int
    request: ParsedRequest
    texts: list[str | list[int]]

    def contexts(self, choices: AskedChoices) -> list[ContextToScore]:
        """Its prompts with the choices that are scored behind each."""
        templated = not self.request.special_tokens
        return [
            ContextToScore(text, choices.texts, templated, place, choices.param)
            for text, place in zip(self.texts, self.request.places, strict=True)
        ]


@dataclass(frozen=True)
class _Tokens:
    """A batch tokenised, in the order of its lines.

    Attributes:
        ids: of the texts of other lines, under True those that get special tokens.
        contexts: the prompts of lines whose choices are scored.
    """

    ids: dict[bool, list[TokenIds | InvalidRequestError]]
    contexts: list[ContextTokens | InvalidRequestError]


@dataclass
class _Batch:
    """Lines tokenised together, in input order. Texts that a template wrote take calls of their
    own: the tokenizer adds no special tokens to them."""

    lines: list[_Pending] = field(default_factory=list)
    characters: int = 0

    def add(self, pending: _Pending) -> None:
        self.lines.append(pending)
        choices = pending.request.choices
        times = 1 if choices is None else 1 + len(choices.texts)  # each is read behind the prompt
        self.characters += times * sum(len(text) for text in pending.texts)

    @property
    def full(self) -> bool:
        return len(self.lines) >= _BATCH_REQUESTS or self.characters >= _BATCH_CHARACTERS


def read_job(
    path: Path,
    description: ModelDescription,
    *,
    capacity_tokens: int,
    names: Collection[str],
    reject: Reject,
    schema: Structure | None = None,
    choices: AskedChoices | None = None,
    skip: Callable[[int], bool] = lambda line: False,
    note: Note = lambda line, content: None,
    progress: Progress = lambda lines: None,
    job_seed: int = 0,
    renderer: Renderer | None = None,
) -> JobInput:
    """Read a batch file.

    Memory: the token ids (4 bytes each), about 80 bytes per request and 24 per line, and a few
    batches on their way through the tokenizer.

    Args:
        capacity_tokens: most tokens of KV the pool will hold.
        names: further names of the model, `*` for any.
        reject: called for each line that cannot run, not in line order.
        schema: what answers look like whose request asks for no form of its own.
        choices: what is scored for such requests.
        skip: whether a line, counted from 0, has its result already and is only counted.
        note: called for each line that is right so far, those that are skipped among them.
        progress: called between batches.
        job_seed: goes into the table.
        renderer: of this model, if another file was read with it already.

    Raises:
        JobError: the file cannot be read.
    """
    index = LineIndex(path)
    try:
        checks = validator(description, names, schema, choices)
        renderer = renderer or Renderer(description.tokenizer)
        reader = _Reader(index, description, capacity_tokens, checks, renderer, reject, skip, note)
        with open_input(path) as file:
            lines = LineReader(file)
            reader.read(lines, progress)
        return reader.result(lines.digest, job_seed)
    except BaseException:
        index.close()
        raise


def validator(
    description: ModelDescription,
    names: Collection[str],
    schema: Structure | None = None,
    choices: AskedChoices | None = None,
) -> Validator:
    """What checks the lines of a job; arguments as `read_job` has them."""
    all_names = {description.id, description.name, *names}
    vocab_size, defaults = description.vocab_size, description.generation_defaults
    compiler = grammar_compiler(description.tokenizer, vocab_size, description.eos_token_ids)
    pooled = None
    if description.pooling is not None:
        pooled = PooledBodies(description.pooling, description.tokenizer, vocab_size)
    form = AnswerFormat.find(
        description.tokenizer, description.tool_call_parser, description.reasoning_parser
    )
    adapters = description.adapters
    return Validator(
        all_names, vocab_size, defaults, compiler, schema, pooled, choices, form, adapters
    )


class _Reader:
    """One pass over the lines; a thread tokenises a batch while the next one is read."""

    def __init__(
        self,
        index: LineIndex,
        description: ModelDescription,
        capacity_tokens: int,
        checks: Validator,
        renderer: Renderer,
        reject: Reject,
        skip: Callable[[int], bool],
        note: Note,
    ) -> None:
        self._validator, self._renderer = checks, renderer
        self._choices = ChoiceTokenizer(renderer)
        self._scored_keys: dict[RequestParams, bytes] = {}
        self._rules = LengthRules(
            description.max_model_len, capacity_tokens, description.length_switch
        )
        self._index, self._adapters = index, description.adapters
        self._reject_line = reject
        self._skip, self._note = skip, note
        pooling = description.pooling
        self._table = TableBuilder(None if pooling is None else pooling.padding)
        self._rejected = 0

    def read(self, lines: LineReader, progress: Progress) -> None:
        under_way: deque[tuple[_Batch, Future[_Tokens]]] = deque()
        batch = _Batch()
        with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as executor:
            for raw in lines:
                if (pending := self._check(raw)) is not None:
                    batch.add(pending)
                if batch.full:
                    under_way.append((batch, executor.submit(self._tokenize, batch)))
                    batch = _Batch()
                if len(under_way) > _BATCHES_AHEAD:
                    self._store(*under_way.popleft())
                    progress(raw.number)
            under_way.append((batch, executor.submit(self._tokenize, batch)))
            while under_way:
                self._store(*under_way.popleft())

    def result(self, digest: ContentDigest, job_seed: int) -> JobInput:
        duplicates, firsts = self._index.duplicates()
        accepted = set(self._table.lines_among(duplicates).tolist())
        for line, first in zip(duplicates.tolist(), firsts.tolist(), strict=True):
            if line in accepted:
                name = self._index.name(line)
                self._reject(line, name.custom_id, _duplicate(name.custom_id, first))
        table = self._table.build(
            job_seed=job_seed,
            without_lines=duplicates,
            switch=self._rules.switch,
            adapters=self._adapters,
        )
        return JobInput(table, self._index, self._rejected, digest)

    def _check(self, raw: RawLine) -> _Pending | None:
        """A line on its way to the tokenizer; None when it is done with."""
        line = raw.number - 1
        if raw.blank:
            self._index.append_blank()
            return None
        custom_id = None
        try:
            if raw.data is None:
                raise _too_long()
            content = decode_line(raw.data)
            custom_id = custom_id_of(content)
            if self._skip(line):
                self._note(line, content)
                return None
            request = self._validator.request(content)
            self._note(line, content)
            texts = [
                self._renderer.text(prompt, place)
                for prompt, place in zip(request.prompts, request.places, strict=True)
            ]
            if not request.special_tokens and isinstance(texts[0], str):
                request = self._validator.after_reasoning(request, texts[0])
        except Exception as error:  # whatever one line does, the others go on
            self._reject(line, custom_id, _refusal(error, line))
            return None
        finally:
            self._index.append(raw.offset, custom_id)
        return _Pending(line, request, texts)

    def _tokenize(self, batch: _Batch) -> _Tokens:
        texts: dict[bool, list[str]] = {True: [], False: []}
        contexts: list[ContextToScore] = []
        for pending in batch.lines:
            if pending.request.choices is not None:
                contexts += pending.contexts(pending.request.choices)
                continue
            special = pending.request.special_tokens
            texts[special].extend(text for text in pending.texts if isinstance(text, str))
        ids = {special: self._tokenize_texts(texts[special], special) for special in texts}
        return _Tokens(ids, self._tokenize_contexts(contexts))

    def _tokenize_contexts(
        self, contexts: list[ContextToScore]
    ) -> list[ContextTokens | InvalidRequestError]:
        try:
            return self._choices.tokenize(contexts)
        except BaseException as error:  # as below
            if len(contexts) == 1:
                return [_refusal(error)]
            return [tokens for each in contexts for tokens in self._tokenize_contexts([each])]

    def _tokenize_texts(
        self, texts: list[str], special: bool
    ) -> list[TokenIds | InvalidRequestError]:
        try:
            return self._renderer.tokenize(texts, add_special_tokens=special)
        except BaseException as error:  # a panic of the tokenizer's own code is no Exception
            if len(texts) == 1:
                return [_refusal(error)]
            return [ids for text in texts for ids in self._tokenize_texts([text], special)]

    def _store(self, batch: _Batch, tokenized: Future[_Tokens]) -> None:
        results = {special: iter(ids) for special, ids in tokenized.result().ids.items()}
        contexts = iter(tokenized.result().contexts)
        for pending in batch.lines:
            try:
                if pending.request.choices is not None:
                    of_line = list(islice(contexts, len(pending.texts)))
                    self._add_scored(pending, pending.request.choices, of_line)
                    continue
                special = pending.request.special_tokens
                prompts = [
                    next(results[special]) if isinstance(text, str) else text
                    for text in pending.texts
                ]
                self._add(pending, prompts)
            except Exception as error:
                refusal = _refusal(error, pending.line)
                self._reject(pending.line, pending.request.custom_id, refusal)

    def _add(self, pending: _Pending, prompts: list[TokenIds | InvalidRequestError]) -> None:
        """All prompts of the line or, if one is wrong, none."""
        request = pending.request
        checked: list[tuple[TokenIds, OutputLength]] = []
        for param, prompt in zip(request.places, prompts, strict=True):
            if isinstance(prompt, InvalidRequestError):
                raise prompt
            length = self._rules.output_length(len(prompt), request.params, param)
            checked.append((prompt, length))
        for prompt, length in checked:
            params, key, seed = request.params, request.params_key, request.seed
            self._table.add(pending.line, prompt, params, key, seed, length, request.adapter)

    def _add_scored(
        self,
        pending: _Pending,
        choices: AskedChoices,
        contexts: list[ContextTokens | InvalidRequestError],
    ) -> None:
        """The requests that score all prompts of the line or, if one is wrong, none."""
        checked: list[tuple[TokenIds, RequestParams, OutputLength]] = []
        for param, tokens in zip(pending.request.places, contexts, strict=True):
            if isinstance(tokens, InvalidRequestError):
                raise tokens
            for prompt, params in requests_of(tokens, choices.texts, choices.normalisation):
                length = self._rules.output_length(len(prompt), params, param)
                checked.append((prompt, params, length))
        for prompt, params, length in checked:
            key = self._scored_keys.setdefault(params, b"scored %d" % len(self._scored_keys))
            adapter = pending.request.adapter
            self._table.add(pending.line, prompt, params, key, None, length, adapter)

    def _reject(self, line: int, custom_id: str | None, error: InvalidRequestError) -> None:
        self._rejected += 1
        self._reject_line(line, custom_id, error)


def _refusal(error: BaseException, line: int | None = None) -> InvalidRequestError:
    """What a line is refused with; of an error that nobody foresaw, the log gets the traceback."""
    if isinstance(error, InvalidRequestError):
        return error
    where = "a prompt" if line is None else f"line {line + 1}"
    _log.error("reading %s failed unexpectedly", where, exc_info=error)
    return InvalidRequestError(
        f"reading it failed unexpectedly ({type(error).__name__}: {str(error)[:200]}). This is a "
        "bug; please report it with the line.",
        code="internal_error",
        status_code=500,
    )


def _too_long() -> InvalidRequestError:
    return InvalidRequestError(
        "the line is too long to be a request; is a newline missing?", code="invalid_json_line"
    )


def _duplicate(custom_id: str, first: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"custom_id {custom_id[:100]!r} is taken by line {first + 1}; each line needs its own.",
        code="duplicate_custom_id",
        param="custom_id",
    )
