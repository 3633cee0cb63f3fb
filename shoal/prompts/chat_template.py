"""The model's chat template: it is given messages as it reads them, and they must arrive."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from shoal.errors import InvalidRequestError
from shoal.prompts.arrival import Arrival, Text
from shoal.prompts.forms import Forms
from shoal.prompts.prompts import ChatPrompt, Message
from shoal.prompts.refusals import unsupported, wrong_value
from shoal.prompts.tools import first_vanished, first_vanished_call
from shoal.prompts.watchdog import TimeLimitError, Watchdog

RENDER_SECONDS = 10.0
"""Processor time that a template may take for a conversation; real ones take milliseconds."""
_KEPT_FINDINGS = 256
"""Sets of template arguments for which findings are kept."""
_FIELDS = ("tools", "continue_final_message")
"""Arguments of transformers that a request has fields for."""


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        given: the text of another template, to be used in place of the tokenizer's.
        arguments: of transformers' `apply_chat_template`, for all conversations.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        given: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._tokenizer, self._given = tokenizer, given
        self._arguments = {"add_generation_prompt": True, **(arguments or {})}
        self._proved_tools: set[str] = set()
        self._watchdog = Watchdog(RENDER_SECONDS)
        self._reserved = _parameters_of_rendering(tokenizer)
        self._forms: dict[str, Forms] = {}
        self._arrivals: dict[str, Arrival] = {}

    def text(self, prompt: ChatPrompt, where: str) -> str:
        """The conversation as the model reads it.

        Args:
            where: what errors call the messages.

        Raises:
            InvalidRequestError: there is no template, or it refuses the messages, takes too long
                or drops a text.
        """
        source = self._source
        if not source:
            raise InvalidRequestError(
                f"{where}: the model has no chat template, or several without a default; send a "
                "prompt to /v1/completions instead.",
                code="chat_template_missing",
                param=where,
            )
        kwargs = self._kwargs_of(prompt)
        try:
            forms, arrival = self._findings_with(prompt, where, source)
            messages = [forms.fit(message) for message in prompt.messages]
            if prompt.calls_tools:
                self._prove_tools(kwargs, where, messages)
            rendered = self._render(kwargs, where, messages)
            vanished = arrival.first_vanished(rendered, messages)
            lost = first_vanished_call(messages, partial(self._render, kwargs, where), where)
        except TimeLimitError:
            raise InvalidRequestError(
                f"{where}: the model's chat template had not finished after "
                f"{self._watchdog.seconds:g} seconds; shorten them, or send a prompt to "
                "/v1/completions instead.",
                code="chat_template_timeout",
                param=where,
            ) from None
        if vanished is not None:
            raise _dropped(vanished, where, prompt.names)
        if lost is not None:
            raise _drops(lost, "this call", "write it into the message's content")
        return rendered

    def _kwargs_of(self, prompt: ChatPrompt) -> dict[str, Any]:
        """All that the request gives the template; what is transformers' own it may not pass."""
        passed = prompt.template_kwargs
        for name in sorted(passed.keys() & self._reserved):
            if passed[name] not in (None, []):
                but = f"give body.{name}" if name in _FIELDS else "remove it from the request"
                raise unsupported(f"body.chat_template_kwargs.{name}", but)
        return prompt.arguments | {k: v for k, v in passed.items() if k not in self._reserved}

    def _prove_tools(self, kwargs: dict[str, Any], where: str, messages: list[Message]) -> None:
        """Raise InvalidRequestError if the template drops a text of the tools.

        Once is enough for the same tools.
        """
        given = (self._arguments | kwargs).get("tools")
        if not given or (key := repr(given)) in self._proved_tools:
            return
        param = "body.tools" if "tools" in kwargs else "tools"
        try:
            dropped = first_vanished(
                given,
                lambda tools: self._render(kwargs | {"tools": tools}, where, messages),
                param,
            )
        except RecursionError:
            raise wrong_value(param, "is nested too deeply") from None
        if dropped is not None:
            raise _drops(dropped, "it", "describe the tools in a message instead")
        if len(self._proved_tools) >= _KEPT_FINDINGS:
            self._proved_tools.clear()
        self._proved_tools.add(key)

    @cached_property
    def _source(self) -> str | None:
        if self._given is not None:
            return self._given
        try:
            return self._tokenizer.get_chat_template() if self._tokenizer.chat_template else None
        except ValueError:  # several, and none is called "default"
            return None

    def _findings_with(self, prompt: ChatPrompt, where: str, source: str) -> tuple[Forms, Arrival]:
        """What was found out about the template with these arguments; others may change it.

        The form of content that it reads does not depend on which tools there are, the prompt does.
        """
        render = partial(self._render, self._kwargs_of(prompt), where)
        key, form = _keys(prompt)
        for findings in (self._forms, self._arrivals):
            if len(findings) >= _KEPT_FINDINGS:
                findings.clear()
        if form not in self._forms:
            self._forms[form] = Forms(render, source)
        if key not in self._arrivals:
            self._arrivals[key] = Arrival(render)
        return self._forms[form], self._arrivals[key]

    def _render(self, kwargs: dict[str, Any], where: str, messages: list[Message]) -> str:
        """Raises InvalidRequestError if the template refuses, and TimeLimitError."""
        return self._watchdog.call(partial(self._apply, kwargs, where, messages))

    def _apply(self, kwargs: dict[str, Any], where: str, messages: list[Message]) -> str:
        arguments = {"chat_template": self._given} | self._arguments | kwargs
        try:
            rendered = self._tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
        except (
            Exception
        ) as error:  # templates raise what they like; one line's fault, not the job's
            raise InvalidRequestError(
                f"{where}: the model's chat template refuses them: {error}.",
                code="chat_template_error",
                param=where,
            ) from error
        return cast(str, rendered)


def _keys(prompt: ChatPrompt) -> tuple[str, str]:
    """Equal for equal arguments of the template; the second for other tools, too."""
    tools = prompt.arguments.get("tools")
    others = {name: value for name, value in prompt.arguments.items() if name != "tools"}
    try:
        passed = repr(sorted(prompt.template_kwargs.items()))
    except RecursionError:
        raise wrong_value("body.chat_template_kwargs", "is nested too deeply") from None
    try:
        listed = repr(tools)
    except RecursionError:
        raise wrong_value("body.tools", "is nested too deeply") from None
    alike = passed + repr(sorted(others.items()))  # strings and booleans
    return alike + listed, alike + str(bool(tools))


def _drops(param: str, what: str, instead: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{param}: the model's chat template drops {what}, so that the model would not read it; "
        f"{instead}.",
        code="chat_template_error",
        param=param,
    )


def _dropped(text: Text, where: str, names: Sequence[str]) -> InvalidRequestError:
    param = names[text.message] if names else f"{where}[{text.message}].content"
    if text.part is not None:
        param += f"[{text.part}]"
    instead = "move it to a message of another role, or send a prompt to /v1/completions"
    return _drops(param, "this text", instead)


def _parameters_of_rendering(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """What a request may not pass to the template: parameters of transformers' own function."""
    parameters = inspect.signature(tokenizer.apply_chat_template).parameters.values()
    named = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return frozenset(named - {"add_generation_prompt"})
