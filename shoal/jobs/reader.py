"""From a batch file to the columns the engine runs, streaming: read, check, render, tokenise."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.answers.grammar import grammar_compiler
from shoal.answers.structure import Structure
from shoal.errors import InvalidRequestError
from shoal.jobs.index import LineIndex
from shoal.jobs.lines import ContentDigest, LineReader, RawLine, open_input
from shoal.jobs.validate import ParsedRequest, Validator, custom_id_of, decode_line
from shoal.model.description import ModelDescription
from shoal.prompts.length_rules import LengthRules, OutputLength
from shoal.prompts.render import Renderer, TokenIds
from shoal.prompts.table_builder import TableBuilder
from shoal.types import CHAT_URL, RequestTable

_BATCH_REQUESTS = 512
_BATCH_CHARACTERS = 2**19
"""A batch for the tokenizer: enough work for all cores, and a few tens of MB of its results."""
_BATCHES_AHEAD = 2

_log = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Told now and then how many lines were read."""

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


@dataclass
class _Batch:
    """Lines tokenised together, in input order. Chats and completions take separate calls."""

    lines: list[_Pending] = field(default_factory=list)
    characters: int = 0

    def add(self, pending: _Pending) -> None:
        self.lines.append(pending)
        self.characters += sum(len(text) for text in pending.texts)

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
    skip: Callable[[int], bool] = lambda line: False,
    progress: Progress = lambda lines: None,
    job_seed: int = 0,
) -> JobInput:
    """Read a batch file.

    Memory: the token ids (4 bytes each), about 80 bytes per request and 24 per line, and a few
    batches on their way through the tokenizer.

    Args:
        capacity_tokens: most tokens of KV the pool will hold.
        names: further names of the model, `*` for any.
        reject: called for each line that cannot run, not in line order.
        schema: what answers look like whose request asks for no form of its own.
        skip: whether a line, counted from 0, has its result already and is only counted.
        progress: called between batches.
        job_seed: goes into the table.

    Raises:
        JobError: the file cannot be read.
    """
    index = LineIndex(path)
    try:
        reader = _Reader(index, description, capacity_tokens, names, schema, reject, skip)
        with open_input(path) as file:
            lines = LineReader(file)
            reader.read(lines, progress)
        return reader.result(lines.digest, job_seed)
    except BaseException:
        index.close()
        raise


def validator(
    description: ModelDescription, names: Collection[str], schema: Structure | None = None
) -> Validator:
    """What checks the lines of a job; arguments as `read_job` has them."""
    all_names = {description.id, description.name, *names}
    vocab_size, defaults = description.vocab_size, description.generation_defaults
    compiler = grammar_compiler(description.tokenizer, vocab_size, description.eos_token_ids)
    return Validator(all_names, vocab_size, defaults, compiler, schema)


class _Reader:
    """One pass over the lines; a thread tokenises a batch while the next one is read."""

    def __init__(
        self,
        index: LineIndex,
        description: ModelDescription,
        capacity_tokens: int,
        names: Collection[str],
        schema: Structure | None,
        reject: Reject,
        skip: Callable[[int], bool],
    ) -> None:
        self._validator = validator(description, names, schema)
        self._renderer = Renderer(description.tokenizer)
        self._rules = LengthRules(description.max_model_len, capacity_tokens)
        self._index = index
        self._reject_line = reject
        self._skip = skip
        self._table = TableBuilder()
        self._rejected = 0

    def read(self, lines: LineReader, progress: Progress) -> None:
        under_way: deque[tuple[_Batch, Future[Any]]] = deque()
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
        table = self._table.build(job_seed=job_seed, without_lines=duplicates)
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
                return None
            request = self._validator.request(content)
            texts = [self._renderer.text(prompt) for prompt in request.prompts]
        except Exception as error:  # whatever one line does, the others go on
            self._reject(line, custom_id, _refusal(error, line))
            return None
        finally:
            self._index.append(raw.offset, custom_id)
        return _Pending(line, request, texts)

    def _tokenize(self, batch: _Batch) -> dict[bool, list[TokenIds | InvalidRequestError]]:
        """Token ids of the batch's texts: those of chats under True, in order."""
        texts: dict[bool, list[str]] = {True: [], False: []}
        for pending in batch.lines:
            chat = pending.request.url == CHAT_URL
            texts[chat].extend(text for text in pending.texts if isinstance(text, str))
        return {chat: self._tokenize_texts(texts[chat], chat) for chat in texts}

    def _tokenize_texts(self, texts: list[str], chat: bool) -> list[TokenIds | InvalidRequestError]:
        try:
            return self._renderer.tokenize(texts, add_special_tokens=not chat)
        except BaseException as error:  # a panic of the tokenizer's own code is no Exception
            if len(texts) == 1:
                return [_refusal(error)]
            return [ids for text in texts for ids in self._tokenize_texts([text], chat)]

    def _store(
        self, batch: _Batch, tokenized: Future[dict[bool, list[TokenIds | InvalidRequestError]]]
    ) -> None:
        results = {chat: iter(ids) for chat, ids in tokenized.result().items()}
        for pending in batch.lines:
            chat = pending.request.url == CHAT_URL
            prompts = [
                next(results[chat]) if isinstance(text, str) else text for text in pending.texts
            ]
            try:
                self._add(pending, prompts)
            except Exception as error:
                refusal = _refusal(error, pending.line)
                self._reject(pending.line, pending.request.custom_id, refusal)

    def _add(self, pending: _Pending, prompts: list[TokenIds | InvalidRequestError]) -> None:
        """All prompts of the line or, if one is wrong, none."""
        request = pending.request
        checked: list[tuple[TokenIds, OutputLength]] = []
        for number, prompt in enumerate(prompts):
            param = "body.messages" if request.url == CHAT_URL else "body.prompt"
            if len(prompts) > 1:
                param = f"{param}[{number}]"
            if isinstance(prompt, InvalidRequestError):
                raise prompt
            length = self._rules.output_length(len(prompt), request.params, param)
            checked.append((prompt, length))
        for prompt, length in checked:
            self._table.add(
                pending.line, prompt, request.params, request.params_key, request.seed, length
            )

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
