"""What travels through the house: sampling parameters, requests, completions, the run summary.

Requests are held as columns of numbers, not as one object per request, so that millions fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from shoal.errors import InvalidRequestError

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

FinishReason = Literal["stop", "length"]

CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"
"""Endpoints of the Batch API that a request line may name."""

MAX_LOGPROBS = 20
"""Most alternatives that are listed per token."""


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
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """Alternatives per prompt token; files ask for them by `echo` with `logprobs`."""
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
    grammar: NonEmptyString | None = None
    """What an answer must look like, as llguidance's text; see `shoal.answers.structure`."""

    @model_validator(mode="after")
    def _consistent(self) -> RequestParams:
        if self.top_logprobs and self.logprobs in (None, False):
            raise ValueError("top_logprobs: needs logprobs to be true")
        if self.token_limit is not None and self.min_tokens > self.token_limit:
            raise ValueError("min_tokens: exceeds the most tokens allowed")
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
        """Alternatives to report beside each sampled token; None: no logprobs at all."""
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


@dataclass(frozen=True)
class RequestTable:
    """N requests as columns.

    Attributes:
        tokens: int32 [total prompt tokens], all prompts one after another.
        offsets: int64 [N + 1]; prompt i is tokens[offsets[i]:offsets[i + 1]], never empty.
        params: the distinct sampling parameters (their `seed` is ignored, see `seeds`).
        params_index: int32 [N], each request's place in `params`.
        max_new_tokens: int32 [N], hard limit on generated tokens per choice, at least 1.
        expected_new_tokens: int32 [N], what a choice is expected to generate, at least 1.
        seeds: int64 [N], and has_seed: bool [N]; a request without seed draws from `job_seed`.
        job_seed: seeds the streams of requests that have none.
        line: int64 [N], ascending: what the caller calls request i (for a job, its line number
            from 0; the prompts of one line are neighbours).
        place: int64 [N], the request's place among the prompts of its line, where the table is a
            part of another and may lack some of them; None: as `line` counts them.
    """

    tokens: Int32Array
    offsets: Int64Array
    params: Sequence[RequestParams]
    params_index: Int32Array
    max_new_tokens: Int32Array
    expected_new_tokens: Int32Array
    seeds: Int64Array
    has_seed: BoolArray
    line: Int64Array
    job_seed: int = 0
    place: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def prompt(self, request: int) -> Int32Array:
        """The prompt's token ids, a view."""
        return self.tokens[self.offsets[request] : self.offsets[request + 1]]

    def sampling(self, request: int) -> RequestParams:
        """The request's sampling parameters."""
        return self.params[int(self.params_index[request])]

    @property
    def lengths(self) -> Int64Array:
        """Prompt lengths in tokens, int64 [N]."""
        return np.diff(self.offsets)

    def per_request(self, values: Sequence[int]) -> Int32Array:
        """A column [N] from one value per entry of `params`, for example `n`."""
        return np.asarray(values, dtype=np.int32)[self.params_index]

    @property
    def choices(self) -> Int32Array:
        """Choices per request, int32 [N]."""
        return self.per_request([p.n for p in self.params])

    @property
    def scored(self) -> BoolArray:
        """Requests whose prompt logprobs are asked for, bool [N]: they compute all of it."""
        wanted = [p.num_prompt_logprobs is not None for p in self.params]
        return self.per_request(wanted).astype(np.bool_)

    def place_in_line(self, request: int) -> int:
        """The request's place, from 0, among the prompts of its line."""
        if self.place is not None:
            return int(self.place[request])
        return request - int(np.searchsorted(self.line, self.line[request]))


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability (natural log, of the unmodified distribution) of one token.

    `top` holds the most likely (token id, logprob) pairs, most likely first. `rank` is how many
    tokens are as likely or likelier, itself included. `logprob` and `rank` are None for the first
    prompt token, which nothing precedes.
    """

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One generated answer.

    Attributes:
        text: what was generated, as it reads after the prompt, without what stopped it unless
            `include_stop_str_in_output`; with `echo`, after the prompt's text.
        token_ids: every generated token, including the one that completed a stop.
        finish_reason: "stop" (end of sequence or a stop) or "length".
        logprobs: one per generated token (after one per prompt token under `echo`), or None.
        stop_reason: the stop string or the one of `stop_token_ids` that ended it; None where the
            model's end of sequence or the length did.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished request: its choices, or the error that ended it.

    `prompt_logprobs` has one entry per prompt token, where they are asked for.
    """

    request_index: int
    prompt_tokens: int
    choices: tuple[Choice, ...]
    error: InvalidRequestError | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None

    @property
    def generated_tokens(self) -> int:
        """Tokens generated over all choices."""
        return sum(len(choice.token_ids) for choice in self.choices)


@dataclass
class RequestCounts:
    """Requests of a run."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0


@dataclass
class TokenCounts:
    """Tokens of a run.

    `prompt` counts each choice's prompt, as an engine without sharing computes them;
    `prompt` = `prompt_computed` + `prompt_saved`, which are those of the plan that the run began
    with. `recomputed` are prompt tokens that went through the model beyond it: again after a
    preemption, in a batch that failed, or on a device that took work over.
    """

    prompt: int = 0
    prompt_computed: int = 0
    prompt_saved: int = 0
    generated: int = 0
    recomputed: int = 0


@dataclass
class PhaseSeconds:
    """Wall-clock seconds of a run's phases."""

    plan: float = 0.0
    load: float = 0.0
    run: float = 0.0
    total: float = 0.0


@dataclass
class LengthCounts:
    """How the lengths of answers were predicted, of those that could end before their limit.

    `within_10`, `within_50` and `within_90` are the shares of answers at most as long as the 10,
    50 and 90 % quantiles predicted when they began: near 0.1, 0.5 and 0.9 if the predictions were
    right.
    """

    answers: int = 0
    pilots: int = 0
    """Sequences run first, as a sample."""
    within_10: float = 0.0
    within_50: float = 0.0
    within_90: float = 0.0


@dataclass(frozen=True)
class PlanFigures:
    """The plan that a run begins with, in numbers; of several devices together.

    `shoal plan --json` and the run's summary have the same where machine and job are the same.
    """

    prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    segments: int = 0
    """Prefixes computed once for several sequences."""
    pilots: int = 0
    """Sequences that run first, as a sample."""
    order: str = ""
    """An `Order`; several where devices chose differently."""
    kv_peak_bytes: int = 0
    """KV expected at the fullest moment."""
    digest: str = ""
    """Of everything in it, the order of the sequences included."""

    @classmethod
    def together(cls, parts: Sequence[PlanFigures]) -> PlanFigures:
        """Those of several devices, of which each runs a plan of its own; of one, its own."""
        if len(parts) == 1:
            return parts[0]
        digests = ",".join(part.digest for part in parts)
        return cls(
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            computed_prompt_tokens=sum(part.computed_prompt_tokens for part in parts),
            segments=sum(part.segments for part in parts),
            pilots=sum(part.pilots for part in parts),
            order=", ".join(sorted({part.order for part in parts})),
            kv_peak_bytes=sum(part.kv_peak_bytes for part in parts),
            digest=blake2b(digests.encode(), digest_size=8).hexdigest(),
        )


@dataclass
class RunSummary:
    """What a run did: the object behind `--summary` and `LLM.last_run`."""

    requests: RequestCounts = field(default_factory=RequestCounts)
    tokens: TokenCounts = field(default_factory=TokenCounts)
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)
    throughput: float = 0.0
    """Generated tokens per second of the run phase."""
    peak_kv_bytes: int = 0
    kv_peak_bytes_forecast: int = 0
    """What the plan expected `peak_kv_bytes` to be."""
    iterations: int = 0
    preemptions: int = 0
    """Sequences and idle segments that gave way when memory ran out, and were computed again."""
    mean_tokens_per_iteration: float = 0.0
    lengths: LengthCounts = field(default_factory=LengthCounts)
    device_seconds: list[float] = field(default_factory=list)
    """How long each of several devices had requests to run."""
    plan: PlanFigures = field(default_factory=PlanFigures)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, ready for JSON."""
        return asdict(self)
