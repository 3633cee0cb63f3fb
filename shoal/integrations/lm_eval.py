"""The model `shoal` of lm-evaluation-harness: all requests of one kind are planned together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shoal.errors import GenerationInterrupted, OptionError, ShoalError
from shoal.integrations.continuation_scores import Continuation, Score, score, score_of
from shoal.integrations.lm_eval_command import MODEL, require_lm_eval
from shoal.integrations.lm_eval_generation import AskedGeneration, Thinking, answer_of, asked_for
from shoal.integrations.lm_eval_tokens import HarnessTokenizer
from shoal.llm.llm import LLM
from shoal.llm.request_output import RequestOutput

require_lm_eval()
from jinja2.exceptions import TemplateError  # noqa: E402
from lm_eval.api.model import TemplateLM  # noqa: E402
from lm_eval.api.registry import register_model  # noqa: E402
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # noqa: E402

_LOG = logging.getLogger(__name__)

Request = tuple[Any, list[int], list[int]]
"""A key for the harness's cache or None, the tokens of a context, those of its continuation."""


@register_model(MODEL)
class ShoalLM(TemplateLM):
    """A model that answers the requests of lm-evaluation-harness.

    The harness gives all requests of one kind, of all its tasks, in one call. They are planned as
    one forest, so batch sizes mean nothing here: they are accepted, and say so in the log.

    Args:
        pretrained: a folder or Hub id, or an `LLM`; None is the small model that ships with Shoal.
        max_length: longest context that scores and answers are given; longer ones lose their
            beginning. None: the model's own.
        max_gen_toks: most tokens of an answer whose length its task does not state.
        add_bos_token: whether texts begin with special tokens; None: the tokenizer's own habit.
        prefix_token_id: what stands before a continuation without a context.
        enable_thinking: given to the chat template.
        think_end_token: text or token that ends a model's thoughts, which are cut off.
        chat_template_args: given to the chat template.
        batch_size, max_batch_size: of no effect.
        device: "cpu" is honoured. "cuda:0" is what the harness says where nobody said anything:
            CUDA where there is one.
        options: those of `LLM`: dtype, max_model_len, tensor_parallel_size, kv_memory ...

    Raises:
        OptionError: an option that is not honoured, or a wrong value.
        ModelError: the model cannot be loaded, or needs a feature we do not honour.
    """

    tokenizer: Any

    def __init__(
        self,
        pretrained: str | LLM | None = None,
        *,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        enable_thinking: bool | None = None,
        think_end_token: str | int | None = None,
        chat_template_args: dict[str, Any] | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if enable_thinking and think_end_token is None:
            raise OptionError("enable_thinking needs think_end_token, which ends the thoughts.")
        if max_batch_size is not None or batch_size not in (None, 1, "1", "auto"):
            _LOG.info("batch sizes have no effect: all requests are planned together")
        if device is not None:
            kind = device.split(":")[0]
            options["device"] = "auto" if kind == "cuda" else kind
        self._llm = pretrained if isinstance(pretrained, LLM) else LLM(pretrained, **options)
        self._tokens = HarnessTokenizer(self._llm.get_tokenizer(), add_bos_token, prefix_token_id)
        self.tokenizer = self._tokens.tokenizer
        own = self._llm.max_model_len
        self.max_length = own if max_length is None else min(int(max_length), own)
        self.max_gen_toks = max_gen_toks
        self.enable_thinking = enable_thinking
        if isinstance(think_end_token, str) and think_end_token.isdigit():
            think_end_token = int(think_end_token)
        self._thinking = Thinking(think_end_token)
        self._template_args = dict(chat_template_args or {})
        if enable_thinking is not None:
            self._template_args["enable_thinking"] = enable_thinking

    @property
    def eot_token_id(self) -> int:
        """The end of sequence."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a continuation without a context."""
        return self._tokens.prefix_token_id

    @property
    def tokenizer_name(self) -> str:
        """A name for the harness's cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the text of a prompt; of a template without system role, without it."""

        def written(history: list[dict[str, str]]) -> str:
            text = self.tokenizer.apply_chat_template(
                history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self._template_args,
            )
            return str(text)

        try:
            return written(chat_history)
        except TemplateError:
            _LOG.warning("the chat template failed: trying without the system message")
            return written([each for each in chat_history if each["role"] != "system"])

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The tokens of a text."""
        return self._tokens.encode([string], add_special_tokens)[0]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Score]:
        """Score continuations, each behind its context.

        Raises:
            OptionError: the model is asked to think.
            InvalidRequestError, ShoalError: see `LLM.generate`.
        """
        if self.enable_thinking:
            raise OptionError("enable_thinking is for tasks that generate; this one scores.")
        texts = [each.args for each in requests]
        pairs = self._tokens.pairs(texts)
        keyed = [(text, *pair) for text, pair in zip(texts, pairs, strict=True)]
        return self._loglikelihood_tokens(keyed, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, those that are too long in windows.

        Raises:
            InvalidRequestError, ShoalError: see `LLM.generate`.
        """
        texts = [each.args[0] for each in requests]
        windows: list[Request] = []
        ends = []
        for tokens in self._tokens.encode(texts):
            found = get_rolling_token_windows(
                tokens, self.prefix_token_id, self.max_length, context_len=1
            )
            windows += [(None, *make_disjoint_window(window)) for window in found]
            ends.append(len(windows))
        scores = [each for each, _ in self._loglikelihood_tokens(windows, disable_tqdm)]
        begins = [0, *ends[:-1]]
        return [float(sum(scores[a:b])) for a, b in zip(begins, ends, strict=True)]

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[Score]:
        most = self._most_scored
        asked = [Continuation.of(context, rest, most) for _, context, rest in requests]
        cut = sum(a.start < len(r[1]) for a, r in zip(asked, requests, strict=True))
        if cut:
            _LOG.warning("%d contexts lost their beginning: more than %d tokens", cut, most)

        def keep(index: int, output: RequestOutput) -> None:
            if (key := requests[index][0]) is not None:
                self._keep("loglikelihood", key, score_of(output, asked[index]))

        with kept_if_it_ends(keep):
            return score(self._llm, asked, use_tqdm=not disable_tqdm)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer contexts, each up to what its task says ends an answer.

        Raises:
            OptionError: a generation argument that is not honoured.
            InvalidRequestError, ShoalError: see `LLM.generate`.
        """
        contexts, arguments = zip(*(each.args for each in requests), strict=True)
        asked = self._asked(arguments)
        prompts = self._prompts(contexts, asked)

        def text(index: int, output: RequestOutput) -> str:
            if output.error is not None:
                raise output.error
            tokens = output.outputs[0].token_ids
            return answer_of(tokens, asked[index], self.tokenizer, self._thinking)

        def keep(index: int, output: RequestOutput) -> None:
            key = (contexts[index], arguments[index])
            self._keep("generate_until", key, text(index, output))

        params = [each.params for each in asked]
        with kept_if_it_ends(keep):
            outputs = self._llm.generate(prompts, params, use_tqdm=not disable_tqdm)
        return [text(index, output) for index, output in enumerate(outputs)]

    @property
    def _most_scored(self) -> int:
        """Tokens of a context and its continuation. The last is only looked up, not read."""
        return self.max_length + 1

    def _asked(self, arguments: Sequence[dict[str, Any]]) -> list[AskedGeneration]:
        """What each request asks for; one object for all that ask alike."""
        eos = self.tokenizer.decode(self.eot_token_id)
        distinct: dict[str, AskedGeneration] = {}
        for each in arguments:
            if repr(each) not in distinct:
                distinct[repr(each)] = asked_for(each, eos, self.max_gen_toks, self._thinking)
        return [distinct[repr(each)] for each in arguments]

    def _prompts(
        self, contexts: Sequence[str], asked: Sequence[AskedGeneration]
    ) -> list[dict[str, Any]]:
        """The end of each context that leaves room for the answer."""
        prompts, cut = [], 0
        for tokens, each in zip(self._tokens.encode(contexts), asked, strict=True):
            most = self.max_length - int(each.params.max_tokens or 0)
            if most < 1:
                raise OptionError(
                    f"answers of {each.params.max_tokens} tokens leave no room for a context: "
                    f"max_length is {self.max_length}."
                )
            cut += len(tokens) > most
            prompts.append({"prompt_token_ids": tokens[-most:] or [self.prefix_token_id]})
        if cut:
            _LOG.warning("%d contexts lost their beginning, to leave room for answers", cut)
        return prompts

    def _keep(self, kind: str, key: Any, answer: Any) -> None:
        self.cache_hook.add_partial(kind, key, answer)


@contextmanager
def kept_if_it_ends(keep: Callable[[int, RequestOutput], None]) -> Iterator[None]:
    """Keep what was done when a run ends before its time, for the harness's cache (`--use_cache`).

    Args:
        keep: takes the index of a request and its output.
    """
    try:
        yield
    except (GenerationInterrupted, ShoalError) as ended:
        for index, output in enumerate(ended.outputs):
            if output is not None and output.error is None:
                keep(index, output)
        raise
