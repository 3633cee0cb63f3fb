from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidRequestError
from shoal.prompts import chat_template
from shoal.prompts.prompts import ChatPrompt, parse_messages
from shoal.prompts.render import Renderer
from tests.helpers.models import byte_tokenizer

STYLES = Path(__file__).parent / "chat_templates"
"""What well-known models' templates do with messages, and no more."""
ROLES = {"s": "system", "d": "developer", "u": "user", "a": "assistant"}
STRING_STYLES = ("llama3", "qwen3", "mistral", "phi4", "deepseek", "nemotron", "json")
EITHER_STYLES = ("mistral_small", "gemma3", "gemma4")
PARTS_STYLES = ("llama_guard", "llava", "mixed")
WITHOUT_SYSTEM = ("gemma2", "phi3")
ALL_STYLES = STRING_STYLES + EITHER_STYLES + PARTS_STYLES + WITHOUT_SYSTEM

LAST_ONLY = "{{ '<user>' + messages[-1].content }}"
FIRST_PART = "{% for m in messages %}<{{ m.role }}>{{ m.content[0].text }}{% endfor %}"
SWITCH = (
    "{% for m in messages %}<{{ m.role }}>{% if as_parts %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
HANG = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HANGS = HANG + "{{ messages[0].content }}"
HANGS_AT_BOOM = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% if 'boom' in m.content %}" + HANG + "{% endif %}{% endfor %}"
)


def renderer(template: str | dict[str, str]) -> Renderer:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return Renderer(tokenizer)


def source(style: str) -> str:
    return (STYLES / f"{style}.jinja").read_text()


def style(name: str) -> Renderer:
    return renderer(source(name))


def text(of: Renderer, messages: list[dict[str, Any]], **kwargs: Any) -> str:
    rendered = of.text(ChatPrompt(parse_messages(messages), kwargs))
    assert isinstance(rendered, str)
    return rendered


def refusal(of: Renderer, messages: list[dict[str, Any]], **kwargs: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        text(of, messages, **kwargs)
    return caught.value


def said(*contents: Any, roles: str = "u") -> list[dict[str, Any]]:
    return [{"role": ROLES[r], "content": c} for r, c in zip(roles, contents, strict=True)]


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": t} for t in texts]


def conversation(roles: str) -> list[dict[str, Any]]:
    """Small letters speak in strings, capital ones in two parts; spaces around, marks within."""
    return [
        {
            "role": ROLES[role.lower()],
            "content": parts(f"{i}: one\n", f"{i}: two")
            if role.isupper()
            else f" {i}: it's <b>{{bold}}</b> & \n  “odd”\n",
        }
        for i, role in enumerate(roles)
    ]


@pytest.mark.long
@pytest.mark.parametrize("roles", ["u", "U", "uau", "UAU", "su", "SU", "suau", "sUaU", "du", "DU"])
@pytest.mark.parametrize("name", ALL_STYLES)
def test_every_text_arrives_once(name: str, roles: str) -> None:
    messages = conversation(roles)
    if name in WITHOUT_SYSTEM and roles[0] in "sSdD":
        error = refusal(style(name), messages)
        assert error.code == "chat_template_error"
        return
    prompt = text(style(name), messages)
    if name == "json":
        prompt = "".join(json.loads(line)["value"] for line in prompt.splitlines()[:-1])
    for message in messages:
        content = message["content"]
        for part in [content] if isinstance(content, str) else [p["text"] for p in content]:
            assert prompt.count(part.strip()) == 1
    assert "'type'" not in prompt


@pytest.mark.parametrize("roles", ["u", "su", "suau", "sua"])
@pytest.mark.parametrize("name", STRING_STYLES + EITHER_STYLES)
def test_strings_are_rendered_as_transformers_does(name: str, roles: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = source(name)
    messages = conversation(roles)
    if (name, roles) == ("mistral", "sua"):  # its system text waits for a last user message
        assert refusal(Renderer(tokenizer), messages).param == "body.messages[0].content"
        return
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text(Renderer(tokenizer), messages) == expected


@pytest.mark.parametrize("name", [*PARTS_STYLES, *EITHER_STYLES])
def test_parts_stay_parts_where_the_template_reads_them(name: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = source(name)
    messages = said(parts("one", "two"))
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text(Renderer(tokenizer), messages) == expected
    assert "one\ntwo" not in expected


@pytest.mark.parametrize("name", [*STRING_STYLES, *WITHOUT_SYSTEM])
def test_other_parts_are_joined_by_newlines(name: str) -> None:
    assert text(style(name), said(parts("one", "two"))) == text(style(name), said("one\ntwo"))


def test_a_template_that_reads_one_part_gets_one() -> None:
    assert text(renderer(FIRST_PART), said("hi")) == "<user>hi"
    assert text(renderer(FIRST_PART), said(parts("one", "two"))) == "<user>one\ntwo"


def test_the_form_is_each_roles_own() -> None:
    for name in EITHER_STYLES:
        prompt = text(style(name), said(parts("a1", "a2"), parts("b1", "b2"), roles="su"))
        assert "a1\na2" in prompt
        assert "b1b2" in prompt
    assert text(style("mixed"), said("a", "b", "c", roles="sua")) == (
        "<system>a<user>b<assistant>c"
    )


def test_an_argument_may_select_the_form() -> None:
    switch = renderer(SWITCH)
    for _ in range(2):
        assert text(switch, said("hi")) == "<user>hi"
        assert text(switch, said("hi"), as_parts=True) == "<user>hi"
        assert text(switch, said(parts("a", "b"))) == "<user>a\nb"
        assert text(switch, said(parts("a", "b")), as_parts=True) == "<user>ab"


def test_arguments_nested_without_end_are_refused() -> None:
    nested: list = []
    for _ in range(2000):
        nested = [nested]
    assert refusal(renderer(SWITCH), said("hi"), x=nested).param == "body.chat_template_kwargs"


def test_tools_nested_without_end_are_refused() -> None:
    deep: Any = {}
    for _ in range(2000):
        deep = {"a": deep}
    prompt = ChatPrompt(parse_messages([{"role": "user", "content": "hi"}]), {}, {"tools": [deep]})
    with pytest.raises(InvalidRequestError) as caught:
        style("llama3").text(prompt)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "body.tools")


def test_fields_of_a_request_reach_the_template() -> None:
    template = (
        "{{ tools }} {{ reasoning_effort }} {{ enable_thinking }}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    tools = [{"type": "function", "function": {"name": "f"}}]
    given = {"tools": tools, "reasoning_effort": "low", "enable_thinking": True}
    prompt = ChatPrompt(
        parse_messages([{"role": "user", "content": "hi"}]),
        {"enable_thinking": False, "tools": [], "documents": None},
        given,
    )
    assert renderer(template).text(prompt) == f"{tools} low False<user>hi"


def test_different_requests_have_different_prompts() -> None:
    guard = style("llama_guard")
    assert len({text(guard, said(word)) for word in ("User", "a", "Task:", "hello")}) == 4


@pytest.mark.parametrize("system", ["Be nice", "user", "a", "|>", "hel", "hello", "x", "xxxxx"])
def test_a_text_that_vanishes_is_refused(system: str) -> None:
    """Also one that stands in the template, or in another message."""
    error = refusal(style("phi3"), said(system, "hello, be nice", roles="su"))
    assert (error.code, error.param) == ("chat_template_error", "body.messages[0].content")
    assert "drops this text" in error.message


@pytest.mark.parametrize("texts", [("yes", "no", "yes"), ("no", "yes", "no way"), ("a", "b", "c")])
def test_earlier_turns_that_vanish_are_refused(texts: tuple[str, ...]) -> None:
    error = refusal(renderer(LAST_ONLY), said(*texts, roles="uau"))
    assert error.param == "body.messages[0].content"
    assert text(renderer(LAST_ONLY), said("yes")) == "<user>yes"


def test_a_part_that_vanishes_is_refused() -> None:
    template = "{% for m in messages %}{% for p in m.content %}{{ p.text if loop.index < 3 }}"
    error = refusal(renderer(template + "{% endfor %}{% endfor %}"), said(parts("a", "b", "c")))
    assert error.param == "body.messages[0].content[2]"


DROPPER = renderer(
    "{% for m in messages %}{% if loop.index0 not in drop %}<{{ m.role }}>{{ m.content|trim }}\n"
    "{% endif %}{% endfor %}a|b"
)


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@example([("u", "<u"), ("u", "hi")], {0})  # the template puts it together from "<" and the role
@given(
    st.lists(st.tuples(st.sampled_from("sua"), st.text("ab|<u \n", max_size=4)), min_size=1),
    st.sets(st.integers(0, 5)),
)
def test_just_the_texts_that_vanish_are_found(turns: list, drop: set[int]) -> None:
    messages = [message for role, content in turns for message in said(content, roles=role)]
    vanished = [i for i in sorted(drop) if i < len(turns) and turns[i][1].strip()]
    if vanished:
        error = refusal(DROPPER, messages, drop=sorted(drop))
        assert error.param == f"body.messages[{vanished[0]}].content"
    else:
        assert text(DROPPER, messages, drop=sorted(drop)).endswith("a|b")


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("qwen3", said("why?", "<think>\nhm\n</think>\n\nso", "and?", roles="uau")),
        ("deepseek", said("why?", "<think>hm</think>", "and?", roles="uau")),
        ("deepseek", said("a", "b", "c", "d", roles="susu")),
        ("nemotron", said("/no_think", "is 2 < 3? /no_think", roles="su")),
        ("gemma3", said("say \n\n twice", "say \n\n twice", "say \n\n twice", roles="sua")),
        ("json", said('"quoted" \\ and\nbroken')),
        ("llama3", said("", " \n", "system", "assistant", roles="suau")),
        ("phi4", said("x", "xx", "xxx", "x", roles="suau")),
    ],
)
def test_what_templates_shorten_or_escape_is_no_loss(name: str, messages: list) -> None:
    assert text(style(name), messages)


def test_reasoning_goes_to_the_template() -> None:
    for field in ("reasoning_content", "reasoning"):
        answer = {"role": "assistant", "content": "so", field: "hm", "tool_calls": []}
        prompt = text(style("qwen3"), [*said("why?"), answer])
        assert "<think>\nhm\n</think>\n\nso" in prompt


def test_a_developer_is_the_system_unless_the_template_knows_one() -> None:
    messages = said("be brief", "hi", roles="du")
    knows = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{# developer #}"
    assert text(renderer(knows), messages) == "<developer>be brief<user>hi"
    assert text(renderer(knows.replace("# developer", "#")), messages) == (
        "<system>be brief<user>hi"
    )
    only_named = "{% for m in messages if m.role != 'developer' %}{{ m.content }} {% endfor %}"
    assert text(renderer(only_named), messages) == "be brief hi "


def test_a_tokenizer_with_several_templates_uses_its_default() -> None:
    several = {"default": source("llama_guard"), "tool_use": source("phi4")}
    assert "User: hi\n" in text(renderer(several), said("hi"))
    del several["default"]
    assert refusal(renderer(several), said("hi")).code == "chat_template_missing"


@pytest.mark.parametrize("name", ["llama3", "qwen3", "mistral", "phi4", "llama_guard", "llava"])
def test_ordinary_requests_are_rendered_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = style(name)
    requests = [conversation("suau"[: 2 * (i % 2) + 2]) for i in range(10)]
    for i, messages in enumerate(requests):
        messages[-1]["content"] = "a user | assistant"[:i]
        if name == "qwen3" and len(messages) == 4:
            messages[2]["content"] = f"<think>\n{i}\n</think>\n\nso"
    for roles in ("su", "suau"):
        text(of, conversation(roles))  # finds out what the template reads and writes
    tokenizer = of._tokenizer
    calls: list[object] = []
    render = tokenizer.apply_chat_template
    monkeypatch.setattr(
        tokenizer, "apply_chat_template", lambda *a, **k: calls.append(a) or render(*a, **k)
    )
    for messages in requests:
        text(of, messages)
    assert len(calls) == len(requests)


def test_a_template_that_hangs_fails_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "RENDER_SECONDS", 0.2)
    of = renderer(HANGS_AT_BOOM)
    error = refusal(of, said("boom"))
    assert error.code == "chat_template_timeout"
    assert "0.2 seconds" in error.message
    assert text(of, said("fine")) == "<user>fine"


def test_a_template_that_always_hangs_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "RENDER_SECONDS", 0.3)
    of = renderer(HANGS)
    began = time.thread_time()
    for i in range(20):
        assert refusal(of, said(f"request {i}")).code == "chat_template_timeout"
    assert time.thread_time() - began < 1.5


CALLED = {"function": {"name": "now", "arguments": '{"zone": "UTC"}'}}


@pytest.mark.parametrize(
    ("shown", "vanishes"),
    [
        ("{{ call.function.name }}{{ call.function.arguments | tojson }}", False),
        ("{{ call.function.name }}{% for k, v in call.function.arguments | items %}{{ k ~ v }}"
         "{% endfor %}", False),
        ("{{ call.function.name }}", True),
        ("{{ call.function.arguments }}", True),
        ("{% if loop.first %}{{ call }}{% endif %}", True),
    ],
)  # fmt: skip
def test_calls_of_earlier_answers_must_arrive(shown: str, vanishes: bool) -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls or [] %}"
        + shown
        + "{% endfor %}{% endfor %}"
    )
    called = {"role": "assistant", "content": None, "tool_calls": [CALLED, CALLED]}
    messages = [*said("when?"), called, {"role": "tool", "content": "12", "tool_call_id": "c"}]
    if vanishes:
        error = refusal(renderer(template), messages)
        first = 1 if "loop" in shown else 0
        assert error.param == f"body.messages[1].tool_calls[{first}]"
        assert "drops this call" in error.message
    else:
        assert "now" in text(renderer(template), messages)


def test_tools_that_may_be_called_must_arrive() -> None:
    messages = parse_messages(said("hi"))
    tool = {"type": "function", "function": {"name": "f", "description": "Does it."}}
    deaf = renderer(
        "{{ tools[0].function.name }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    for calls in (True, False):
        prompt = ChatPrompt(messages, {}, {"tools": [tool]}, calls_tools=calls)
        if not calls:
            assert deaf.text(prompt) == "fhi"
            continue
        with pytest.raises(InvalidRequestError) as caught:
            deaf.text(prompt)
        assert caught.value.param == "body.tools[0].function.description"
