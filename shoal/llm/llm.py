"""`LLM(model).generate(prompts, sampling_params)` and `.chat(messages, sampling_params)`."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from shoal.answers.answer_format import AnswerFormat
from shoal.answers.detokenize import Detokenizer
from shoal.answers.grammar import grammar_compiler
from shoal.errors import InvalidRequestError, OptionError
from shoal.fleet.engines import make_engine
from shoal.llm.asked import Asked, Params, asked_for
from shoal.llm.asked_adapters import AskedAdapters, Loras
from shoal.llm.conversations import conversations, rendered
from shoal.llm.drive import MakeOutput, T, done_in_errors, drive, refused_outputs, summary_of
from shoal.llm.llm_call import LLMCall, job_seed
from shoal.llm.options import CALL_OPTIONS, check, engine_options
from shoal.llm.output_maker import OutputMaker
from shoal.llm.pooling_calls import PoolingCalls
from shoal.llm.pooling_options import asked_pooling
from shoal.llm.request_output import RequestOutput, ScoredContext
from shoal.llm.sampling_params import SamplingParams
from shoal.llm.score_choices import ChoiceRequests, normalisation_of, tokenized
from shoal.model.description import ModelDescription, Texts
from shoal.prompts.chat_template import ChatTemplate
from shoal.prompts.choices import ChoiceTokenizer
from shoal.prompts.length_rules import LengthRules
from shoal.prompts.python_prompts import (
    CheckedPrompt,
    PromptReader,
    checked_prompt,
    prompts_of,
    text_of,
)
from shoal.prompts.render import Renderer
from shoal.prompts.token_columns import TokenColumns
from shoal.types import (
    Completion,
    PhaseSeconds,
    RequestParams,
    RequestTable,
    RunSummary,
)

Messages = Sequence[Mapping[str, Any]]
"""A conversation: {"role", "content"} in turn."""

_BUSY = threading.Lock()
"""Held by whoever loads a model or runs one. A run has the kernels use all cores, and loading
changes settings of torch that hold for the whole process, such as its default number format."""


class LLM(PoolingCalls):
    """A model ready to answer whole batches, under vLLM's names.

    Threads may share one, or have their own: calls wait for each other, also those of different
    objects, so each is best given all the prompts there are. `asyncio.to_thread` works the same.

    Args:
        model: a local folder or a Hub id; None is the small model that ships with Shoal.
        tokenizer: a folder or Hub id of another tokenizer than the model's.
        skip_tokenizer_init: read no tokenizer. Then, and of a folder without one, prompts are
            token ids and texts are empty.
        seed: of the draws of prompts without one: a script that makes the same calls gets the
            same answers. None: other answers each time.
        chat_template: the text of another template than the model's, for `chat`.
        options: those of docs/python.md: vLLM's (dtype, max_model_len, tensor_parallel_size,
            gpu_memory_utilization, max_num_batched_tokens, trust_remote_code ...) and our own
            (kv_memory, device, sharing, order).

    Raises:
        OptionError: an unknown option, one that is not honoured, or a wrong value.
        ModelError: the model cannot be loaded, or needs a feature we do not honour.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        tokenizer: str | None = None,
        skip_tokenizer_init: bool = False,
        seed: int | None = 0,
        chat_template: str | None = None,
        **options: Any,
    ) -> None:
        chosen = engine_options(options)
        asked, self._pooler = asked_pooling(options)
        with _BUSY:
            texts = Texts.unwanted if skip_tokenizer_init else Texts.wanted
            self._description = ModelDescription.load(model, chosen, tokenizer, texts, asked)
            begin = time.perf_counter()
            self._engine = make_engine(self._description, chosen)
            self._load_seconds = time.perf_counter() - begin
            self._renderer = Renderer(self._description.tokenizer)
            self._outputs = OutputMaker(Detokenizer(self._description.tokenizer))
            marks = self._description.reasoning_parser
            self._adapters = AskedAdapters(self._description, chosen)
            self._form = AnswerFormat.find(self._description.tokenizer, reasoning=marks)
        self._seed, self._chat_template = seed, chat_template
        self._calls, self._requests = itertools.count(), 0
        self._closed = False
        self.last_run: RunSummary | None = None
        """What the call that ended last did: tokens computed and saved, seconds, peak memory."""

    @property
    def max_num_batched_tokens(self) -> int:
        """Most tokens in one iteration's batch: the one given, or measured for this machine."""
        return self._engine.machine.token_budget

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together: the one given, or the model's own."""
        return self._description.max_model_len

    def get_tokenizer(self) -> Any:
        """The model's tokenizer, of transformers.

        Raises:
            OptionError: it has none.
        """
        if self._description.tokenizer is None:
            raise OptionError(
                "this model was loaded without a tokenizer: give `generate` token ids, or copy "
                "the tokenizer's files into the model's folder."
            )
        return self._description.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What calls without parameters use: vLLM's defaults, then the model's own.

        They are the caller's, to be changed and given to calls.
        """
        return SamplingParams.of_model(self._description.generation_defaults)

    def close(self) -> None:
        """Give the weights and the KV memory back, and end the processes of several devices.

        Waits for a call under way. Idempotent; calls that come later are refused.
        """
        with _BUSY:
            self._closed = True
            self._engine.close()

    def generate(
        self,
        prompts: Any,
        sampling_params: Params = None,
        *,
        use_tqdm: Any = True,
        lora_request: Loras = None,
        **others: Any,
    ) -> list[RequestOutput]:
        """Complete prompts, all planned together.

        Nothing is kept from one call to the next. A loop of calls computes a prefix that their
        prompts share once per call: give one call all the prompts there are.

        Args:
            prompts: texts, lists of token ids, {"prompt": text}, {"prompt_token_ids": ids}, or
                one of these; also NumPy arrays of ids, and columns of pandas or Arrow. Millions
                of prompts are better given as `shoal.TokenColumns` or as an Arrow column of
                list<int32>, which are not copied.
            sampling_params: for all prompts or one for each; None: the model's defaults.
            use_tqdm: show progress on standard error.
            lora_request: the adapter for all prompts, or one or None for each.
            others: what else vLLM takes, see docs/python.md.

        Returns:
            One output per prompt, in order. A request that is wrong (empty, too long, ids the
            model does not have) or that the model failed on has `error` set and no outputs.

        Raises:
            InvalidRequestError: parameters do not fit the model; `param` names which.
            OptionError: a prompt is neither text nor token ids, the parameters are not as many,
                or an argument is not honoured.
            ModelFailedError, DeviceLostError: the run gave up; `outputs` carries what is done.
            GenerationInterrupted: Ctrl-C; a `KeyboardInterrupt` that carries what is done.
        """
        check(others, CALL_OPTIONS, "generate")
        self._refuse_pooling("generate")
        with self._call(lora_request) as call:
            values = prompts_of(prompts)
            asked = self._asked(sampling_params, len(values))
            if isinstance(values, TokenColumns):
                try:
                    values.check_vocabulary(self._description.vocab_size)
                    table = values.table(asked.params, self._rules, job_seed=call.job_seed)
                except InvalidRequestError:  # the others are run, at the price of a copy
                    values = np.split(values.tokens, values.offsets[1:-1])
                else:
                    make = self._answers([None] * len(values), asked)
                    return self._run(call, table, {}, make, use_tqdm)
            checked = [checked_prompt(value, f"prompts[{i}]") for i, value in enumerate(values)]
            make = self._answers([text_of(value) for value in values], asked)
            return self._read_and_run(
                call, "prompts", checked, asked.params, make, use_tqdm, special_tokens=True
            )

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: Params = None,
        use_tqdm: Any = True,
        lora_request: Loras = None,
        *,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **others: Any,
    ) -> list[RequestOutput]:
        """Answer a conversation or several, through the model's chat template.

        Content is a string or a list of {"type": "text", "text"}, as in batch files. Otherwise like
        `generate`; errors call conversation i `messages[i]`.

        Args:
            messages: one conversation, a list of {"role", "content"}, or a list of conversations.
            lora_request: the adapter for all conversations, or one or None for each.
            chat_template: the text of another template than the model's.
            chat_template_kwargs: passed to the template.
            add_generation_prompt: end prompts with the beginning of an answer.
            continue_final_message: end prompts within the last message, which answers continue;
                needs `add_generation_prompt=False`.
            tools: JSON schemas, for a template that reads them. An output's text is the model's
                own, with its calls and its reasoning in it. Structured outputs begin after
                reasoning.
        """
        check(others, CALL_OPTIONS, "chat")
        self._refuse_pooling("chat")
        if add_generation_prompt and continue_final_message:
            raise OptionError("continue_final_message needs add_generation_prompt=False.")
        arguments = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "tools": list(tools) if tools else None,
        }
        with self._call(lora_request) as call:
            tokenizer, given = self.get_tokenizer(), chat_template or self._chat_template
            template = self._renderer.chat
            if template is None or given or tools or not add_generation_prompt:
                template = ChatTemplate(tokenizer, given, arguments)
            several = conversations(messages)
            asked = self._asked(sampling_params, len(several))
            kwargs = dict(chat_template_kwargs or {})
            named = [(f"messages[{i}]", each) for i, each in enumerate(several)]
            checked = [rendered(template, where, each, kwargs) for where, each in named]
            texts = [text_of(prompt) for prompt in checked]
            asked = asked.after_reasoning(texts, self._form)
            make = self._answers(texts, asked)
            return self._read_and_run(
                call, "messages", checked, asked.params, make, use_tqdm, special_tokens=False
            )

    def _refuse_pooling(self, method: str) -> None:
        if self._description.pooling is not None:
            raise OptionError(
                f"LLM.{method}: this model was loaded to give vectors, classes or scores; give "
                'runner="generate" for a model that generates.'
            )

    def score_choices(
        self,
        contexts: Any,
        choices: Any,
        *,
        probabilities: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        use_tqdm: Any = True,
    ) -> list[ScoredContext]:
        """How likely each choice is after its context; nothing is generated.

        Args:
            contexts: as the prompts of `generate`, or conversations; one or many.
            choices: texts or lists of token ids, one list for all contexts or one for each.
            probabilities: normalised over a context's choices: "sum" is a softmax of their
                logprobs, "mean" of their logprobs per token.
            chat_template_kwargs: passed to the template of conversations.

        Returns:
            One entry per context, in order; a wrong one has `error` set and no scores.

        Raises:
            As `generate`; `outputs` of what ends a run has an entry per context.
        """
        self._refuse_pooling("score_choices")
        normalisation = normalisation_of(probabilities)
        with self._call() as call:
            kwargs, given = dict(chat_template_kwargs or {}), self._chat_template

            def render(messages: Any, where: str) -> CheckedPrompt:
                template = self._renderer.chat
                if template is None or given:
                    template = ChatTemplate(self.get_tokenizer(), given)
                return rendered(template, where, messages, kwargs)

            tokens = tokenized(contexts, choices, ChoiceTokenizer(self._renderer), render)
            vocab_size = self._description.vocab_size
            asked = ChoiceRequests.of(tokens, normalisation, self._rules, vocab_size)
            special = {"special_tokens": False}  # all are token ids
            reader = PromptReader(self._renderer, vocab_size, "contexts", call.job_seed, **special)
            table, refused = reader.table(asked.prompts, asked.params, self._rules)
            return asked.run(lambda make: self._run(call, table, refused, make, use_tqdm))

    @contextmanager
    def _call(self, loras: Loras = None) -> Iterator[LLMCall]:
        """One call at a time."""
        with _BUSY:
            if self._closed:
                raise OptionError("this LLM is closed; make another one.")
            yield LLMCall(time.perf_counter(), job_seed(self._seed, next(self._calls)), loras)

    def _read_and_run(
        self,
        call: LLMCall,
        name: str,
        prompts: Sequence[CheckedPrompt],
        params: Sequence[RequestParams],
        make: MakeOutput[T],
        use_tqdm: Any,
        *,
        special_tokens: bool,
    ) -> list[T]:
        """The outputs of prompts that are not token ids yet."""
        vocab_size, seed = self._description.vocab_size, call.job_seed
        pooling = self._description.pooling
        reader = PromptReader(
            self._renderer,
            vocab_size,
            name,
            seed,
            special_tokens=special_tokens,
            padding=None if pooling is None else pooling.padding,
        )
        table, refused = reader.table(prompts, params, self._rules)
        return self._run(call, table, refused, make, use_tqdm)

    def _answers(self, texts: Sequence[str | None], asked: Asked) -> MakeOutput[RequestOutput]:
        """Makes the outputs of a model that generates."""
        return self._outputs.numbered(self._numbers(len(texts)), texts, asked.detokenize)

    def _numbers(self, count: int) -> int:
        """The first of so many numbers that no other request has."""
        first = self._requests
        self._requests += count
        return first

    def _run(
        self,
        call: LLMCall,
        table: RequestTable,
        refused: Mapping[int, Completion],
        make: MakeOutput[T],
        use_tqdm: Any,
    ) -> list[T]:
        """The outputs of a table's requests and of those refused, in the prompts' order."""
        table = self._adapters.applied(call.loras, table, len(refused) + len(table))
        run = self._engine.run(table)
        planned = time.perf_counter()
        done = refused_outputs(refused, len(refused) + len(table), make)
        try:
            with done_in_errors(done):
                drive(run, table, done, make, bool(use_tqdm))
        finally:
            ended = time.perf_counter()
            seconds = PhaseSeconds(
                plan=planned - call.began,
                load=self._load_seconds,
                run=ended - planned,
                total=ended - call.began,
            )
            self.last_run = summary_of(run, done, seconds)
        return [output for output in done if output is not None]

    def _asked(self, params: Params, count: int) -> Asked:
        if params is None:
            params = self.get_default_sampling_params()
        model = self._description
        compiler = grammar_compiler(model.tokenizer, model.vocab_size, model.eos_token_ids)
        return asked_for(params, count, model.vocab_size, model.tokenizer is not None, compiler)

    @property
    def _rules(self) -> LengthRules:
        model = self._description
        return LengthRules(model.max_model_len, self._engine.machine.kv_tokens, model.length_switch)
