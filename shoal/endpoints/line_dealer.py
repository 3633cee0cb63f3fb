"""Which server has which lines: families whole, in the order of the plan; idle ones take over.

A family is the users of one top-level prefix. A server that has it answers from its prefix cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlannedLine:
    """A line to send.

    Attributes:
        line: its number, from 0.
        family: number of its family; lines of one follow each other in the plan.
        tokens: predicted, computed and generated; a prefix counts at the first of its users.
        prompt_tokens: those of them that are computed.
        requests: of the run, as numbers in its table; a line may have several prompts.
    """

    line: int
    family: int
    tokens: int
    prompt_tokens: int
    requests: tuple[int, ...]


@dataclass
class LineQueue:
    """Lines that one server has yet to be sent, in order."""

    lines: deque[PlannedLine] = field(default_factory=deque)
    tokens: int = 0
    begun: int | None = None
    """The family of the line sent last."""

    def take(self) -> PlannedLine:
        """The next line to send."""
        line = self.lines.popleft()
        self.tokens -= line.tokens
        self.begun = line.family
        return line

    def put_back(self, line: PlannedLine) -> None:
        """A line that was sent in vain is the next one."""
        self.lines.appendleft(line)
        self.tokens += line.tokens

    def add(self, lines: Iterable[PlannedLine]) -> None:
        """Lines behind those that wait."""
        for line in lines:
            self.lines.append(line)
            self.tokens += line.tokens

    def give(self, least: int) -> list[PlannedLine]:
        """About the last half of the tokens, in order.

        Families that have not begun are kept whole. The one under way is only cut if nothing else
        is left of it, and then if each half has so many lines.
        """
        given: list[PlannedLine] = []
        half, moved = self.tokens / 2, 0
        while self.lines and (moved < half or self._inside(given)):
            if self.lines[-1].family == self.begun:
                break
            given.append(self.lines.pop())
            moved += given[-1].tokens
        if not given and len(self.lines) >= 2 * least:
            given = [self.lines.pop() for _ in range(len(self.lines) // 2)]
        self.tokens -= sum(line.tokens for line in given)
        return given[::-1]

    def _inside(self, given: list[PlannedLine]) -> bool:
        """Whether the last line is of the family that is being given."""
        return bool(given) and given[-1].family == self.lines[-1].family

    def clear(self) -> list[PlannedLine]:
        """All lines, which wait here no longer."""
        lines, self.lines, self.tokens, self.begun = list(self.lines), deque(), 0, None
        return lines


class LineDealer:
    """The queues of all servers, by their numbers."""

    def __init__(self, shares: list[list[PlannedLine]]) -> None:
        """`shares`: what each server begins with, in order."""
        self.queues = [LineQueue() for _ in shares]
        for queue, lines in zip(self.queues, shares, strict=True):
            queue.add(lines)

    def help(self, server: int, least: int) -> bool:
        """An idle server takes over from the one with the most left; whether it got something.

        Args:
            least: lines that each half of a family that is cut must have.
        """
        for queue in sorted(self.queues, key=lambda queue: -queue.tokens):
            if queue is not self.queues[server] and (lines := queue.give(least)):
                self.queues[server].add(lines)
                return True
        return False

    def leave(self, server: int, under_way: Iterable[PlannedLine], alive: list[int]) -> None:
        """A server is gone: its lines, with those under way, go to those alive, families whole.

        With none alive they stay where they are.
        """
        lines = [*under_way, *self.queues[server].clear()]
        if not alive:
            self.queues[server].add(lines)
            return
        families: dict[int, list[PlannedLine]] = {}
        for line in lines:
            families.setdefault(line.family, []).append(line)
        for family in families.values():
            min((self.queues[number] for number in alive), key=lambda q: q.tokens).add(family)
