"""Every field that clients write is honoured, ignored, asks for nothing, or is refused by name."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, get_args, get_type_hints

import pytest
from openai.types import EmbeddingCreateParams
from openai.types import completion_create_params as completions
from openai.types.chat import ChatCompletionMessageParam
from openai.types.chat import completion_create_params as chats
from openai.types.chat.chat_completion_assistant_message_param import ContentArrayOfContentPart
from openai.types.chat.chat_completion_content_part_param import ChatCompletionContentPartParam
from openai.types.responses import EasyInputMessageParam, ResponseTextConfigParam
from openai.types.responses import response_create_params as responses
from openai.types.responses.response_format_text_config_param import ResponseFormatTextConfigParam
from openai.types.responses.response_input_content_param import ResponseInputContentParam
from openai.types.responses.response_input_item_param import Message
from openai.types.responses.response_output_message_param import ResponseOutputMessageParam
from openai.types.responses.response_output_refusal_param import ResponseOutputRefusalParam
from openai.types.responses.response_output_text_param import ResponseOutputTextParam
from openai.types.shared_params import Reasoning

from shoal.config import PoolingType
from shoal.errors import InvalidRequestError
from shoal.fates import Fate, Honoured, NoEffect, Refused
from shoal.model.pooling import Pooling, PoolingActivation, Task
from shoal.prompts.message_fields import MESSAGE_FIELDS, PART_FIELDS
from shoal.prompts.prompts import ChatPrompt
from shoal.requests.body_fields import BODY_FIELDS, LINE_FIELDS, endpoint
from shoal.requests.parsed_request import ParsedRequest
from shoal.requests.pooled_bodies import PooledBodies
from shoal.requests.response_fields import (
    FORMAT_FIELDS,
    ITEM_FIELDS,
    ITEM_PART_FIELDS,
    REASONING_FIELDS,
    TEXT_FIELDS,
)
from shoal.requests.validate import Validator, decode_line
from shoal.types import (
    CHAT_URL,
    CLASSIFY_URL,
    COMPLETIONS_URL,
    EMBEDDINGS_URL,
    RERANK_URL,
    RESPONSES_URL,
    SCORE_URL,
    RequestParams,
)
from tests.helpers.job_files import (
    byte_tokenizer,
    chat,
    completion,
    pooled,
    response,
)

VALIDATOR = Validator({"toy"}, vocab_size=100, defaults={})
EMBEDS = Pooling(Task.embed, PoolingType.last, 32, PoolingActivation.normalize, declared=True)
CLASSIFIES = Pooling(
    Task.classify, PoolingType.last, 2, PoolingActivation.softmax, labels=("a", "b")
)
POOLED = {
    url: Validator({"toy"}, 100, {}, pooled=PooledBodies(pooling, byte_tokenizer(), 100))
    for url, pooling in [
        (EMBEDDINGS_URL, EMBEDS), (SCORE_URL, EMBEDS), (RERANK_URL, EMBEDS),
        (CLASSIFY_URL, CLASSIFIES),
    ]
}  # fmt: skip
"""By endpoint: generation's are VALIDATOR's."""
LINES = {
    CHAT_URL: chat,
    COMPLETIONS_URL: completion,
    RESPONSES_URL: response,
    EMBEDDINGS_URL: partial(pooled, EMBEDDINGS_URL, input="a"),
    SCORE_URL: partial(pooled, SCORE_URL, queries="a", documents="b"),
    RERANK_URL: partial(pooled, RERANK_URL, query="a", documents=["b", "c"]),
    CLASSIFY_URL: partial(pooled, CLASSIFY_URL, input="a"),
}
SAMPLES: dict[type | None, Any] = {str: "x", bool: True, int: 3, dict: {"a": 1}, None: "x"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def parse(line: dict) -> ParsedRequest:
    return POOLED.get(line["url"], VALIDATOR).request(decode_line(json.dumps(line).encode()))


def refusal(line: dict) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(line)
    return caught.value


def arguments(**body: object) -> tuple[dict, dict]:
    """What a chat gives its template: `chat_template_kwargs`, and of its own accord."""
    (prompt,) = parse(chat("a", **body)).prompts
    assert isinstance(prompt, ChatPrompt)
    return prompt.template_kwargs, prompt.arguments


def fields_of(*kinds: Any) -> set[str]:
    return {name for kind in kinds for name in get_type_hints(kind)}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (BODY_FIELDS[CHAT_URL], fields_of(*get_args(chats.CompletionCreateParams))),
        (BODY_FIELDS[COMPLETIONS_URL], fields_of(*get_args(completions.CompletionCreateParams))),
        (BODY_FIELDS[EMBEDDINGS_URL], fields_of(EmbeddingCreateParams)),
        (BODY_FIELDS[RESPONSES_URL], fields_of(*get_args(responses.ResponseCreateParams))),
        (TEXT_FIELDS, fields_of(ResponseTextConfigParam)),
        (FORMAT_FIELDS, fields_of(*get_args(ResponseFormatTextConfigParam))),
        (REASONING_FIELDS, fields_of(Reasoning)),
        (ITEM_FIELDS, fields_of(EasyInputMessageParam, Message, ResponseOutputMessageParam)),
        (
            ITEM_PART_FIELDS,
            fields_of(
                *get_args(ResponseInputContentParam),
                ResponseOutputTextParam,
                ResponseOutputRefusalParam,
            ),
        ),
        (MESSAGE_FIELDS, fields_of(*get_args(ChatCompletionMessageParam))),
        (
            PART_FIELDS,
            fields_of(
                *get_args(ChatCompletionContentPartParam), *get_args(ContentArrayOfContentPart)
            ),
        ),
    ],
    ids=[
        *("chat", "completions", "embeddings"),
        *("responses", "text", "format", "reasoning", "item", "item part"),
        *("message", "part"),
    ],
)
def test_a_new_field_of_openais_client_needs_a_decision(
    ours: dict[str, Fate], theirs: set[str]
) -> None:
    assert len(theirs) > 1
    assert theirs - ours.keys() == set(), "say what becomes of these, then run `make docs`"


EACH = [(url, name, fate) for url, fates in BODY_FIELDS.items() for name, fate in fates.items()]


@pytest.mark.parametrize(("url", "name", "fate"), EACH, ids=[f"{u[4:]}-{n}" for u, n, _ in EACH])
def test_each_field_does_what_the_table_says(url: str, name: str, fate: Fate) -> None:
    make, plain = LINES[url], parse(LINES[url]("a"))
    if isinstance(fate, NoEffect):
        assert parse(make("a", **{name: SAMPLES[fate.kind]})) == plain
    if isinstance(fate, Refused):
        for value in fate.harmless:
            assert parse(make("a", **{name: value})) == plain
        error = refusal(make("a", **{name: SAMPLES[fate.kind]}))
        assert error.param == f"body.{name}"
        assert fate.instead in error.message
        stream = name == "stream"
        assert error.code == ("streaming_unsupported" if stream else "unsupported_parameter")
    if fate.kind is not None:
        error = refusal(make("a", **{name: 1.5}))
        assert (error.code, error.param) == ("invalid_value", f"body.{name}")


@pytest.mark.parametrize("url", [CHAT_URL, COMPLETIONS_URL, RESPONSES_URL])
def test_honoured_fields_are_those_the_code_reads(url: str) -> None:
    honoured = {n for n, fate in BODY_FIELDS[url].items() if isinstance(fate, Honoured)}
    read_elsewhere = {
        CHAT_URL: {
            *("model", "messages", "chat_template_kwargs", "add_generation_prompt"),
            *("continue_final_message", "reasoning_effort", "verbosity"),
            *("response_format", "structured_outputs", "tool_choice", "score_choices"),
        },
        COMPLETIONS_URL: {
            *("model", "prompt", "response_format", "structured_outputs", "score_choices"),
        },
        RESPONSES_URL: {
            *("model", "input", "instructions", "max_output_tokens", "text", "include"),
            *("reasoning", "chat_template_kwargs", "metadata", "structured_outputs"),
        },
    }
    assert honoured - RequestParams.model_fields.keys() == read_elsewhere[url]


def test_a_field_that_is_nearly_right_is_named() -> None:
    assert "max_tokens is" in refusal(chat("a", max_token=3)).message
    error = refusal(chat("a", foo=1))
    assert (error.param, error.message) == (
        "body.foo",
        "body.foo is not supported; remove it from the request.",
    )


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("/chat/completions", CHAT_URL),
        ("/v1/chat/completions/", CHAT_URL),
        ("/completions", COMPLETIONS_URL),
        ("/v1/completions", COMPLETIONS_URL),
        ("https://api.openai.com/v1/chat/completions", None),
        ("/v1/v1/completions", None),
        ("chat/completions", None),
        ("/embeddings", EMBEDDINGS_URL),
        ("/score", SCORE_URL),
        ("/v2/rerank", RERANK_URL),
        ("/v1/classify/", CLASSIFY_URL),
        ("/v1/responses", RESPONSES_URL),
        ("/responses/", RESPONSES_URL),
        ("", None),
        (3, None),
    ],
)
def test_urls(url: object, found: str | None) -> None:
    assert endpoint(url) == found
    line = LINES[found or CHAT_URL]("a") | {"url": url}
    if found is None:
        assert refusal(line).code == "invalid_url"
    else:
        validator = POOLED.get(found, VALIDATOR)
        assert validator.request(decode_line(json.dumps(line).encode())).url == found


def test_notes_on_a_line_are_accepted() -> None:
    assert parse(chat("a") | {"id": "x", "metadata": {"a": 1}}) == parse(chat("a"))
    assert refusal(chat("a") | {"note": "x"}).param == "note"
    assert {n for n, f in LINE_FIELDS.items() if isinstance(f, NoEffect)} == {"id", "metadata"}


def test_whole_numbers_may_be_floats() -> None:
    given = {"max_tokens": 8.0, "n": 2.0, "top_k": 5.0, "min_tokens": 1.0, "temperature": 1.0}
    given |= {"seed": 3.0, "stop_token_ids": [4.0, 5]}
    exact = {"max_tokens": 8, "n": 2, "top_k": 5, "min_tokens": 1, "seed": 3}
    exact |= {"stop_token_ids": [4, 5], "temperature": 1}
    assert parse(chat("a", **given)) == parse(chat("a", **exact))
    assert parse(completion("a", [5.0, 6])).prompts == ([5, 6],)
    assert parse(completion("a", [[5.0], [6.0]])).prompts == ([5], [6])
    assert parse(completion("a", best_of=1.0, logprobs=2.0)).params.num_logprobs == 2


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_limits_the_newer_name_wins(order: int) -> None:
    limits = dict([("max_tokens", 8), ("max_completion_tokens", 4)][::order])
    line = chat("a")
    line["body"] = {"model": "toy", "messages": line["body"]["messages"], **limits}
    assert parse(line).params.token_limit == 4
    with_defaults = Validator({"toy"}, 100, {"max_tokens": 3, "min_tokens": 6})
    params = with_defaults.request(line).params
    assert (params.token_limit, params.min_tokens) == (4, 4)


@pytest.mark.parametrize("logprobs", [{}, {"logprobs": False}, {"logprobs": None}])
def test_no_alternatives_need_no_logprobs(logprobs: dict) -> None:
    assert parse(chat("a", top_logprobs=0, **logprobs)).params.num_logprobs is None
    assert refusal(chat("a", top_logprobs=1, **logprobs)).param == "body.top_logprobs"


@pytest.mark.parametrize(
    ("body", "kwargs", "own"),
    [
        ({}, {}, {}),
        ({"add_generation_prompt": True}, {}, {"add_generation_prompt": True}),
        ({"continue_final_message": False}, {}, {"continue_final_message": False}),
        (
            {"continue_final_message": True},
            {},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
        (
            {"reasoning_effort": "low", "verbosity": "high"},
            {},
            {"reasoning_effort": "low", "verbosity": "high", "enable_thinking": True},
        ),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            {"enable_thinking": True},
            {"reasoning_effort": "none", "enable_thinking": False},
        ),
        ({"tools": [TOOL], "tool_choice": "none"}, {}, {"tools": [TOOL]}),
        ({"tools": [], "tool_choice": "none"}, {}, {}),
    ],
)
def test_what_a_chat_gives_its_template(body: dict, kwargs: dict, own: dict) -> None:
    assert arguments(**body) == (kwargs, own)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "body.continue_final_message",
        ),
        (
            {
                "continue_final_message": True,
                "chat_template_kwargs": {"add_generation_prompt": True},
            },
            "body.chat_template_kwargs.add_generation_prompt",
        ),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
            "body.chat_template_kwargs.reasoning_effort",
        ),
    ],
)
def test_fields_that_contradict_each_other(body: dict, param: str) -> None:
    error = refusal(chat("a", **body))
    assert (error.code, error.param) == ("invalid_value", param)


def test_tokens_whose_logprobs_are_wanted() -> None:
    params = parse(chat("a", logprobs=True, top_logprobs=5, logprob_token_ids=[4.0, 2])).params
    assert (params.logprob_token_ids, params.num_logprobs) == ((4, 2), 0)
    assert parse(completion("a", logprobs=1, logprob_token_ids=[7])).params.num_logprobs == 0
    assert parse(chat("a", logprob_token_ids=[])).params.num_logprobs is None
    for line in (
        chat("a", logprob_token_ids=[4]),
        chat("a", logprobs=False, logprob_token_ids=[4]),
        completion("a", logprob_token_ids=[4]),
        chat("a", logprobs=True, logprob_token_ids=[100]),
        chat("a", logprobs=True, logprob_token_ids=["x"]),
        completion("a", logprobs=1, echo=True, logprob_token_ids=[4]),
    ):
        assert refusal(line).param == "body.logprob_token_ids"
