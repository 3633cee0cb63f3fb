"""Reports of planned jobs whose tokens are characters."""

from __future__ import annotations

from dataclasses import replace

from shoal.config import Order, Sharing
from shoal.diagnose import diagnose
from shoal.planner import build_forest, expected_peak_kv, make_plan, savings
from shoal.report.explain import PlanReport
from shoal.report.plan_facts import PlanFacts
from tests.helpers.planner_jobs import Job

POLICY = "Route each ticket to a team.\nBe [bold]brief[/bold]\x1b[31m. "
RULES = [f"{POLICY}For desk {desk} these extra rules hold too: {'x' * 50}" for desk in "ab"]


def tokens(text: str) -> list[int]:
    return [ord(c) for c in text]


def make_report(
    job: Job, sharing: Sharing = Sharing.forest, orders: dict[Order, float] | None = None
) -> PlanReport:
    table = job.table
    forest = build_forest(table.tokens, table.offsets, table.choices)
    plan = make_plan(table, sharing=sharing, forest=forest)
    return PlanReport(
        table=table,
        plan=plan,
        facts=PlanFacts(
            requests=len(table),
            invalid=3,
            savings=savings(forest),
            kv_bytes_per_token=1024,
            kv_peak_tokens=expected_peak_kv(plan, table, token_budget=10_000),
            kv_capacity_tokens=None,
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
