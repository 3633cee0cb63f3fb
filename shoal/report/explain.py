"""What `shoal plan` prints: a job explained before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shoal.planner import Plan, Savings
from shoal.report.units import plural, readable_bytes
from shoal.types import RequestTable

_PREFIXES = 8
_EXCERPT_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """A plan and what is known around it; print it with rich, or take `summary()` as data.

    Attributes:
        savings: what each sharing mode would save on this job.
        decode: text of token ids.
        invalid: lines that cannot run and are no part of the plan.
        kv_bytes_per_token: KV bytes of one token in all layers.
        kv_peak_tokens: see `shoal.planner.expected_peak_kv`.
        kv_capacity_tokens: tokens the KV pool holds; None: unknown.
        read_seconds, plan_seconds: what reading the input and planning took.
    """

    table: RequestTable
    plan: Plan
    savings: Savings
    decode: Callable[[Sequence[int]], str]
    invalid: int
    kv_bytes_per_token: int
    kv_peak_tokens: int
    kv_capacity_tokens: int | None
    read_seconds: float
    plan_seconds: float

    def summary(self) -> dict[str, Any]:
        """As plain data, ready for JSON. `requests` counts those that will run."""
        saved = asdict(self.savings)
        del saved["none"]
        return {
            "requests": len(self.table),
            "invalid": self.invalid,
            "groups": len(self.plan.groups) - 1,
            "tokens": {"prompt": self.plan.prompt_tokens, "saved": saved},
            "kv_peak_bytes": self.kv_peak_tokens * self.kv_bytes_per_token,
            "seconds": {"read": self.read_seconds, "plan": self.plan_seconds},
        }

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [self._facts(), "", self._modes()]
        if self.plan.num_segments:
            parts += ["", self._prefixes()]
        return Group(*parts)

    def _facts(self) -> Table:
        facts = Table.grid(padding=(0, 3))
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column()
        for name, value in self._fact_rows():
            facts.add_row(name, value)
        return facts

    def _fact_rows(self) -> Iterator[tuple[str, str]]:
        plan = self.plan
        invalid = f", and {self.invalid:,} invalid that will not" if self.invalid else ""
        yield "Requests", f"{len(self.table):,} will run{invalid}"
        if plan.num_sequences != len(self.table):
            yield "Sequences", f"{plan.num_sequences:,} with n > 1 counted"
        yield (
            "Prompt tokens",
            f"{plan.prompt_tokens:,}, of which {plan.computed_prompt_tokens:,} to compute",
        )
        alone = int(np.count_nonzero(plan.sequence_segment < 0))
        shared = len(plan.groups) - 1 - alone
        yield "Prefix groups", f"{shared:,}, and {alone:,} {plural('sequence', alone)} alone"
        if plan.num_segments:
            degree = np.average(plan.segment_users, weights=plan.segment_length)
            yield "Sharing degree", f"{degree:,.1f} sequences use a shared token"
        yield "Expected KV peak", self._kv_peak()
        yield "Time", f"{self.read_seconds:.2f} s reading, {self.plan_seconds:.2f} s planning"

    def _kv_peak(self) -> str:
        size = readable_bytes(self.kv_peak_tokens * self.kv_bytes_per_token)
        full = (
            self.kv_capacity_tokens is not None and self.kv_peak_tokens >= self.kv_capacity_tokens
        )
        return f"{size} ({self.kv_peak_tokens:,} tokens)" + (", fills the pool" if full else "")

    def _modes(self) -> Table:
        table = Table(title="Prompt tokens saved by sharing", title_justify="left", box=SIMPLE_HEAD)
        table.add_column("Mode")
        table.add_column("Saved", justify="right")
        table.add_column("Of all", justify="right")
        table.add_column("To compute", justify="right")
        total = self.plan.prompt_tokens
        for mode, saved in asdict(self.savings).items():
            ours = mode == self.plan.sharing
            table.add_row(
                {"forest_max": "forest, nothing folded"}.get(mode, mode) + (" ◂" if ours else ""),
                f"{saved:,}",
                f"{saved / max(total, 1):.1%}",
                f"{total - saved:,}",
                style="bold" if ours else "",
            )
        return table

    def _prefixes(self) -> Table:
        plan = self.plan
        saved = plan.segment_length.astype(np.int64) * (plan.segment_users - 1)
        largest = np.argsort(-saved, kind="stable")[:_PREFIXES]
        table = Table(title="Largest prefixes", title_justify="left", box=SIMPLE_HEAD)
        numbers = {
            "Sequences": [f"{plan.segment_users[s]:,}" for s in largest],
            "Tokens": [f"{plan.segment_length[s]:,}" for s in largest],
            "Saved": [f"{saved[s]:,}" for s in largest],
        }
        for name, cells in numbers.items():
            # On a narrow terminal the text gives way, never a number.
            width = max(len(name), *map(len, cells))
            table.add_column(name, justify="right", no_wrap=True, min_width=width)
        table.add_column("Begins with", no_wrap=True, overflow="ellipsis", ratio=1)
        for *cells, segment in zip(*numbers.values(), largest, strict=True):
            table.add_row(*cells, Text(self._excerpt(int(segment))))
        return table

    def _excerpt(self, segment: int) -> str:
        """How the segment's own tokens begin, on one line and safe to print."""
        start, length = self.plan.segment_start[segment], self.plan.segment_length[segment]
        shown = min(int(length), _EXCERPT_TOKENS)
        prompt = self.table.prompt(int(self.plan.segment_request[segment]))
        text = self.decode(prompt[start : start + shown].tolist())
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        return ("…" if start else "") + line + ("…" if shown < length else "")
