from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidRequestError
from shoal.prompts.prompts import ChatPrompt
from shoal.requests.parsed_request import ParsedRequest
from shoal.requests.validate import Validator, custom_id_of, decode_line
from shoal.types import RequestParams
from tests.helpers.job_files import chat, completion

VALIDATOR = Validator({"toy"}, vocab_size=100, defaults={})


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def called(arguments: object) -> dict:
    return {"type": "function", "function": {"name": "f", "arguments": arguments}}


def parse(line: dict, validator: Validator = VALIDATOR) -> ParsedRequest:
    return validator.request(decode_line(json.dumps(line).encode()))


def refusal(line: dict) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(line)
    return caught.value


def with_messages(*messages: object) -> dict:
    return chat("a", messages=list(messages))


def test_chat_request() -> None:
    line = chat("a", "hi", temperature=0, seed=7, stop="x", stream=False, user="u", metadata={})
    line["body"]["messages"].append({"role": "assistant", "content": None, "tool_calls": None})
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]
    line["body"]["messages"].append({"role": "user", "name": "Ann", "content": parts})
    request = parse(line)
    assert request.custom_id == "a"
    assert request.url == "/v1/chat/completions"
    assert request.seed == 7
    assert request.params == RequestParams(max_tokens=8, temperature=0.0, stop=("x",))
    assert request.prompts == (
        ChatPrompt(
            [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": ""},
                {"role": "user", "name": "Ann", "content": parts},
            ],
            {},
        ),
    )


@pytest.mark.parametrize(
    ("body", "limit", "least"),
    [
        ({"max_tokens": None}, 20, 5),
        ({"max_tokens": 9}, 9, 5),
        ({"max_tokens": 3}, 3, 3),
        ({"max_tokens": None, "max_completion_tokens": 3}, 3, 3),
    ],
)
def test_limits_of_the_model_yield_to_the_requests(body: dict, limit: int, least: int) -> None:
    validator = Validator({"toy"}, 100, {"max_tokens": 20, "min_tokens": 5, "stop": ("x",)})
    params = parse(chat("a", **body), validator).params
    assert (params.token_limit, params.min_tokens, params.stop) == (limit, least, ("x",))


@pytest.mark.parametrize(
    ("prompt", "parsed"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 99], ([1, 99],)),
        ([[1], [2, 3]], ([1], [2, 3])),
    ],
)
def test_prompts(prompt: object, parsed: tuple) -> None:
    assert parse(completion("a", prompt)).prompts == parsed


def test_null_means_absent() -> None:
    line = chat("a", top_p=None, tools=None, stop=None, stream=None, response_format=None)
    assert parse(line).params == RequestParams(max_tokens=8)


def test_defaults_are_the_requests_then_the_models_then_openais() -> None:
    validator = Validator({"toy"}, 100, {"temperature": 0.5, "top_k": 20})
    params = parse(chat("a", temperature=0.25, max_tokens=None), validator).params
    assert (params.temperature, params.top_k, params.top_p) == (0.25, 20, 1.0)
    assert params.token_limit is None
    assert parse(completion("a", max_tokens=None), validator).params.max_tokens == 16


def test_equal_parameters_are_one_object_whatever_the_seed() -> None:
    first, second = parse(chat("a", seed=1)), parse(chat("b", seed=2))
    assert first.params is second.params
    assert first.params_key == second.params_key != parse(chat("c", top_p=0.5)).params_key


def test_a_wrong_seed_is_found_though_parameters_are_cached() -> None:
    parse(chat("a", seed=1))
    for seed in (1.5, "1", True, 2**63, 2**70):
        assert refusal(chat("a", seed=seed)).param == "body.seed"


def test_served_names() -> None:
    assert refusal(chat("a", model="gpt")).code == "model_not_found"
    assert parse(chat("a", model="gpt"), Validator({"toy", "gpt"}, 100, {}))
    assert parse(chat("a", model="gpt"), Validator({"toy", "*"}, 100, {}))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "an array"),
        (b"null", "null"),
        (b'"x"', "a string"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": "\xff"}', "not valid UTF-8 at byte 8"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b"[" * 5000, "not JSON"),
    ],
)
def test_not_a_json_object(data: bytes, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says) as caught:
        decode_line(data)
    assert caught.value.code == "invalid_json_line"
    assert caught.value.param is None


@pytest.mark.parametrize("field", ["custom_id", "method", "url", "body"])
def test_missing_fields(field: str) -> None:
    for line in (chat("a") | {field: None}, {k: v for k, v in chat("a").items() if k != field}):
        error = refusal(line)
        assert (error.code, error.param) == ("missing_required_parameter", field)


VALUE, UNSUPPORTED, REQUEST = "invalid_value", "unsupported_parameter", "invalid_request"


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (chat("a") | {"custom_id": 5}, VALUE, "custom_id"),
        (chat("a") | {"custom_id": ""}, VALUE, "custom_id"),
        (chat("a") | {"method": "GET"}, VALUE, "method"),
        (chat("a") | {"url": "/v1/embeddings"}, "invalid_url", "url"),
        (chat("a") | {"url": ["x"]}, "invalid_url", "url"),
        (chat("a") | {"body": []}, VALUE, "body"),
        (chat("a") | {"priority": 1}, UNSUPPORTED, "priority"),
        (chat("a", model=None), REQUEST, "body.model"),
        (chat("a", model=3), VALUE, "body.model"),
        (chat("a", stream=True), "streaming_unsupported", "body.stream"),
        (chat("a", stream="no"), VALUE, "body.stream"),
        (chat("a", tools=[TOOL]), UNSUPPORTED, "body.tools"),
        (chat("a", tools=[TOOL], tool_choice="auto"), UNSUPPORTED, "body.tools"),
        (chat("a", tools=[TOOL], tool_choice="required"), UNSUPPORTED, "body.tool_choice"),
        (chat("a", tools=[1], tool_choice="none"), VALUE, "body.tools[0]"),
        (chat("a", tools=[{}]), REQUEST, "body.tools[0].function"),
        (chat("a", tools=[{"type": "custom"}]), UNSUPPORTED, "body.tools[0].type"),
        (chat("a", tools=[{"function": {}}]), VALUE, "body.tools[0].function.name"),
        (chat("a", tools=[TOOL, TOOL]), VALUE, "body.tools[1].function.name"),
        (chat("a", tools=[TOOL], tool_choice="f"), VALUE, "body.tool_choice"),
        (
            chat("a", tools=[TOOL], tool_choice={"type": "allowed_tools"}),
            UNSUPPORTED,
            "body.tool_choice.type",
        ),
        (
            chat("a", tools=[TOOL], tool_choice=TOOL | {"function": {"name": "g"}}),
            VALUE,
            "body.tool_choice.function.name",
        ),
        (chat("a", tool_choice="required"), VALUE, "body.tool_choice"),
        (chat("a", functions=[TOOL]), UNSUPPORTED, "body.functions"),
        (completion("a", tools=[{}], tool_choice="none"), UNSUPPORTED, "body.tools"),
        (chat("a", prompt="x"), UNSUPPORTED, "body.prompt"),
        (chat("a", echo=True), UNSUPPORTED, "body.echo"),
        (chat("a", user=1), VALUE, "body.user"),
        (chat("a", metadata=[]), VALUE, "body.metadata"),
        (chat("a", chat_template_kwargs=1), VALUE, "body.chat_template_kwargs"),
        (chat("a", temperature=3), VALUE, "body.temperature"),
        (chat("a", temperature="hot"), VALUE, "body.temperature"),
        (chat("a", max_tokens=1.5), VALUE, "body.max_tokens"),
        (chat("a", max_tokens=0), VALUE, "body.max_tokens"),
        (chat("a", max_tokens=True), VALUE, "body.max_tokens"),
        (chat("a", max_tokens=None, max_completion_tokens=0), VALUE, "body.max_completion_tokens"),
        (chat("a", max_completion_tokens=0), VALUE, "body.max_completion_tokens"),
        (chat("a", max_tokens="8", max_completion_tokens=4), VALUE, "body.max_tokens"),
        (chat("a", n=0), VALUE, "body.n"),
        (chat("a", stop=[""]), VALUE, "body.stop"),
        (chat("a", stop={"a": 1}), VALUE, "body.stop"),
        (chat("a", logprobs=3), VALUE, "body.logprobs"),
        (chat("a", top_logprobs=3), VALUE, "body.top_logprobs"),
        (chat("a", logit_bias={"100": 1}), VALUE, "body.logit_bias"),
        (chat("a", logit_bias={"x": 1}), VALUE, "body.logit_bias"),
        (chat("a", logit_bias={"1": "2"}), VALUE, "body.logit_bias"),
        (chat("a", logit_bias=[[1, 2]]), VALUE, "body.logit_bias"),
        (chat("a", logit_bias={"1": 101}), VALUE, "body.logit_bias"),
        (chat("a", stop_token_ids=[100]), VALUE, "body.stop_token_ids"),
        (chat("a", min_tokens=9), VALUE, "body.min_tokens"),
        (chat("a", messages=None), REQUEST, "body.messages"),
        (chat("a", messages=[]), VALUE, "body.messages"),
        (chat("a", messages="hi"), VALUE, "body.messages"),
        (with_messages("hi"), VALUE, "body.messages[0]"),
        (with_messages({"role": "user"}), VALUE, "body.messages[0].content"),
        (with_messages({"role": "user", "content": []}), VALUE, "body.messages[0].content"),
        (with_messages({"content": "x"}), VALUE, "body.messages[0].role"),
        (with_messages({"role": 1, "content": "x"}), VALUE, "body.messages[0].role"),
        (
            with_messages({"role": "user", "content": "x", "name": 3}),
            VALUE,
            "body.messages[0].name",
        ),
        *(
            (
                with_messages({"role": role, "tool_calls": calls, "content": "x"}),
                code,
                f"body.messages[0].tool_calls{where}",
            )
            for role, calls, code, where in (
                ("assistant", [{}], REQUEST, "[0].function"),
                ("assistant", [1], VALUE, "[0]"),
                ("assistant", {}, VALUE, ""),
                ("assistant", [{"type": "custom"}], UNSUPPORTED, "[0].type"),
                ("assistant", [{"function": {"arguments": "{}"}}], VALUE, "[0].function.name"),
                ("assistant", [called("{")], VALUE, "[0].function.arguments"),
                ("assistant", [called("[1]")], VALUE, "[0].function.arguments"),
                ("user", [called("{}")], VALUE, ""),
            )
        ),
        (
            with_messages({"role": "assistant", "content": "x", "annotations": [{}]}),
            UNSUPPORTED,
            "body.messages[0].annotations",
        ),
        (
            with_messages({"role": "assistant", "content": "x", "refusal": "no"}),
            UNSUPPORTED,
            "body.messages[0].refusal",
        ),
        (
            with_messages({"role": "assistant", "content": "x", "reasoning_content": ["hm"]}),
            VALUE,
            "body.messages[0].reasoning_content",
        ),
        (with_messages({"role": "user", "content": ["hi"]}), VALUE, "body.messages[0].content[0]"),
        (
            with_messages({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
            UNSUPPORTED,
            "body.messages[0].content[0].type",
        ),
        (
            with_messages({"role": "user", "content": [{"type": "text", "text": 4}]}),
            VALUE,
            "body.messages[0].content[0].text",
        ),
        (
            with_messages({"role": "user", "content": [{"type": "text", "text": "", "cache": 1}]}),
            UNSUPPORTED,
            "body.messages[0].content[0].cache",
        ),
        (completion("a", prompt=None), REQUEST, "body.prompt"),
        (completion("a", prompt=""), VALUE, "body.prompt"),
        (completion("a", prompt=[]), VALUE, "body.prompt"),
        (completion("a", prompt={}), VALUE, "body.prompt"),
        (completion("a", prompt=["x", 1]), VALUE, "body.prompt[1]"),
        (completion("a", prompt=["x", ""]), VALUE, "body.prompt[1]"),
        (completion("a", prompt=[1, 100]), VALUE, "body.prompt[1]"),
        (completion("a", prompt=[1, True]), VALUE, "body.prompt[1]"),
        (completion("a", prompt=[-1]), VALUE, "body.prompt[0]"),
        (completion("a", prompt=[[1], []]), VALUE, "body.prompt[1]"),
        (completion("a", prompt=[[1], [1.5]]), VALUE, "body.prompt[1][0]"),
        (completion("a", prompt=[1, 100.0]), VALUE, "body.prompt[1]"),
        (completion("a", messages=[]), UNSUPPORTED, "body.messages"),
        (completion("a", logprobs=True), VALUE, "body.logprobs"),
        (completion("a", logprobs=-1), VALUE, "body.logprobs"),
        (completion("a", logprobs=21), VALUE, "body.logprobs"),
        (completion("a", max_tokens=0), VALUE, "body.max_tokens"),
        (completion("a", max_completion_tokens=3), UNSUPPORTED, "body.max_completion_tokens"),
        (completion("a", best_of=2), UNSUPPORTED, "body.best_of"),
        (completion("a", suffix="x"), UNSUPPORTED, "body.suffix"),
        (completion("a", seed=1e17), VALUE, "body.seed"),
        (completion("a", prompt_logprob_start=3), VALUE, "body.prompt_logprob_start"),
        (completion("a", echo=True, prompt_logprob_start=3), VALUE, "body.prompt_logprob_start"),
        (
            chat("a", logprobs=True, prompt_logprob_start=3),
            UNSUPPORTED,
            "body.prompt_logprob_start",
        ),
    ],
)
def test_refused(line: dict, code: str, param: str) -> None:
    error = refusal(line)
    assert (error.code, error.param) == (code, param)
    assert param in error.message


@pytest.mark.parametrize(
    "line",
    [
        completion("a", max_tokens=0, echo=True),
        completion("a", max_tokens=0, echo=True, logprobs=1, prompt_logprob_start=3),
        completion("a", logprobs=0),
        completion("a", logprobs=5, best_of=1),
        chat("a", logprobs=True, top_logprobs=20),
        chat("a", logit_bias={"99": -100}, stop_token_ids=[99]),
        chat("a", response_format={"type": "text"}, chat_template_kwargs={"thinking": False}),
        chat("a", stop=["a", "b", "c", "d", "e"], seed=-(2**63)),
    ],
)
def test_accepted(line: dict) -> None:
    assert parse(line)


@pytest.mark.parametrize(
    ("extra", "kept"),
    [
        ({"annotations": [], "refusal": None, "tool_calls": [], "audio": None}, {}),
        ({"id": "msg_1", "name": ""}, {}),
        ({"name": "Ann"}, {"name": "Ann"}),
        ({"reasoning_content": "hm", "reasoning": None}, {"reasoning_content": "hm"}),
        ({"reasoning": "hm"}, {"reasoning": "hm"}),
        *(
            ({"tool_calls": [called(given)]}, {"tool_calls": [called(kept)]})
            for given, kept in (('{"a": 1}', {"a": 1}), ("", {}), ({"a": None}, {"a": None}))
        ),
    ],
)
def test_what_clients_copy_from_answers(extra: dict, kept: dict) -> None:
    (prompt,) = parse(with_messages({"role": "assistant", "content": "x"} | extra)).prompts
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages == [{"role": "assistant", "content": "x"} | kept]


def test_cache_control_is_ignored() -> None:
    marked = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    (prompt,) = parse(with_messages({"role": "user", "content": [marked]})).prompts
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages == [{"role": "user", "content": [{"type": "text", "text": "x"}]}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [*RequestParams.model_fields, "messages", "prompt", "stream", "model", "user", "best_of"]


@pytest.mark.long
@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([chat("a"), completion("a")]),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
    st.dictionaries(st.sampled_from(["custom_id", "method", "url", "body"]), JSON, max_size=1),
)
def test_nothing_but_invalid_request_is_ever_raised(line: dict, body: dict, top: dict) -> None:
    line = line | {"body": line["body"] | body} | top
    try:
        decoded = decode_line(orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS))
        request = VALIDATOR.request(decoded)
    except InvalidRequestError:
        pass
    except orjson.JSONEncodeError:
        pass  # integers that no decoder would give
    else:
        assert request.custom_id == custom_id_of(decoded)
        assert request.prompts


@given(JSON | st.binary(max_size=20))
def test_arbitrary_lines(value: object) -> None:
    data = value if isinstance(value, bytes) else json.dumps(value).encode("utf-8", "replace")
    try:
        VALIDATOR.request(decode_line(data))
    except InvalidRequestError:
        pass
    else:
        raise AssertionError("accepted")
