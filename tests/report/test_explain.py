from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from rich.console import Console

from shoal.config import Sharing
from shoal.planner import build_forest, expected_peak_kv, make_plan, savings
from shoal.report.explain import PlanReport
from tests.planner.jobs import Job

POLICY = "Route each ticket to a team.\nBe [bold]brief[/bold]\x1b[31m. "
RULES = [f"{POLICY}For desk {desk} these extra rules hold too: {'x' * 50}" for desk in "ab"]


def tokens(text: str) -> list[int]:
    return [ord(c) for c in text]


def make_report(job: Job, sharing: Sharing = Sharing.forest) -> PlanReport:
    table = job.table
    forest = build_forest(table.tokens, table.offsets, table.choices)
    plan = make_plan(table, sharing=sharing, forest=forest)
    return PlanReport(
        table=table,
        plan=plan,
        savings=savings(forest),
        decode=lambda ids: "".join(map(chr, ids)),
        invalid=3,
        kv_bytes_per_token=1024,
        kv_peak_tokens=expected_peak_kv(plan, table, token_budget=10_000),
        kv_capacity_tokens=None,
        read_seconds=0.25,
        plan_seconds=0.5,
    )


@pytest.fixture
def report() -> PlanReport:
    prompts = [tokens(f"{RULES[i % 2]}{chr(65 + i)}") for i in range(20)]
    return make_report(Job([*prompts, tokens("alone")], choices=[2] + [1] * 20))


def printed(report: PlanReport, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(report)
    return capture.get()


def test_summary_has_the_contract_s_shape(report: PlanReport) -> None:
    summary = report.summary()
    assert orjson.loads(orjson.dumps(summary)) == summary
    assert {k: summary[k] for k in ("requests", "invalid", "groups")} == {
        "requests": 21,
        "invalid": 3,
        "groups": 2,
    }
    assert summary["seconds"] == {"read": 0.25, "plan": 0.5}
    assert summary["kv_peak_bytes"] == report.kv_peak_tokens * 1024 > 0
    assert summary["tokens"]["prompt"] == report.plan.prompt_tokens
    saved = summary["tokens"]["saved"]
    assert list(saved) == ["paper", "single", "forest", "forest_max"]
    assert saved["forest"] == report.plan.saved_prompt_tokens


def test_a_person_sees_the_numbers(report: PlanReport) -> None:
    text = printed(report)
    plan = report.plan
    for expected in (
        "21 will run, and 3 invalid",
        "22 with n > 1 counted",
        f"{plan.prompt_tokens:,}, of which {plan.computed_prompt_tokens:,} to compute",
        "1, and 1 sequence alone",
        f"({report.kv_peak_tokens:,} tokens)",
        "forest ◂",
        f"{report.savings.single:,}",
        f"{plan.saved_prompt_tokens / plan.prompt_tokens:.1%}",
    ):
        assert expected in text


def test_the_plan_s_own_mode_is_marked(report: PlanReport) -> None:
    prompts = [tokens(RULES[0] + c) for c in "abc"]
    assert "single ◂" in printed(make_report(Job(prompts), Sharing.single))


def test_excerpts_are_one_safe_line(report: PlanReport) -> None:
    text = printed(report, width=160)
    assert r"Route each ticket to a team.\nBe [bold]brief[/bold]\x1b[31m. For" in text
    assert "…b these extra rules" in text or "…a these extra rules" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_fits_the_terminal(report: PlanReport, width: int) -> None:
    text = printed(report, width)
    assert max(map(len, text.splitlines())) <= width
    saved = report.plan.segment_length * (report.plan.segment_users - 1)
    assert all(f"{s:,}" in text for s in saved), "numbers are never cut"


def test_a_full_pool_is_said(report: PlanReport) -> None:
    assert "fills the pool" not in printed(report)
    full = replace(report, kv_capacity_tokens=report.kv_peak_tokens)
    assert "fills the pool" in printed(full)


def test_a_job_without_sharing(report: PlanReport) -> None:
    text = printed(make_report(Job([[1, 2], [3]])))
    assert "0, and 2 sequences alone" in text
    assert "Largest prefixes" not in text
    assert "Requests" in printed(make_report(Job([])))
