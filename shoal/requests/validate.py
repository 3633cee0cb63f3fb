"""Check one line of a batch file: bytes in, a `ParsedRequest` or `InvalidRequestError` out.

The contract is OpenAI's Batch API; `body_fields.py` says what becomes of each field. What is not
honoured is refused by name, never ignored; null means absent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import orjson

from shoal.answers.answer_format import AnswerFormat
from shoal.answers.call_grammar import after_reasoning
from shoal.answers.grammar import GrammarCompiler
from shoal.answers.structure import Structure
from shoal.errors import InvalidRequestError
from shoal.fates import Honoured
from shoal.prompts.prompts import ChatPrompt, Prompt, parse_messages, parse_prompts, whole_number
from shoal.prompts.refusals import check_fields, kind_of, missing, shown, wrong_value
from shoal.requests.asked_structure import asked_structure
from shoal.requests.asked_tools import AskedTools, asked_tools
from shoal.requests.body_fields import BODY_FIELDS, LINE_FIELDS, endpoint
from shoal.requests.model_names import ModelNames
from shoal.requests.parsed_request import ParsedRequest
from shoal.requests.pooled_bodies import PooledBodies
from shoal.requests.response_input import chat_fields, response_messages
from shoal.requests.scored_choices import AskedChoices, check_beside, does_not_go, parse_choices
from shoal.types import (
    CHAT_URL,
    COMPLETIONS_URL,
    MAX_LOGPROBS,
    POOLED,
    POOLED_URLS,
    RESPONSES_URL,
    Adapter,
    RequestParams,
)

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's `max_tokens` of /v1/completions; a chat answer may fill the model's length."""

_ENVELOPE = ("custom_id", "method", "url", "body")
_SAMPLING = {
    url: [name for name in RequestParams.model_fields if isinstance(fates.get(name), Honoured)]
    for url, fates in BODY_FIELDS.items()
}
_SAMPLING[RESPONSES_URL] += ["max_completion_tokens", "logprobs"]  # as `chat_fields` names them
_PROMPT_FIELDS = {
    CHAT_URL: "body.messages",
    COMPLETIONS_URL: "body.prompt",
    RESPONSES_URL: "body.input",
}
_OF_TEMPLATE = ("add_generation_prompt", "continue_final_message", "reasoning_effort", "verbosity")
"""Fields that a chat template is given."""


def decode_line(data: bytes) -> dict[str, Any]:
    """The JSON object on a line.

    Raises:
        InvalidRequestError: code `invalid_json_line`: not UTF-8, not JSON, not an object.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _invalid_json(_why_not_json(data, error)) from None
    if not isinstance(value, dict):
        raise _invalid_json(f"the line holds {kind_of(value)}, not a JSON object")
    return value


def custom_id_of(line: Mapping[str, Any]) -> str | None:
    """The line's custom_id if it has one, right or wrong otherwise."""
    custom_id = line.get("custom_id")
    return custom_id if isinstance(custom_id, str) and custom_id else None


class Validator:
    """Checks lines for one model; keeps the sampling parameters it has seen.

    Args:
        names: of the model, for `body.model`; `*` accepts anything.
        vocab_size: token ids must be below it.
        defaults: the model's own sampling defaults (its generation_config.json).
        compiler: tells whether a schema or grammar can be had with the model; without one, that
            is not looked at.
        schema: what answers look like whose request asks for no form of its own.
        pooled: reads the requests of a model that does not generate; None: it does.
        choices: what is scored for requests that ask for no form of their own.
        form: of the model's answers; None: they are content and nothing else.
        adapters: that `body.model` may name instead.
    """

    def __init__(
        self,
        names: Collection[str],
        vocab_size: int,
        defaults: Mapping[str, Any],
        compiler: GrammarCompiler | None = None,
        schema: Structure | None = None,
        pooled: PooledBodies | None = None,
        choices: AskedChoices | None = None,
        form: AnswerFormat | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        self._pooled = pooled
        self._names = ModelNames(names, adapters)
        self._vocab_size = vocab_size
        self._defaults = dict(defaults)
        self._compiler, self._schema, self._choices = compiler, schema, choices
        self._form = form or AnswerFormat()
        self._params: dict[bytes, RequestParams] = {}

    def request(self, line: Mapping[str, Any]) -> ParsedRequest:
        """Check a decoded line.

        Raises:
            InvalidRequestError: names the first field that is wrong.
        """
        url, body = self._envelope(line)
        given = {name: whole_number(value) for name, value in body.items() if value is not None}
        adapter = self._names.adapter_of(given)
        if (url in POOLED_URLS) != (self._pooled is not None):
            raise _other_kind(url)
        if self._pooled is not None:
            return _pooled_request(line["custom_id"], url, given, self._pooled)
        check_fields(given, BODY_FIELDS[url], "body.")
        prompts: tuple[Prompt, ...]
        tools = AskedTools()
        if url == CHAT_URL:
            tools = asked_tools(given, self._form)
            kwargs = given.get("chat_template_kwargs", {})
            arguments = _template_arguments(given, kwargs)
            if tools.given:
                arguments["tools"] = tools.given
            messages = parse_messages(given.get("messages"))
            prompts = (ChatPrompt(messages, kwargs, arguments, calls_tools=not tools.idle),)
        elif url == RESPONSES_URL:
            messages, names = response_messages(given)
            given = chat_fields(given)
            kwargs = given.get("chat_template_kwargs", {})
            arguments = _template_arguments(given, kwargs)
            prompts = (ChatPrompt(messages, kwargs, arguments, names=names),)
        else:
            prompts = parse_prompts(given.get("prompt"), self._vocab_size)
        key, params = self._sampling(given, url, tools)
        field = _PROMPT_FIELDS[url]
        places = [f"{field}[{i}]" if len(prompts) > 1 else field for i in range(len(prompts))]
        choices = self._scored(given, url, params)
        seed, special = _seed(given), url == COMPLETIONS_URL
        custom_id, where = line["custom_id"], tuple(places)
        return ParsedRequest(
            custom_id, url, prompts, key, params, seed, special, where, choices, adapter
        )

    def _scored(
        self, body: Mapping[str, Any], url: str, params: RequestParams
    ) -> AskedChoices | None:
        """What a line wants scored: its own choices, or the job's if it asks for no form."""
        own = body.get("score_choices")
        if own is None and self._choices is None:
            return None
        choices = self._choices if own is None else parse_choices(own, "body.score_choices")
        assert choices is not None
        if url == RESPONSES_URL:
            raise does_not_go(choices, url)
        if asked_structure(body, url) is not None:
            if own is None:
                return None
            name = "structured_outputs" if "structured_outputs" in body else "response_format"
            raise does_not_go(choices, name)
        check_beside(choices, body, params)
        return choices

    def after_reasoning(self, request: ParsedRequest, text: str) -> ParsedRequest:
        """The chat with a grammar that begins when the model has reasoned.

        Args:
            text: its prompt, as the model reads it.

        Raises:
            InvalidRequestError: such a grammar cannot be had.
        """
        grammar, begun = request.params.grammar, self._form.reasoning_in(text)
        if grammar is None or self._form.reasoning is None:
            return request
        key = request.params_key + begun.name.encode()
        params = self._params.get(key)
        if params is None:
            structure = after_reasoning(Structure(grammar, "body"), self._form, begun)
            if self._compiler is not None:
                self._compiler.check(structure.grammar, structure.param)
            params = request.params.model_copy(update={"grammar": structure.grammar})
            self._params[key] = params
        return replace(request, params_key=key, params=params)

    def _envelope(self, line: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        for name in _ENVELOPE:
            if line.get(name) is None:
                raise missing(name)
        given = {name: value for name, value in line.items() if value is not None}
        check_fields(given, LINE_FIELDS, "")
        if custom_id_of(line) is None:
            raise wrong_value("custom_id", "must be a string that is not empty")
        if line["method"] != "POST":
            raise wrong_value("method", 'must be "POST"')
        url, body = endpoint(line["url"]), line["body"]
        if url is None:
            raise InvalidRequestError(
                f"url must be {', '.join(list(BODY_FIELDS)[:-1])} or {list(BODY_FIELDS)[-1]}, not "
                f"{shown(line['url'])}.",
                code="invalid_url",
                param="url",
            )
        if not isinstance(body, dict):
            raise wrong_value("body", f"must be an object, not {kind_of(body)}")
        return url, body

    def _sampling(
        self, body: Mapping[str, Any], url: str, tools: AskedTools
    ) -> tuple[bytes, RequestParams]:
        given = {name: body[name] for name in _SAMPLING[url] if name in body and name != "seed"}
        for name in ("stop_token_ids", "logprob_token_ids"):
            if isinstance(ids := given.get(name), list):
                given[name] = [whole_number(token) for token in ids]
        own = asked_structure(body, url) or self._schema
        structure = tools.with_content(own)
        if structure is not None:
            given["grammar"] = structure.grammar
        if "tools" in given:
            given["tools"] = tools.callable
        values = _defaults_beside(given, self._defaults) | given
        if url == COMPLETIONS_URL:
            values.setdefault("max_tokens", DEFAULT_COMPLETION_TOKENS)
        key = _key(url, values)
        params = self._params.get(key)
        if params is None:
            _check_logprobs(values, url)
            _check_named(values)
            _check_logit_bias(values)
            params = RequestParams.create(values, "body.")
            _check_limit(params)
            _check_vocabulary(params, self._vocab_size)
            if self._compiler is not None:
                for each in (own, structure):
                    if each is not None:
                        self._compiler.check(each.grammar, each.param)
            self._params[key] = params
        return key, params


def _pooled_request(
    custom_id: str, url: str, given: Mapping[str, Any], bodies: PooledBodies
) -> ParsedRequest:
    found = bodies.prompts(url, given, bodies.read(url, given))
    texts, special = found.prompts, found.special_tokens
    return ParsedRequest(custom_id, url, texts, b"", POOLED, None, special, found.places)


def _other_kind(url: str) -> InvalidRequestError:
    """The error of a line that another kind of job would run."""
    first = "generates" if url in POOLED_URLS else "gives vectors, scores or classes"
    return InvalidRequestError(
        f"url {url}: this job {first}, as its first line asks, and one job does one of both. Put "
        "lines of the other kind into a file of their own.",
        code="invalid_url",
        param="url",
    )


def _defaults_beside(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The model's defaults where a request gives a limit of its own, under either name."""
    limit = given.get("max_completion_tokens", given.get("max_tokens"))
    if limit is None:
        return dict(defaults)
    kept = {name: value for name, value in defaults.items() if name != "max_tokens"}
    if "min_tokens" in kept and type(limit) is int:
        kept["min_tokens"] = max(0, min(kept["min_tokens"], limit))
    return kept


def _key(url: str, values: Mapping[str, Any]) -> bytes:
    """Equal for equal parameters."""
    try:
        return orjson.dumps([url, values], option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # its limit of nesting is a quarter of the decoder's
        deepest = max(values, key=lambda name: _depth(values[name]))
        raise wrong_value(f"body.{deepest}", "is nested too deeply for a parameter") from None


def _depth(value: object) -> int:
    """Levels of arrays and objects."""
    levels, inside = 0, [value]
    while inside := [v for v in inside if isinstance(v, dict | list)]:
        levels += 1
        inside = [x for v in inside for x in (v.values() if isinstance(v, dict) else v)]
    return levels


def _template_arguments(given: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What the fields of a chat say to its template, beside its `chat_template_kwargs`."""
    said = {name: given[name] for name in _OF_TEMPLATE if name in given}
    if said.get("continue_final_message"):
        if said.get("add_generation_prompt"):
            raise wrong_value(
                "body.continue_final_message",
                "needs add_generation_prompt to be false: a message is continued or answered",
            )
        said["add_generation_prompt"] = False
    for name in said.keys() & kwargs.keys():
        if said[name] != kwargs[name]:
            raise wrong_value(
                f"body.chat_template_kwargs.{name}",
                f"is not what body.{name} says or implies; give one of them",
            )
    if "reasoning_effort" in said:
        said["enable_thinking"] = said["reasoning_effort"] != "none"
    return said


def _check_logprobs(values: Mapping[str, Any], url: str) -> None:
    logprobs = values.get("logprobs")
    if url == CHAT_URL and not isinstance(logprobs, bool | None):
        raise wrong_value("body.logprobs", "must be true or false; give the number as top_logprobs")
    numbers = range(MAX_LOGPROBS + 1)
    if url == COMPLETIONS_URL and not (
        logprobs is None or (type(logprobs) is int and logprobs in numbers)
    ):
        why = f"must be the number of alternatives per token, from 0 to {MAX_LOGPROBS}"
        raise wrong_value("body.logprobs", why)


def _check_named(values: Mapping[str, Any]) -> None:
    if values.get("logprob_token_ids") and values.get("logprobs") in (None, False):
        raise wrong_value("body.logprob_token_ids", "needs logprobs, as top_logprobs do")


def _check_logit_bias(values: Mapping[str, Any]) -> None:
    bias = values.get("logit_bias", {})
    if not isinstance(bias, dict) or any(type(b) not in (int, float) for b in bias.values()):
        raise wrong_value("body.logit_bias", "must be an object {token id: number}")


def _check_limit(params: RequestParams) -> None:
    if params.token_limit == 0 and not params.echo:
        name = "max_tokens" if params.max_completion_tokens is None else "max_completion_tokens"
        raise wrong_value(f"body.{name}", "must be at least 1 (0 only together with echo)")


def _check_vocabulary(params: RequestParams, vocab_size: int) -> None:
    for name, ids in (
        ("stop_token_ids", params.stop_token_ids),
        ("logprob_token_ids", params.logprob_token_ids),
        ("logit_bias", [token for token, _ in params.logit_bias]),
    ):
        for token in ids:
            if token >= vocab_size:
                raise wrong_value(
                    f"body.{name}",
                    f"names token {token}, but the model's tokens are 0 to {vocab_size - 1}",
                )


def _seed(body: Mapping[str, Any]) -> int | None:
    seed = body.get("seed")
    if seed is not None:
        RequestParams.create({"seed": seed}, "body.")
    return cast("int | None", seed)


def _why_not_json(data: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as unicode_error:
        return f"not valid UTF-8 at byte {unicode_error.start + 1} of the line"
    return f"not JSON: {error.msg} (character {error.colno})"


def _invalid_json(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{why}.", code="invalid_json_line")
