"""What becomes of a name that others defined: honoured, accepted without effect, or refused.

The names are vLLM's in Python, OpenAI's and vLLM's in batch files. One that cannot change an answer
is accepted. One that could, and is not honoured, is refused with what to do instead. The tables of
docs/python.md and docs/fields.md are made from these.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Fate:
    """`kind` is the type that a value must have; None: it is checked elsewhere, or any will do."""

    kind: type | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Honoured(_Fate):
    """It does what it does where the name comes from.

    Attributes:
        meaning: in a few words.
        option: the field of `EngineOptions` that it sets, if it sets one.
    """

    meaning: str
    option: str | None = None


@dataclass(frozen=True)
class NoEffect(_Fate):
    """It is accepted, because no answer depends on it; `why` says so."""

    why: str


@dataclass(frozen=True)
class Refused(_Fate):
    """It would change answers, and is not honoured.

    Attributes:
        instead: what to do.
        harmless: values that ask for nothing, and are accepted.
    """

    instead: str
    harmless: tuple[object, ...] = (None,)

    def refuses(self, value: object) -> bool:
        """Whether this value asks for something."""
        return not any(
            value is harmless or (type(value) is type(harmless) and value == harmless)
            for harmless in self.harmless
        )


Fate = Honoured | NoEffect | Refused


def note_without_effect(names: Iterable[str], fates: Mapping[str, Fate]) -> None:
    """One line in the log that names what was given and has no effect."""
    if idle := [name for name in names if isinstance(fates[name], NoEffect)]:
        _log.warning("accepted, without effect: %s", ", ".join(sorted(idle)))


def alike(kinds: str, fate: Fate) -> dict[str, Any]:
    """The same fate for several names, written with spaces between."""
    return dict.fromkeys(kinds.split(), fate)
