"""What `shoal plan` prints: a job explained before it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shoal.costs import Rates
from shoal.diagnose import Diagnoses
from shoal.planner import Plan
from shoal.report.excerpts import Decode, Excerpts
from shoal.report.plan_advice import Advice, all_advice, render_advice
from shoal.report.plan_facts import PlanFacts, fact_rows, mode_rows
from shoal.report.plan_tree import Branch, plan_tree, render_tree
from shoal.report.plan_words import explanation
from shoal.types import RequestTable


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """A plan and what is known around it; print it with rich, or take `summary()` as data.

    Attributes:
        decode: text of token ids.
    """

    table: RequestTable
    plan: Plan
    facts: PlanFacts
    diagnoses: Diagnoses
    decode: Decode

    @property
    def excerpts(self) -> Excerpts:
        """Shows parts of the prompts."""
        return Excerpts(self.table, self.decode)

    @cached_property
    def tree(self) -> Branch:
        """The branches of the forest that save most."""
        return plan_tree(self.plan, self.excerpts)

    @cached_property
    def advice(self) -> list[Advice]:
        """The diagnoses in words."""
        return all_advice(self.diagnoses, self.excerpts, self.plan.prompt_tokens)

    @cached_property
    def explanation(self) -> str:
        """Where the savings come from."""
        return explanation(self.plan)

    def summary(self) -> dict[str, Any]:
        """As plain data, ready for JSON. `requests` counts those that will run."""
        facts, plan = self.facts, self.plan
        saved = asdict(facts.savings)
        del saved["none"]
        devices = {
            "seconds": list(facts.device_seconds),
            "computed_prompt_tokens": facts.figures.computed_prompt_tokens,
            "kv_peak_bytes": list(facts.device_kv_peak_bytes),
        }
        tokens = {
            "prompt": plan.prompt_tokens,
            "prompt_computed": facts.figures.computed_prompt_tokens,
            "saved": saved,
        }
        return {
            "requests": facts.requests,
            "invalid": facts.invalid,
            "groups": len(plan.groups) - 1,
            "tokens": tokens,
            "plan": asdict(facts.figures),
            "kv_peak_bytes": facts.kv_peak_bytes,
            "kv_pool": self._pool(),
            "machine": self._machine(),
            "seconds": {
                "read": facts.read_seconds,
                "plan": facts.plan_seconds,
                "diagnose": facts.diagnose_seconds,
            },
            "order": facts.figures.order,
            "orders": {order.value: seconds for order, seconds in facts.orders.items()},
            **({"devices": devices} if facts.device_seconds else {}),
            **({"weights": facts.weights} if facts.weights else {}),
            **({} if facts.adapters is None else {"adapters": asdict(facts.adapters)}),
            "explanation": self.explanation,
            "diagnoses": [item.summary() for item in self.advice],
        }

    def _pool(self) -> dict[str, Any]:
        machine = self.facts.machine
        size = machine.kv_tokens * int(machine.costs.kv_bytes)
        return {"bytes": size, "source": str(self.facts.kv_capacity_source)}

    def _machine(self) -> dict[str, Any]:
        """Whether its rates are measured or assumed, and what they are."""
        machine = self.facts.machine
        rates = {each.name: getattr(machine.costs, each.name) for each in fields(Rates)}
        return {"source": machine.source.value, "token_budget": machine.token_budget, **rates}

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [self._facts(), "", Text(self.explanation), "", self._modes()]
        if self.plan.num_segments:
            parts += ["", render_tree(self.tree)]
        if self.advice:
            parts += ["", render_advice(self.advice)]
        return Group(*parts)

    def _facts(self) -> Table:
        facts = Table.grid(padding=(0, 3))
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column()
        for name, value in fact_rows(self.plan, self.facts):
            facts.add_row(name, value)
        return facts

    def _modes(self) -> Table:
        table = Table(title="Prompt tokens saved by sharing", title_justify="left", box=SIMPLE_HEAD)
        table.add_column("Mode")
        for name in ("Saved", "Of all", "To compute"):
            table.add_column(name, justify="right")
        for row in mode_rows(self.plan, self.facts.savings):
            table.add_row(
                row.name + (" ◂" if row.planned else ""),
                f"{row.saved:,}",
                f"{row.share:.1%}",
                f"{row.computed:,}",
                style="bold" if row.planned else "",
            )
        return table
