"""Policies, tickets and their correct answers, for training and for the held-out examples.

Every drawn part (a name, an order number, a product, a combination of phrases) belongs by its hash
either to the training split or to the held-out split, so held-out prompts consist of parts that
training never saw. Of topic-to-queue pairs training sees the training split alone; a held-out table
takes any pairs, each queue once, and belongs to the held-out split as a whole.
"""

import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tiny_model import words

HELD_OUT_ONE_IN = 8
ODD_QUEUES, ODD_NAMES = 0.15, 0.2
"""In training, how often a queue or a name is unlike the usual, so that those are copied too."""
KINDS = ("route", "extract", "triage", "fewshot")
EXTRACTED = ("name", "order", "product", "city")


@dataclass(frozen=True)
class Size:
    """How large a policy is; training starts with small ones."""

    rows: tuple[int, int]
    notes: tuple[int, int]
    company_lines: tuple[int, int]
    shots: tuple[int, int]


SIZES = (
    Size(rows=(2, 4), notes=(0, 0), company_lines=(0, 0), shots=(2, 2)),
    Size(rows=(4, 7), notes=(0, 3), company_lines=(0, 2), shots=(3, 4)),
    Size(rows=(7, 12), notes=(3, 7), company_lines=(2, 4), shots=(5, 6)),
)


@dataclass(frozen=True)
class Policy:
    """A system prompt and what is needed to answer tickets under it."""

    kind: str
    system: str
    table: dict[str, tuple[str, str]]
    """Tag to (queue, priority)."""
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Ticket:
    """A user message and its one correct answer."""

    text: str
    answer: str


def is_held_out(part: str) -> bool:
    """Tell the split of a part; stable across runs and machines."""
    return zlib.crc32(part.encode()) % HELD_OUT_ONE_IN == 0


class Generator:
    """Draws policies and tickets of one split, deterministically for a seed."""

    def __init__(self, seed: int, held_out: bool) -> None:
        self.rng = random.Random(seed)
        self.held_out = held_out

    def company(self) -> str:
        """Draw a company name."""
        rng = self.rng
        return self._of_split(
            lambda: (
                rng.choice(words.COMPANY_STARTS)
                + rng.choice(words.COMPANY_MIDDLES)
                + " "
                + rng.choice(words.COMPANY_ENDS)
            )
        )

    def preamble(self, company: str, size: Size, wording: int | None = None) -> str:
        """Draw the text that all policies of a company share."""
        rng = self.rng
        shared = words.SHARED_PREAMBLES
        start = shared[wording] if wording is not None else rng.choice((shared[0], *shared))
        lines = rng.sample(words.COMPANY_LINES, rng.randint(*size.company_lines))
        about = " ".join(
            line.format(
                c=company, y=rng.randint(1950, 2020), n=rng.randint(2, 40), m=rng.randint(10, 20)
            )
            for line in lines
        )
        return f"{start}\n\nCompany: {company}\n" + (about + "\n" if about else "")

    def policy(self, kind: str, size: Size, preamble: str | None = None) -> Policy:
        """Draw a policy of one of `KINDS`, below a preamble that other policies may share."""
        rng = self.rng
        if preamble is None:
            preamble = self.preamble(self.company(), size)
        desk = f"{rng.choice(words.DESKS)} {rng.randint(1, 99)}"
        keys = self._keys(kind)
        rows = size.shots if kind == "fewshot" else size.rows
        tags = rng.sample(list(words.TOPICS), rng.randint(*rows))
        table = self._held_out_table(tags) if self.held_out else self._training_table(tags)
        lines = [preamble, f"Policy: {desk}"]
        notes = [
            "- " + note.format(n=rng.randint(2, 12))
            for note in rng.sample(words.NOTES, rng.randint(*size.notes))
        ]
        if kind == "fewshot":
            shots = Policy(kind, "", table, keys)
            lines.append("Answer as in these examples.")
            for tag in tags:
                ticket = self.ticket(shots, tag, short=True)
                lines.append(f"Ticket: {ticket.text}\nAnswer: {ticket.answer}")
            return Policy(kind, "\n".join(lines), table, keys)
        if kind != "extract" or rng.random() < 0.5:
            lines += ["Queues:", *(f"{tag}={queue}" for tag, (queue, _) in table.items())]
            rng.shuffle(tags)
            lines += ["Priorities:", *(f"{tag}={table[tag][1]}" for tag in tags)]
        if notes:
            lines += ["Notes:", *notes]
        lines.append("Answer: {" + ",".join(f'"{key}":...' for key in keys) + "}")
        return Policy(kind, "\n".join(lines), table, keys)

    def ticket(self, policy: Policy, tag: str | None = None, short: bool = False) -> Ticket:
        """Draw a ticket on a topic of the policy, with its answer."""
        rng = self.rng
        tag = tag or rng.choice(list(policy.table))
        queue, priority = policy.table[tag]
        values = {
            "tag": tag,
            "queue": queue,
            "priority": priority,
            "name": self._name(),
            "order": self._of_split(
                lambda: f"{rng.choice('ABCDEFGHJKLMNPRSTVWXZ')}-{rng.randint(10000, 99999)}"
            ),
            "product": self._of_split(
                lambda: f"{rng.choice(words.PRODUCT_STARTS)} {rng.choice(words.PRODUCT_ENDS)}"
            ),
            "city": self._city(),
        }
        text = self._text(tag, values, "city" in policy.keys, short)
        answer = {key: values[key] for key in policy.keys}
        return Ticket(text, json.dumps(answer, separators=(",", ":"), ensure_ascii=False))

    def _keys(self, kind: str) -> tuple[str, ...]:
        rng = self.rng
        looked_up = ["queue", "priority"]
        rng.shuffle(looked_up)
        extracted = list(EXTRACTED)
        rng.shuffle(extracted)
        if kind == "route":
            return ("tag", *looked_up)
        if kind == "extract":
            return tuple(extracted[: rng.randint(2, 4)])
        if kind == "fewshot":
            return ("tag", "queue", *extracted[:1])
        return ("tag", *looked_up[: rng.randint(1, 2)], *extracted[: rng.randint(1, 2)])

    def _training_table(self, tags: list[str]) -> dict[str, tuple[str, str]]:
        """Draw a queue and a priority for each tag; sometimes a queue with letters of its own."""
        rng = self.rng

        def draw() -> str:
            letters = rng.choice(words.QUEUE_LETTERS)
            if rng.random() < ODD_QUEUES:
                letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(3))
            return f"{letters}-{rng.randint(1, 9)}"

        return {
            tag: (self._of_split(draw, of=f"{tag} "), rng.choice(words.PRIORITIES)) for tag in tags
        }

    def _held_out_table(self, tags: list[str]) -> dict[str, tuple[str, str]]:
        """Draw a different queue and a priority for each tag."""
        rng = self.rng
        while True:
            letters = rng.sample(words.QUEUE_LETTERS, len(tags))
            table = {
                tag: (f"{code}-{rng.randint(1, 9)}", rng.choice(words.PRIORITIES))
                for tag, code in zip(tags, letters, strict=True)
            }
            if is_held_out(str(sorted(table.items()))):
                return table

    def _name(self) -> str:
        rng = self.rng

        def draw() -> str:
            first, last = rng.choice(words.FIRST_NAMES), self._composed_last()
            if not self.held_out and rng.random() < ODD_NAMES:
                first, last = self._syllables(), self._syllables()
            return f"{first} {last}"

        return self._of_split(draw)

    def _composed_last(self) -> str:
        return self.rng.choice(words.LAST_STARTS) + self.rng.choice(words.LAST_ENDS)

    def _syllables(self) -> str:
        rng = self.rng
        parts = (
            rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + rng.choice(("", "", *"lmnrst"))
            for _ in range(rng.randint(2, 3))
        )
        return "".join(parts).capitalize()

    def _city(self) -> str:
        rng = self.rng
        return self._of_split(lambda: rng.choice(words.CITY_STARTS) + rng.choice(words.CITY_ENDS))

    def _text(self, tag: str, values: dict[str, str], with_city: bool, short: bool) -> str:
        """Compose a ticket; which phrases are combined depends on the split."""
        rng = self.rng
        layout, greeting, issue, order, closing = self._phrases(tag)
        issue = issue.format(p=values["product"])
        order = order.format(o=values["order"])
        name, city = values["name"], values["city"]
        extra = []
        if with_city or (not short and rng.random() < 0.15):
            extra.append(rng.choice(words.CITY_CLAUSES).format(c=city))
        if not short and rng.random() < 0.4:
            extra.append(rng.choice(words.FILLERS).format(n=rng.randint(3, 99)))
        rng.shuffle(extra)
        sentence = issue[0].upper() + issue[1:]
        if layout == 0:
            return " ".join([greeting, issue, order, *extra, closing, name])
        if layout == 1:
            intro = rng.choice(words.INTRODUCTIONS).format(n=name)
            return " ".join([greeting, intro, order, sentence, *extra])
        if layout == 2:
            return f"From: {name}\nOrder: {values['order']}\n" + " ".join([sentence, *extra])
        return " ".join([sentence, *extra, order, name])

    def _phrases(self, tag: str) -> tuple[int, str, str, str, str]:
        rng = self.rng
        while True:
            issues, greetings = words.TOPICS[tag], words.GREETINGS
            orders, closings = words.ORDER_CLAUSES, words.CLOSINGS
            pick = (
                rng.randrange(4),
                rng.randrange(len(greetings)),
                rng.randrange(len(issues)),
                rng.randrange(len(orders)),
                rng.randrange(len(closings)),
            )
            if is_held_out(f"{tag} {pick}") == self.held_out:
                layout, a, b, c, d = pick
                return layout, greetings[a], issues[b], orders[c], closings[d]

    def _of_split(self, draw: Callable[[], str], of: str = "") -> str:
        """Draw until the value lies in this generator's split."""
        while True:
            value = draw()
            if is_held_out(of + value) == self.held_out:
                return value
