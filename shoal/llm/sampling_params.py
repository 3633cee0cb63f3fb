"""vLLM's `SamplingParams`, and the request parameters that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from shoal.errors import InvalidRequestError
from shoal.fates import Fate, Honoured, NoEffect, Refused
from shoal.llm.structured_outputs import StructuredOutputsParams
from shoal.types import RequestParams

_STREAMS = NoEffect("Outputs are returned whole; nothing is streamed.")
_ONE_WAY = NoEffect("How vLLM works inside.")
_BEAMS = Refused("There is no beam search; sample n outputs instead.", (None, False))


@dataclass(kw_only=True)
class SamplingParams:
    """How to sample: vLLM's fields and defaults, by keyword.

    Fields that Shoal does not honour are there to be refused by name. They may be changed later:
    a call reads them when it begins.

    Raises:
        InvalidRequestError: a wrong value, or a field that is not honoured; `param` names it.
        TypeError: an unknown field.
    """

    n: Annotated[int, Honoured("Outputs per prompt.")] = 1
    presence_penalty: Annotated[float, Honoured("From -2 to 2.")] = 0.0
    frequency_penalty: Annotated[float, Honoured("From -2 to 2.")] = 0.0
    repetition_penalty: Annotated[float, Honoured("Above 0, at most 10.")] = 1.0
    temperature: Annotated[float, Honoured("From 0 to 2; 0 is greedy.")] = 1.0
    top_p: Annotated[float, Honoured("Above 0, at most 1.")] = 1.0
    top_k: Annotated[int, Honoured("0 or -1: all tokens.")] = 0
    min_p: Annotated[float, Honoured("From 0 to 1.")] = 0.0
    seed: Annotated[int | None, Honoured("Makes the draws of this prompt repeat; -1 is None.")] = (
        None
    )
    stop: Annotated[str | Sequence[str] | None, Honoured("Strings that end an output.")] = None
    stop_token_ids: Annotated[Sequence[int] | None, Honoured("Tokens that end an output.")] = None
    ignore_eos: Annotated[bool, Honoured("Go on after the end of sequence.")] = False
    max_tokens: Annotated[
        int | None, Honoured("Most tokens of an output; 0: none. None: up to the model's length.")
    ] = 16
    min_tokens: Annotated[int, Honoured("No end and no stop before this many tokens.")] = 0
    logprobs: Annotated[int | None, Honoured("Likeliest tokens listed per token, 0 to 20.")] = None
    prompt_logprobs: Annotated[
        int | None, Honoured("The same of the prompt, whose tokens are still shared.")
    ] = None
    prompt_logprob_start: Annotated[
        int | None, Honoured("The first prompt token that prompt_logprobs is for.")
    ] = None
    detokenize: Annotated[bool, Honoured("False: texts are empty.")] = True
    skip_special_tokens: Annotated[bool, Honoured("Leave them out of texts.")] = True
    include_stop_str_in_output: Annotated[bool, Honoured("Show what stopped an output.")] = False
    logit_bias: Annotated[
        Mapping[int, float] | None, Honoured("Added to logits; from -100 to 100.")
    ] = None
    structured_outputs: Annotated[
        StructuredOutputsParams | None, Honoured("What an output must look like.")
    ] = None
    spaces_between_special_tokens: Annotated[
        bool, Refused("False needs skip_special_tokens=True, where it changes nothing.", (True,))
    ] = True

    output_kind: Annotated[Any, _STREAMS] = None
    stream_interval: Annotated[Any, _STREAMS] = None
    skip_clone: Annotated[Any, _ONE_WAY] = False
    output_text_buffer_length: Annotated[Any, _ONE_WAY] = 0
    skip_reading_prefix_cache: Annotated[Any, _ONE_WAY] = None
    routed_experts_prompt_start: Annotated[Any, _ONE_WAY] = 0

    guided_decoding: Annotated[
        Any, Refused("vLLM calls it structured_outputs now: StructuredOutputsParams.")
    ] = None
    allowed_token_ids: Annotated[Any, Refused("Favour tokens with logit_bias.")] = None
    bad_words: Annotated[
        Any, Refused("Give single tokens a logit_bias of -100.", (None, [], ()))
    ] = None
    logits_processors: Annotated[
        Any, Refused("logit_bias and penalties change logits.", (None, [], ()))
    ] = None
    extra_args: Annotated[Any, Refused("No plugin reads them.", (None, {}))] = None
    flat_logprobs: Annotated[
        Any, Refused("logprobs are lists of {token id: Logprob}.", (False, None))
    ] = False
    logprob_token_ids: Annotated[Any, Refused("logprobs lists the likeliest tokens.")] = None
    prompt_logprob_token_ids: Annotated[
        Any, Refused("prompt_logprobs lists the likeliest tokens.")
    ] = None
    thinking_token_budget: Annotated[Any, Refused("Lower max_tokens.", (None, -1))] = None
    repetition_detection: Annotated[Any, Refused("Lower max_tokens, or penalise.")] = None
    trace_decode_token_ids: Annotated[Any, Refused("Append the tokens to the prompt.")] = None
    truncate_prompt_tokens: Annotated[Any, Refused("Cut the prompt before the call.")] = None
    best_of: Annotated[Any, Refused("Ask for n outputs, and choose.", (None, 1))] = None
    use_beam_search: Annotated[Any, _BEAMS] = None
    early_stopping: Annotated[Any, _BEAMS] = None
    length_penalty: Annotated[Any, Refused(_BEAMS.instead, (None, 1.0))] = None

    def __post_init__(self) -> None:
        self.request_params()

    def request_params(self) -> RequestParams:
        """The same as a request's parameters, checked.

        Raises:
            InvalidRequestError: see the class.
        """
        for name, fate in sampling_fates().items():
            if isinstance(fate, Refused) and fate.refuses(value := getattr(self, name)):
                if name == "spaces_between_special_tokens" and self.skip_special_tokens:
                    continue
                raise _wrong(name, f"{str(value)[:80]} is not supported. {fate.instead}")
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) == -1:
                raise _wrong(name, "-1, the whole vocabulary, is not supported; at most 20 are.")
        if self.stop and not self.detokenize:
            raise _wrong("stop", "needs the text of an output; leave detokenize=True.")
        values = {
            name: getattr(self, name)
            for name, fate in sampling_fates().items()
            if isinstance(fate, Honoured) and name not in ("detokenize", "structured_outputs")
        }
        for name in ("logprobs", "prompt_logprobs"):
            if values[name] is True:
                values[name] = 1
        if self.seed == -1:
            values["seed"] = None
        return RequestParams(**values, grammar=self._grammar())

    def _grammar(self) -> str | None:
        asked = self.structured_outputs
        if asked is None:
            return None
        if not isinstance(asked, StructuredOutputsParams):
            raise _wrong("structured_outputs", "must be StructuredOutputsParams.")
        return asked.structure().grammar

    @classmethod
    def of_model(cls, defaults: Mapping[str, Any]) -> SamplingParams:
        """A model's own defaults, under the names of `RequestParams`; vLLM's beside them."""
        values = dict(defaults)
        if "max_tokens" not in values:
            values["max_tokens"] = max(16, values.get("min_tokens", 0))
        return cls(**values)


@cache
def sampling_fates() -> dict[str, Fate]:
    """What becomes of each field."""
    hints = get_type_hints(SamplingParams, include_extras=True)
    return {field.name: get_args(hints[field.name])[1] for field in fields(SamplingParams)}


def _wrong(name: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{name}: {why}", code="invalid_value", param=name)
