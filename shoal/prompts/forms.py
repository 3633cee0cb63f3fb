"""Which form of content a chat template reads, a string or a list of parts, found by rendering."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from shoal.errors import InvalidRequestError
from shoal.prompts.prompts import Message
from shoal.prompts.watchdog import TimeLimitError

Render = Callable[[list[Message]], str]
"""Renders messages as they are. Raises InvalidRequestError if refused, or TimeLimitError."""

_PROBES = ("qzshoalprobeqz", "qzshoalseconqz")
_DUMPED = "qzshoalkeyqz"
"""A key of the probe's parts: seen in the output, the list was printed and not read."""


class Forms:
    """What a template reads, role by role; each finding is made once, when it is first needed.

    Args:
        render: of the template, with the arguments that requests give it.
        source: of the template.
    """

    def __init__(self, render: Render, source: str) -> None:
        self._render = render
        self._knows_developer = "developer" in source
        self._ranks: dict[tuple[str, int], float] = {}
        self._hangs = False

    def fit(self, message: Message) -> Message:
        """The message in the role and form that the template reads.

        A template that reads both forms gets what was given. Parts are joined by newlines for one
        that reads strings. The role `developer` is `system` to a template that does not know it.

        Raises:
            TimeLimitError: the template takes too long even for one word, now or earlier.
        """
        if self._hangs:
            raise TimeLimitError
        role, content = message["role"], message["content"]
        if role == "developer" and not self._takes_developer():
            role = "system"
        if not isinstance(content, str):
            if self._rank(role, min(len(content), 2)) < inf:
                return message | {"role": role}
            content = "\n".join(part["text"] for part in content)
        if (rank := self._rank(role, 0)) > 0 and self._rank(role, 1) < rank:
            content = [{"type": "text", "text": content}]
        return message | {"role": role, "content": content}

    def _takes_developer(self) -> bool:
        ranks = (self._rank("developer", parts) for parts in (0, 1))
        return self._knows_developer and min(ranks) < inf

    def _rank(self, role: str, parts: int) -> float:
        """The first of `_conversations` in which a message of this role and form arrives, or inf.

        Args:
            parts: how many parts its content has; 0 is a string.
        """
        key = role, parts
        if key not in self._ranks:
            self._ranks[key] = self._find_rank(role, parts)
        return self._ranks[key]

    def _find_rank(self, role: str, parts: int) -> float:
        rank = inf
        wanted = _PROBES[: max(parts, 1)]
        for i, messages in enumerate(_conversations(role, parts)):
            rendered = self._rendered(messages)
            arrived = [probe in rendered for probe in wanted]
            if _DUMPED in rendered or any(arrived) != all(arrived):
                return inf
            if all(arrived):
                rank = min(rank, i)
                if not parts:
                    break
        return rank

    def _rendered(self, messages: list[Message]) -> str:
        try:
            return self._render(messages).lower()
        except InvalidRequestError:  # a template may demand other roles around it
            return ""
        except TimeLimitError:
            self._hangs = True
            raise


def _conversations(role: str, parts: int) -> Iterator[list[Message]]:
    """Conversations that hold the probe, the likeliest first."""
    for others_in_parts in (parts > 0, parts == 0):
        marked = [{"type": "text", "text": text, _DUMPED: True} for text in _PROBES[:parts]]
        probe = {"role": role, "content": marked or _PROBES[0]}
        filler = [{"type": "text", "text": "filler"}] if others_in_parts else "filler"
        system, user, assistant = (
            {"role": other, "content": filler} for other in ("system", "user", "assistant")
        )
        yield [probe]
        yield [probe, user]
        yield [user, probe, user]
        yield [user, probe]
        yield [system, probe]
        yield [user, assistant, probe]
