"""The Python API: `LLM(model).generate(prompts, params)` and `.chat(conversations, params)`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shoal.config import EngineOptions
from shoal.devices import RunProtocol, make_engine
from shoal.errors import InvalidRequestError, OptionError
from shoal.model.description import ModelDescription
from shoal.progress import ProgressState, make_reporter
from shoal.prompts.length_rules import LengthRules
from shoal.prompts.prompts import ChatPrompt
from shoal.prompts.render import Renderer
from shoal.prompts.table_builder import TableBuilder
from shoal.prompts.token_columns import TokenColumns
from shoal.sampling.sampler import check_vocabulary
from shoal.types import (
    Completion,
    PhaseSeconds,
    RequestCounts,
    RequestTable,
    RunSummary,
    SamplingParams,
)

Params = SamplingParams | Sequence[SamplingParams] | None
Prompts = Sequence[str | Sequence[int]]


class LLM:
    """A model ready to answer whole batches.

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
        self._description = ModelDescription.load(model, chosen)
        begin = time.perf_counter()
        self._engine = make_engine(self._description, chosen)
        self._load_seconds = time.perf_counter() - begin
        self._renderer = Renderer(self._description.tokenizer)
        self.last_run: RunSummary | None = None
        """What the last call did: tokens computed and saved, seconds, peak memory."""

    @property
    def token_budget(self) -> int:
        """Most tokens in one iteration's batch: the one given, or measured for this machine."""
        return self._engine.token_budget

    def close(self) -> None:
        """Give the weights and the KV memory back, and end the processes of `devices`."""
        self._engine.close()

    def generate(
        self,
        prompts: Prompts | TokenColumns | Any,
        params: Params = None,
        *,
        progress: bool = True,
    ) -> list[Completion]:
        """Complete prompts, all planned together.

        Args:
            prompts: texts, or lists of token ids. Millions of prompts are better given as
                `shoal.TokenColumns` or as an Arrow column of list<int32>, which are not copied.
            params: for all prompts or one for each; None takes the model's defaults.
            progress: show it on standard error.

        Returns:
            One completion per prompt, in order. A request the model failed on has `error` set.

        Raises:
            InvalidRequestError: a prompt or its parameters are wrong; `param` names which.
        """
        if isinstance(prompts, str):
            raise OptionError("generate takes a list of prompts; put this one in a list")
        began = time.perf_counter()
        if hasattr(prompts, "__arrow_c_array__") or hasattr(prompts, "__arrow_c_stream__"):
            prompts = TokenColumns.from_arrow(prompts)
        if isinstance(prompts, TokenColumns):
            table = self._column_table(prompts, params)
        else:
            table = self._table(list(prompts), params, add_special_tokens=True)
        return self._run(table, began, progress)

    def chat(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        params: Params = None,
        *,
        progress: bool = True,
    ) -> list[Completion]:
        """Answer conversations, lists of {"role", "content"}, through the model's chat template.

        Otherwise like `generate`.
        """
        began = time.perf_counter()
        texts = [self._rendered(i, messages) for i, messages in enumerate(conversations)]
        table = self._table(texts, params, add_special_tokens=False)
        return self._run(table, began, progress)

    def _rendered(self, index: int, messages: Sequence[Mapping[str, str]]) -> str | list[int]:
        if isinstance(messages, Mapping):
            raise OptionError("chat takes a list of conversations; put this one in a list")
        try:
            return self._renderer.text(ChatPrompt([dict(message) for message in messages], {}))
        except InvalidRequestError as error:
            raise _invalid(f"conversations[{index}]", str(error)) from error

    def _run(self, table: RequestTable, began: float, progress: bool) -> list[Completion]:
        run = self._engine.run(table)
        planned = time.perf_counter()
        completions = _collect(run, table, progress)
        ended = time.perf_counter()
        failed = sum(completion.error is not None for completion in completions)
        summary = RunSummary(RequestCounts(len(table), len(table) - failed, failed))
        summary.seconds = PhaseSeconds(
            plan=planned - began,
            load=self._load_seconds,
            run=ended - planned,
            total=ended - began,
        )
        run.stats.summarise(run.plan, summary)
        self.last_run = summary
        return completions

    def _params(self, params: Params, count: int) -> list[SamplingParams]:
        """One for all prompts, or one for each."""
        if params is None:
            params = SamplingParams.create(self._description.generation_defaults)
        if isinstance(params, SamplingParams):
            return [params]
        if len(params) != count:
            raise OptionError(f"{len(params)} sampling parameters for {count} prompts")
        return list(params)

    @property
    def _rules(self) -> LengthRules:
        return LengthRules(self._description.max_model_len, self._engine.kv_capacity_tokens)

    def _column_table(self, columns: TokenColumns, params: Params) -> RequestTable:
        wanted = self._params(params, len(columns))
        for index, distinct in {id(p): (i, p) for i, p in enumerate(wanted)}.values():
            check_vocabulary(distinct, self._description.vocab_size, f"params[{index}].")
        columns.check_vocabulary(self._description.vocab_size)
        return columns.table(wanted, self._rules, job_seed=secrets.randbits(62))

    def _table(self, prompts: Prompts, params: Params, *, add_special_tokens: bool) -> RequestTable:
        wanted_params = self._params(params, len(prompts))
        if len(wanted_params) != len(prompts):
            wanted_params *= len(prompts)
        rules = self._rules
        builder = TableBuilder()
        keys: dict[int, bytes] = {}
        tokenised = self._tokenise(prompts, add_special_tokens)
        for index, (ids, wanted) in enumerate(zip(tokenised, wanted_params, strict=True)):
            where = f"prompts[{index}]"
            if len(ids) == 0:
                raise _invalid(where, "is empty; give at least one token.")
            if min(ids) < 0 or max(ids) >= self._description.vocab_size:
                raise _invalid(where, "holds a token id outside the model's vocabulary.")
            if id(wanted) not in keys:
                check_vocabulary(wanted, self._description.vocab_size, f"params[{index}].")
                seedless = wanted.model_copy(update={"seed": None})
                keys[id(wanted)] = seedless.model_dump_json().encode()
            length = rules.output_length(len(ids), wanted, where)
            builder.add(index, ids, wanted, keys[id(wanted)], wanted.seed, length)
        return builder.build(
            job_seed=secrets.randbits(62), without_lines=np.zeros(0, dtype=np.int64)
        )

    def _tokenise(
        self, prompts: Sequence[str | Sequence[int]], special: bool
    ) -> Iterator[Sequence[int]]:
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        encoded = iter(self._renderer.tokenize(texts, add_special_tokens=special))
        for index, prompt in enumerate(prompts):
            ids = next(encoded) if isinstance(prompt, str) else prompt
            if isinstance(ids, InvalidRequestError):
                raise _invalid(f"prompts[{index}]", str(ids))
            yield ids


def _invalid(where: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{where} {what}", code="invalid_value", param=where)


def _collect(run: RunProtocol, table: RequestTable, progress: bool) -> list[Completion]:
    """Drive a run to its end; completions in the order of the prompts."""
    completions: list[Completion] = []
    began = time.perf_counter()
    planned = run.plan.computed_prompt_tokens
    planned += int((table.expected_new_tokens.astype(np.int64) * table.choices).sum())
    with make_reporter(quiet=not progress) as reporter:
        for finished in run:
            completions += finished
            tokens = run.stats.prompt_tokens_computed + run.stats.generated_tokens
            reporter.update(
                ProgressState(
                    done=len(completions),
                    total=len(table),
                    tokens=tokens,
                    remaining_tokens=max(0, planned - tokens),
                    seconds=time.perf_counter() - began,
                    kv_bytes=run.stats.kv_bytes_in_use,
                )
            )
    return sorted(completions, key=lambda completion: completion.request_index)
