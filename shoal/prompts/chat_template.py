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
from shoal.prompts.tools import Tools, first_vanished
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
        self._unproved_tools: Tools = self._arguments.get("tools") or ()
        self._watchdog = Watchdog(RENDER_SECONDS)
        self._reserved = _parameters_of_rendering(tokenizer)
        self._findings: dict[str, tuple[Forms, Arrival]] = {}

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
            self._prove_tools(kwargs, where, messages)
            rendered = self._render(kwargs, where, messages)
            vanished = arrival.first_vanished(rendered, messages)
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
        """Raise InvalidRequestError if the template drops a text of the tools; once is enough."""
        if not self._unproved_tools:
            return
        dropped = first_vanished(
            self._unproved_tools,
            lambda tools: self._render(kwargs | {"tools": tools}, where, messages),
        )
        if dropped is not None:
            raise InvalidRequestError(
                f"{dropped}: the model's chat template drops it, so that the model would not read "
                "it; describe the tools in a message instead.",
                code="chat_template_error",
                param=dropped,
            )
        self._unproved_tools = ()

    @cached_property
    def _source(self) -> str | None:
        if self._given is not None:
            return self._given
        try:
            return self._tokenizer.get_chat_template() if self._tokenizer.chat_template else None
        except ValueError:  # several, and none is called "default"
            return None

    def _findings_with(self, prompt: ChatPrompt, where: str, source: str) -> tuple[Forms, Arrival]:
        """What was found out about the template with these arguments; others may change it."""
        key = _key(prompt)
        if key not in self._findings:
            if len(self._findings) >= _KEPT_FINDINGS:
                self._findings.clear()
            render = partial(self._render, self._kwargs_of(prompt), where)
            self._findings[key] = Forms(render, source), Arrival(render)
        return self._findings[key]

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


def _key(prompt: ChatPrompt) -> str:
    """Equal for equal arguments of the template."""
    keys = []
    for name, given in (
        ("body.chat_template_kwargs", prompt.template_kwargs),
        ("body.tools", prompt.arguments),  # the others are strings and booleans
    ):
        try:
            keys.append(repr(sorted(given.items())))
        except RecursionError:
            raise wrong_value(name, "is nested too deeply") from None
    return "".join(keys)


def _dropped(text: Text, where: str, names: Sequence[str]) -> InvalidRequestError:
    param = names[text.message] if names else f"{where}[{text.message}].content"
    if text.part is not None:
        param += f"[{text.part}]"
    return InvalidRequestError(
        f"{param}: the model's chat template drops this text, so that the model would not read it; "
        "move it to a message of another role, or send a prompt to /v1/completions.",
        code="chat_template_error",
        param=param,
    )


def _parameters_of_rendering(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """What a request may not pass to the template: parameters of transformers' own function."""
    parameters = inspect.signature(tokenizer.apply_chat_template).parameters.values()
    named = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return frozenset(named - {"add_generation_prompt"})
