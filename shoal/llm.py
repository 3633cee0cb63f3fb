"""The Python API: `LLM(model).generate(prompts, params)` and `.chat(conversations, params)`."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from shoal.config import EngineOptions
from shoal.devices import AnyRun, make_engine
from shoal.errors import GenerationInterrupted, InvalidRequestError, OptionError
from shoal.model.description import ModelDescription
from shoal.progress import ProgressState, make_reporter
from shoal.prompts.length_rules import LengthRules
from shoal.prompts.prompts import ChatPrompt, parse_messages
from shoal.prompts.python_prompts import (
    CheckedPrompt,
    PromptReader,
    checked_prompt,
    prompts_of,
)
from shoal.prompts.render import Renderer
from shoal.prompts.token_columns import TokenColumns
from shoal.sampling.sampler import check_vocabulary
from shoal.signals import Interruption
from shoal.types import (
    Completion,
    PhaseSeconds,
    RequestCounts,
    RequestParams,
    RequestTable,
    RunSummary,
)

Params = RequestParams | Sequence[RequestParams] | None
Prompts = Sequence[str | Sequence[int]]

_BUSY = threading.Lock()
"""Held by whoever loads a model or runs one. A run has the kernels use all cores, and loading
changes settings of torch that hold for the whole process, such as its default number format."""


class LLM:
    """A model ready to answer whole batches.

    Threads may share one, or have their own: calls wait for each other, also those of different
    objects, so each is best given all the prompts there are. `asyncio.to_thread` works the same.

    Args:
        model: a local folder or a Hub id; None is the small model that ships with Shoal.
        options: fields of `shoal.config.EngineOptions`, the command line's options with
            underscores: dtype, quantization, device, devices, kv_memory, memory_fraction,
            token_budget, max_model_len, sharing, order, tensor_parallel.

    Raises:
        OptionError: an unknown option or a wrong value.
        ModelError: the model cannot be loaded, or needs a feature we do not honour.
    """

    def __init__(self, model: str | None = None, **options: Any) -> None:
        chosen = EngineOptions.create(**options)
        with _BUSY:
            self._description = ModelDescription.load(model, chosen)
            begin = time.perf_counter()
            self._engine = make_engine(self._description, chosen)
            self._load_seconds = time.perf_counter() - begin
            self._renderer = Renderer(self._description.tokenizer)
        self._closed = False
        self.last_run: RunSummary | None = None
        """What the call that ended last did: tokens computed and saved, seconds, peak memory."""

    @property
    def token_budget(self) -> int:
        """Most tokens in one iteration's batch: the one given, or measured for this machine."""
        return self._engine.machine.token_budget

    def close(self) -> None:
        """Give the weights and the KV memory back, and end the processes of `devices`.

        Waits for a call under way. Idempotent; calls that come later are refused.
        """
        with _BUSY:
            self._closed = True
            self._engine.close()

    @contextmanager
    def _call(self) -> Iterator[float]:
        """One call at a time; gives the time it began."""
        with _BUSY:
            if self._closed:
                raise OptionError("this LLM is closed; make another one.")
            yield time.perf_counter()

    def generate(
        self,
        prompts: Prompts | TokenColumns | Any,
        params: Params = None,
        *,
        progress: bool = True,
    ) -> list[Completion]:
        """Complete prompts, all planned together.

        Args:
            prompts: texts, or lists of token ids; also NumPy arrays of ids, and columns of
                pandas or Arrow. Millions of prompts are better given as `shoal.TokenColumns` or
                as an Arrow column of list<int32>, which are not copied.
            params: for all prompts or one for each; None takes the model's defaults.
            progress: show it on standard error.

        Returns:
            One completion per prompt, in order. A request that is wrong (empty, too long, ids the
            model does not have) or that the model failed on has `error` set and no choices.

        Raises:
            InvalidRequestError: parameters do not fit the model; `param` names which.
            OptionError: a prompt is neither text nor token ids, or the parameters are not as many.
            GenerationInterrupted: Ctrl-C; a `KeyboardInterrupt` that carries what is done.
        """
        with self._call() as began:
            values = prompts_of(prompts)
            wanted = self._params(params, len(values))
            if isinstance(values, TokenColumns):
                try:
                    table = self._column_table(values, wanted)
                except InvalidRequestError:  # the others are run, at the price of a copy
                    values = np.split(values.tokens, values.offsets[1:-1])
                else:
                    return self._run(table, {}, began, progress)
            checked = [checked_prompt(value, f"prompts[{i}]") for i, value in enumerate(values)]
            reader = PromptReader(self._renderer, self._description.vocab_size, "prompts")
            return self._run(*reader.table(checked, wanted, self._rules), began, progress)

    def chat(
        self,
        conversations: Sequence[Sequence[Mapping[str, Any]]],
        params: Params = None,
        *,
        progress: bool = True,
    ) -> list[Completion]:
        """Answer conversations, lists of {"role", "content"}, through the model's chat template.

        Content is a string or a list of {"type": "text", "text"}, as in batch files. Otherwise like
        `generate`.
        """
        with self._call() as began:
            wanted = self._params(params, len(conversations))
            texts = [self._rendered(i, messages) for i, messages in enumerate(conversations)]
            reader = PromptReader(self._renderer, self._description.vocab_size, "conversations")
            return self._run(*reader.table(texts, wanted, self._rules), began, progress)

    def _rendered(self, index: int, messages: Sequence[Mapping[str, Any]]) -> CheckedPrompt:
        if isinstance(messages, Mapping):
            raise OptionError("chat takes a list of conversations; put this one in a list")
        where = f"conversations[{index}]"
        given = [dict(m) if isinstance(m, Mapping) else m for m in messages]
        try:
            return self._renderer.text(ChatPrompt(parse_messages(given, where), {}), where)
        except InvalidRequestError as error:
            return error

    def _run(
        self,
        table: RequestTable,
        refused: Mapping[int, Completion],
        began: float,
        progress: bool,
    ) -> list[Completion]:
        """The completions of a table's requests and of those refused, in the prompts' order."""
        run = self._engine.run(table)
        planned = time.perf_counter()
        done: list[Completion | None] = [None] * (len(table) + len(refused))
        for index, completion in refused.items():
            done[index] = completion
        try:
            _drive(run, table, done, progress)
        except KeyboardInterrupt as error:
            self.last_run = self._summary(run, done, began, planned)
            count = sum(completion is not None for completion in done)
            raise GenerationInterrupted(
                f"interrupted with {count:,} of {len(done):,} prompts done; they are in "
                "`completions` of this exception.",
                done,
            ) from error
        self.last_run = self._summary(run, done, began, planned)
        return [completion for completion in done if completion is not None]

    def _summary(
        self, run: AnyRun, done: Sequence[Completion | None], began: float, planned: float
    ) -> RunSummary:
        ended = time.perf_counter()
        errors = [c.error is not None for c in done if c is not None]
        counts = RequestCounts(len(done), errors.count(False), errors.count(True))
        summary = RunSummary(counts)
        summary.seconds = PhaseSeconds(
            plan=planned - began,
            load=self._load_seconds,
            run=ended - planned,
            total=ended - began,
        )
        run.stats.summarise(run.planned, summary)
        return summary

    def _params(self, params: Params, count: int) -> list[RequestParams]:
        """One for all prompts, or one for each; they fit the model."""
        if params is None:
            params = RequestParams.create(self._description.generation_defaults)
        wanted = [params] if isinstance(params, RequestParams) else list(params)
        if not isinstance(params, RequestParams) and len(wanted) != count:
            raise OptionError(f"{len(wanted)} sampling parameters for {count} prompts")
        for index, distinct in {id(p): (i, p) for i, p in enumerate(wanted)}.values():
            check_vocabulary(distinct, self._description.vocab_size, f"params[{index}].")
        return wanted

    @property
    def _rules(self) -> LengthRules:
        return LengthRules(self._description.max_model_len, self._engine.machine.kv_tokens)

    def _column_table(self, columns: TokenColumns, params: Sequence[RequestParams]) -> RequestTable:
        columns.check_vocabulary(self._description.vocab_size)
        return columns.table(params, self._rules, job_seed=secrets.randbits(62))


def _drive(run: AnyRun, table: RequestTable, done: list[Completion | None], progress: bool) -> None:
    """Drive a run to its end and put its completions where their prompts are.

    Ctrl-C lets the iteration under way finish, a second one does not.
    """
    began = time.perf_counter()
    planned = run.planned.computed_prompt_tokens
    planned += int((table.expected_new_tokens.astype(np.int64) * table.choices).sum())
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    interruption = Interruption("interrupted", [signal.SIGINT] if ours else [])
    finished = len(done) - len(table)
    with (
        interruption.installed(),
        interruption.deferred(),
        make_reporter(quiet=not progress) as reporter,
    ):
        for completions in run:
            for completion in completions:
                index = int(table.line[completion.request_index])
                done[index] = replace(completion, request_index=index)
            finished += len(completions)
            tokens = run.stats.prompt_tokens_computed + run.stats.generated_tokens
            reporter.update(
                ProgressState(
                    done=finished,
                    total=len(done),
                    tokens=tokens,
                    remaining_tokens=max(0, planned - tokens),
                    seconds=time.perf_counter() - began,
                    kv_bytes=run.stats.kv_bytes_in_use,
                )
            )
            if interruption.requested:
                break
    interruption.check()
