"""How to sample a request: the Batch API's parameters, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from shoal.errors import InvalidRequestError
from shoal.types.choice_score import ScoredChoices

CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"
RESPONSES_URL = "/v1/responses"
"""Endpoints of the Batch API that a request line may name."""

MAX_LOGPROBS = 20
"""Most alternatives that are listed per token."""
MAX_LOGPROB_TOKEN_IDS = 128
"""Most tokens whose logprobs are listed by name; vLLM's limit."""


def _strings(value: object) -> object:
    return (value,) if isinstance(value, str) else _ids(value)


def _ids(value: object) -> object:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else value


def _bias(value: object) -> object:
    """Accept {"42": 1.5} as JSON must write it, and pairs."""
    if value is None:
        return ()
    if isinstance(value, Mapping):
        try:
            return tuple(sorted((int(token), float(bias)) for token, bias in value.items()))
        except (TypeError, ValueError):
            raise ValueError("needs whole-number token ids as keys, numbers as values") from None
    return _ids(value)


NonEmptyString = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0)]


class RequestParams(BaseModel):
    """How to sample one request: the body parameters of the Batch API under the same names.

    Immutable and hashable, so that requests alike share one object. Defaults are OpenAI's.

    Raises:
        InvalidRequestError: an unknown name or a wrong value; `param` names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _as_request_error(error) from None

    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens to generate; None: up to the model's length limit."""
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    """The newer name of `max_tokens`; it wins where both are given."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    """Keep the k most likely tokens; 0 or -1 keeps all."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    n: Annotated[int, Field(ge=1, le=1024)] = 1
    """Independent choices per request."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[tuple[NonEmptyString, ...], BeforeValidator(_strings)] = ()
    stop_token_ids: Annotated[tuple[TokenId, ...], BeforeValidator(_ids)] = ()
    include_stop_str_in_output: bool = False
    logprobs: bool | Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """True (chat) or the number of alternatives (completions)."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """Alternatives per token; needs `logprobs`, unless it is 0."""
    logprob_token_ids: Annotated[
        tuple[TokenId, ...], BeforeValidator(_ids), Field(max_length=MAX_LOGPROB_TOKEN_IDS)
    ] = ()
    """Tokens whose logprobs are listed beside each sampled one, instead of the likeliest."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """Alternatives per prompt token; files ask for them by `echo` with `logprobs`."""
    prompt_logprob_start: Annotated[int, Field(ge=0)] | None = None
    """Position of the first prompt token whose logprob is wanted; None: of the second, as 1."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    logit_bias: Annotated[
        tuple[tuple[TokenId, Annotated[float, Field(ge=-100, le=100)]], ...], BeforeValidator(_bias)
    ] = ()
    """Added to the logits: {token id: bias}."""
    min_tokens: Annotated[int, Field(ge=0)] = 0
    """No end of sequence and no stop before this many tokens."""
    ignore_eos: bool = False
    echo: bool = False
    """Prompt text (and its logprobs, if asked for) before the output."""
    skip_special_tokens: bool = True
    choices: ScoredChoices | None = None
    """What the request scores instead of generating, alone or with its neighbours."""
    grammar: NonEmptyString | None = None
    """What an answer must look like, as llguidance's text; see `shoal.answers.structure`."""
    tools: NonEmptyString | None = None
    """The tools that a chat's answer may call, as JSON; None: no call is looked for in it."""
    parallel_tool_calls: bool = True
    """Whether an answer may be several calls."""
    include_reasoning: bool = True
    """Whether a chat's record shows the reasoning."""

    pooled: bool = False
    """It generates nothing: where its first token would be sampled, its vector is read."""

    @model_validator(mode="after")
    def _consistent(self) -> RequestParams:
        if self.top_logprobs and self.logprobs in (None, False):
            raise ValueError("top_logprobs: needs logprobs to be true")
        if self.logprob_token_ids and self.echo:
            raise ValueError("logprob_token_ids: does not go with echo")
        if self.token_limit is not None and self.min_tokens > self.token_limit:
            raise ValueError("min_tokens: exceeds the most tokens allowed")
        if self.prompt_logprob_start is not None and self.num_prompt_logprobs is None:
            raise ValueError("prompt_logprob_start: needs the logprobs of the prompt")
        return self

    @classmethod
    def create(cls, values: Mapping[str, Any], prefix: str = "") -> RequestParams:
        """Parameters from a mapping.

        Raises:
            InvalidRequestError: names the first wrong field as `prefix` + its name.
        """
        try:
            return cls(**values)
        except InvalidRequestError as error:
            raise InvalidRequestError(
                prefix + error.message, code=error.code, param=f"{prefix}{error.param}"
            ) from None

    @property
    def token_limit(self) -> int | None:
        """The stated limit on generated tokens."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer

    @property
    def num_logprobs(self) -> int | None:
        """Likeliest to report beside each sampled token; None: no logprobs at all."""
        if self.logprob_token_ids:
            return 0
        if self.logprobs is None or self.logprobs is False:
            return None
        if self.logprobs is True:
            return self.top_logprobs or 0
        return max(self.logprobs, self.top_logprobs or 0)

    @property
    def num_prompt_logprobs(self) -> int | None:
        """Alternatives to report beside each prompt token; None: no logprobs of the prompt."""
        if self.prompt_logprobs is not None:
            return self.prompt_logprobs
        return self.num_logprobs if self.echo else None

    @property
    def generates(self) -> bool:
        """Whether tokens are to be generated: not with a limit of 0."""
        return self.token_limit != 0

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0


def _as_request_error(error: ValidationError) -> InvalidRequestError:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["loc"]:
        name = str(first["loc"][0])
    else:
        name, _, message = message.partition(": ")
    if first["type"] == "extra_forbidden":
        return InvalidRequestError(
            f"{name} is not supported; remove it from the request.",
            code="unsupported_parameter",
            param=name,
        )
    given = first["input"] if first["loc"] else None
    scalar = isinstance(given, bool | int | float | str)  # what nests may be too deep to show
    shown = f", not {str(given)[:80]!r}" if scalar else ""
    return InvalidRequestError(
        f"{name}: {message[:1].lower() + message[1:]}{shown}.", code="invalid_value", param=name
    )
