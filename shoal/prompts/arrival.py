"""Proof that what messages say arrives in the rendered prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from shoal.errors import InvalidRequestError
from shoal.prompts.forms import Render
from shoal.prompts.prompts import Message
from shoal.prompts.watchdog import TimeLimitError

_SLOT = "qzshoal{}qz"
_SLOTS = re.compile(_SLOT.format(r"(\d+)"))
_KEPT_FRAMES = 256

Frame = list[str]
"""What a template writes around texts: words of its own and the numbers of texts in turn."""


class Text(NamedTuple):
    """A message's content, or one of its parts.

    Attributes:
        message: its number in the conversation.
        part: its number in the content; None where the content is a string.
    """

    message: int
    part: int | None
    text: str


class Arrival:
    """Checks prompts that a template, with one set of arguments, made of messages.

    Conversations alike but for what is said give prompts alike but for that. Such a frame is
    rendered once per shape of conversation, and a prompt that consists of the frame and the texts
    is proved by comparing. Where it does not, because the template shortens, escapes or looks at
    what it is given, the prompt is rendered again with another text in each place: it must change.
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._frames: dict[tuple[object, ...], Frame] = {}

    def first_vanished(self, rendered: str, messages: Sequence[Message]) -> Text | None:
        """The first text that the prompt does not depend on; None if all matter or are blank.

        Args:
            rendered: what the template makes of `messages`.

        Raises:
            TimeLimitError: the template takes too long for words of ours.
        """
        texts = list(_texts(messages))
        shape = tuple(map(_shape, messages))
        if shape not in self._frames:
            self._keep(shape, self._frame(messages, texts))
        if _fits(rendered, self._frames[shape], [_variants(text, messages) for text in texts]):
            return None
        del self._frames[shape]  # the template may have written the time of day
        for text in texts:
            if text.text.strip() and not self._matters(text, rendered, messages):
                return text
        return None

    def _keep(self, shape: tuple[object, ...], frame: Frame) -> None:
        if len(self._frames) >= _KEPT_FRAMES:
            self._frames.clear()
        self._frames[shape] = frame

    def _frame(self, messages: Sequence[Message], texts: Sequence[Text]) -> Frame:
        """Empty if the template refuses, or if it leaves a text out."""
        slots = [text._replace(text=_SLOT.format(i)) for i, text in enumerate(texts)]
        try:
            frame = _SLOTS.split(self._render(_with_texts(messages, slots)))
        except InvalidRequestError:
            return []
        return frame if len(set(frame[1::2])) == len(texts) else []

    def _matters(self, text: Text, rendered: str, messages: Sequence[Message]) -> bool:
        """Whether the prompt is another one with another text, as long."""
        other = ("x" if "x" not in text.text else "y") * len(text.text)
        try:
            return self._render(_with_texts(messages, [text._replace(text=other)])) != rendered
        except (InvalidRequestError, TimeLimitError):
            return True


def _texts(messages: Sequence[Message]) -> Iterator[Text]:
    for i, message in enumerate(messages):
        if isinstance(message["content"], str):
            yield Text(i, None, message["content"])
        else:
            for j, part in enumerate(message["content"]):
                yield Text(i, j, part["text"])


def _with_texts(messages: Sequence[Message], texts: Sequence[Text]) -> list[Message]:
    """The messages with other texts in the places of these."""
    changed = [dict(message) for message in messages]
    for text in texts:
        content: Any = text.text
        if text.part is not None:
            content = list(changed[text.message]["content"])
            content[text.part] = content[text.part] | {"text": text.text}
        changed[text.message]["content"] = content
    return changed


def _shape(message: Message) -> tuple[object, ...]:
    """All of a message but its texts."""
    content = message["content"]
    parts = None if isinstance(content, str) else len(content)
    others = ((name, value) for name, value in message.items() if name != "content")
    return (parts, *((name, v if isinstance(v, str) else repr(v)) for name, v in others))


def _variants(text: Text, messages: Sequence[Message]) -> Sequence[str]:
    """What templates commonly make of a text: they trim, and leave an answer's reasoning out."""
    said = text.text
    if "</think>" in said and messages[text.message]["role"] == "assistant":
        answer = said.rpartition("</think>")[2]
        return said, said.strip(), answer, answer.lstrip("\n"), answer.strip()
    return said, said.strip()


def _fits(rendered: str, frame: Frame, texts: Sequence[Sequence[str]]) -> bool:
    """Whether the prompt is the frame with the texts in it, each in one of its forms."""
    if not frame or not rendered.startswith(frame[0]):
        return False
    end = len(frame[0])
    for slot, words in zip(frame[1::2], frame[2::2], strict=True):
        for said in texts[int(slot)]:
            if rendered.startswith(said, end) and rendered.startswith(words, end + len(said)):
                end += len(said) + len(words)
                break
        else:
            return False
    return end == len(rendered)
