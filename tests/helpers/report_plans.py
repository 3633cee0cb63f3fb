"""Reports of planned jobs whose tokens are characters."""

from __future__ import annotations

from dataclasses import replace

from shoal.config import Order, Sharing
from shoal.diagnose import diagnose
from shoal.planner import expected_peak_kv, forest_of, make_plan, savings
from shoal.report.explain import PlanReport
from shoal.report.plan_facts import PlanFacts
from shoal.types import PlanFigures
from tests.helpers.machines import machine
from tests.helpers.planner_jobs import Job

POLICY = "Route each ticket to a team.\nBe [bold]brief[/bold]\x1b[31m. "
RULES = [f"{POLICY}For desk {desk} these extra rules hold too: {'x' * 50}" for desk in "ab"]


def tokens(text: str) -> list[int]:
    return [ord(c) for c in text]


def make_report(
    job: Job, sharing: Sharing = Sharing.forest, orders: dict[Order, float] | None = None
) -> PlanReport:
    table, on = job.table, machine(budget=10_000)
    forest = forest_of(table)
    plan = make_plan(table, sharing=sharing, forest=forest)
    return PlanReport(
        table=table,
        plan=plan,
        facts=PlanFacts(
            requests=len(table),
            invalid=3,
            savings=savings(forest),
            figures=PlanFigures(
                prompt_tokens=plan.prompt_tokens,
                computed_prompt_tokens=plan.computed_prompt_tokens,
                segments=plan.num_segments,
                order=plan.order.value,
            ),
            machine=on,
            kv_peak_bytes=expected_peak_kv(plan, table, on) * 1024,
            orders=orders or {},
            read_seconds=0.25,
            plan_seconds=0.5,
            diagnose_seconds=0.125,
        ),
        diagnoses=diagnose(table, plan, forest, lambda token: chr(token).encode()),
        decode=lambda ids: "".join(map(chr, ids)),
    )


def with_facts(report: PlanReport, **changes: object) -> PlanReport:
    return replace(report, facts=replace(report.facts, **changes))


def desks() -> PlanReport:
    """Two desks under one policy, a request with two choices, and one request alone."""
    prompts = [tokens(f"{RULES[i % 2]}{chr(65 + i)}") for i in range(20)]
    return make_report(Job([*prompts, tokens("alone")], choices=[2] + [1] * 20))


def with_ids(number: int = 30) -> PlanReport:
    """An id in front of every prompt, with markup that must not be taken as such."""
    ids = [f"{'<&>'[i % 3]}{i * 7919 % 1000:03}" for i in range(number)]
    return make_report(
        Job(
            [
                tokens(f"Case {name}</script>\n{POLICY}{'y' * 40}{chr(65 + i)}")
                for i, name in enumerate(ids)
            ]
        )
    )
