"""Diagnoses in words: what is wrong, where, what it costs, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from shoal.diagnose import Diagnoses, Finding, FindingKind, LimitFinding
from shoal.report.excerpts import Excerpts
from shoal.report.units import plural

_BEFORE, _AFTER = 8, 12
"""Tokens of an example shown around the difference."""

_TITLES = {
    FindingKind.varying_field: (
        "A varying field stands before text that is the same in many prompts"
    ),
    FindingKind.white_space: "Prompts begin with one text in different white space",
    FindingKind.spelling: "Prompts begin with one text in different case or punctuation",
    FindingKind.shuffled_chunks: "The same examples or passages come in a different order",
}
_REMEDIES = {
    FindingKind.varying_field: (
        "Put the field (an id, a time, a name) behind the text that is the same."
    ),
    FindingKind.white_space: (
        "Write the text in one way: strip it, and keep spaces and line breaks equal."
    ),
    FindingKind.spelling: "Write the text in one way, letter for letter.",
    FindingKind.shuffled_chunks: (
        "Put the passages in one fixed order in all prompts that have them."
    ),
}


@dataclass(frozen=True)
class Shown:
    """An example: the line it stands in (from 1), and its text around the difference."""

    line: int
    before: str
    difference: str
    after: str


@dataclass(frozen=True)
class Advice:
    """A diagnosis as people read it.

    Attributes:
        where: offset of the difference, empty where there is none.
        cost, gain: what it costs now, and what putting it right brings.
    """

    kind: str
    title: str
    where: str
    examples: tuple[Shown, ...]
    cost: str
    remedy: str
    gain: str
    figures: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """As plain data, ready for JSON: the figures first, then the words."""
        words = ("title", "where", "cost", "remedy", "gain")
        return {
            "kind": self.kind,
            **self.figures,
            "examples": [asdict(example) for example in self.examples],
            **{name: getattr(self, name) for name in words},
        }


def all_advice(diagnoses: Diagnoses, excerpts: Excerpts, prompt_tokens: int) -> list[Advice]:
    """Every finding in words, dearest first, output limits last.

    Args:
        prompt_tokens: of all sequences.
    """
    prompts = [
        _prompt_advice(finding, excerpts, prompt_tokens, diagnoses.computable_tokens)
        for finding in diagnoses.prompts
    ]
    return prompts + [_limit_advice(finding, excerpts) for finding in diagnoses.limits]


def render_advice(advice: list[Advice]) -> RenderableType:
    """The diagnoses for a terminal."""
    parts: list[RenderableType] = [Text("What would help", style="italic")]
    for number, item in enumerate(advice, start=1):
        parts.append(Text(f"{number}. {item.title}", style="bold"))
        parts.append(Padding(Group(*_lines(item)), (0, 0, 0, 3)))
    return Group(*parts)


def _lines(item: Advice) -> Iterator[Text]:
    if item.where:
        yield Text(item.where)
    width = max((len(f"{shown.line:,}") for shown in item.examples), default=0)
    for shown in item.examples:
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"line {shown.line:>{width},}: ", style="dim")
        line.append(shown.before)
        line.append(f"[{shown.difference}]", style="bold red")
        line.append(shown.after)
        yield line
    yield Text(f"Cost: {item.cost}")
    yield Text(f"{item.remedy} {item.gain}")


def _prompt_advice(
    finding: Finding, excerpts: Excerpts, prompt_tokens: int, computable: int
) -> Advice:
    characters = excerpts.characters(finding.examples[0].request, finding.offset)
    shown = tuple(_shown(finding, index, excerpts) for index in (0, 1))
    of_prompt = finding.cost_tokens / max(prompt_tokens, 1)
    of_computed = finding.cost_tokens / max(computable, 1)
    about = "" if finding.exact else "about "
    left = computable - finding.cost_tokens
    return Advice(
        kind=finding.kind.value,
        title=_TITLES[finding.kind],
        where=(
            f"{about.capitalize()}{finding.requests:,} requests, "
            f"{about}{finding.variants:,} variants. The prompts first differ after "
            f"{finding.offset:,} {plural('token', finding.offset)} "
            f"({characters:,} {plural('character', characters)}), as in lines "
            f"{shown[0].line:,} and {shown[1].line:,}:"
        ),
        examples=shown,
        cost=(
            f"{about}{finding.cost_tokens:,} prompt tokens computed again, {of_prompt:.1%} of all "
            f"and {of_computed:.1%} of those that sharing leaves to compute."
        ),
        remedy=_REMEDIES[finding.kind],
        gain=(
            f"This would leave {about}{left:,} prompt tokens to compute instead of {computable:,}."
        ),
        figures={
            "requests": finding.requests,
            "variants": finding.variants,
            "offset_tokens": finding.offset,
            "offset_characters": characters,
            "lines": [example.line for example in shown],
            "cost_tokens": finding.cost_tokens,
            "share_of_prompt_tokens": of_prompt,
            "share_of_computed_tokens": of_computed,
            "computed_tokens_after": left,
            "exact": finding.exact,
        },
    )


def _shown(finding: Finding, index: int, excerpts: Excerpts) -> Shown:
    example = finding.examples[index]
    length = len(excerpts.table.prompt(example.request))
    end, last = example.end, example.end + _AFTER
    return Shown(
        line=int(excerpts.table.line[example.request]) + 1,
        before=("…" if example.start > _BEFORE else "")
        + excerpts.exact(example.request, example.start - _BEFORE, example.start),
        difference=excerpts.exact(example.request, example.start, end),
        after=excerpts.exact(example.request, end, last) + ("…" if last < length else ""),
    )


def _limit_advice(finding: LimitFinding, excerpts: Excerpts) -> Advice:
    limit = f"{finding.limit:,} tokens"
    if finding.needed is not None:
        cost = (
            f"In the earlier run 99 % of the answers took {finding.needed:,} tokens or fewer. "
            f"With the limit {_fit(finding.fitting)} in the KV memory at a time."
        )
        remedy = f"Set max_tokens nearer to {finding.needed:,}."
        would = f"With {finding.needed:,} tokens {_fit(finding.fitting_if_needed)}."
    else:
        cost = f"If answers were that long, {_fit(finding.fitting)} in the KV memory at a time."
        remedy = "State a max_tokens near the longest answer you expect" + (
            ", or give the KV pool more memory." if finding.stated else "."
        )
        would = f"With 256 tokens {_fit(finding.fitting_if_needed)}."
    return Advice(
        kind="output_limit",
        title=(
            f"max_tokens of {limit} is far above what answers take"
            if finding.stated
            else f"No max_tokens: answers may take up to {limit}"
        ),
        where=(
            f"{finding.requests:,} {plural('request', finding.requests)}, the first in line "
            f"{int(excerpts.table.line[finding.example]) + 1:,}."
        ),
        examples=(),
        cost=cost,
        remedy=remedy,
        gain=would,
        figures={
            "requests": finding.requests,
            "stated": finding.stated,
            "limit_tokens": finding.limit,
            "needed_tokens": finding.needed,
            "fitting": finding.fitting,
            "fitting_if_needed": finding.fitting_if_needed,
        },
    )


def _fit(sequences: int) -> str:
    return f"{sequences:,} {plural('sequence', sequences)} {'fits' if sequences == 1 else 'fit'}"
