from __future__ import annotations

import dataclasses

import orjson
import pytest
from rich.console import Console

from shoal.config import Order, Sharing
from shoal.costs import RatesSource
from shoal.report.explain import PlanReport
from tests.helpers.machines import machine
from tests.helpers.planner_jobs import Job
from tests.helpers.report_plans import RULES, desks, make_report, tokens, with_facts, with_ids


@pytest.fixture
def report() -> PlanReport:
    return desks()


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
    assert summary["seconds"] == {"read": 0.25, "plan": 0.5, "diagnose": 0.125}
    assert summary["kv_peak_bytes"] == report.facts.kv_peak_bytes > 0
    assert summary["tokens"]["prompt"] == report.plan.prompt_tokens
    assert summary["tokens"]["prompt_computed"] == report.plan.computed_prompt_tokens
    assert summary["plan"] == dataclasses.asdict(report.facts.figures)
    saved = summary["tokens"]["saved"]
    assert list(saved) == ["paper", "single", "forest", "forest_max"]
    assert saved["forest"] == report.plan.saved_prompt_tokens
    assert summary["explanation"] == report.explanation
    assert summary["diagnoses"] == []


def test_a_person_sees_the_numbers(report: PlanReport) -> None:
    text = printed(report)
    plan = report.plan
    for expected in (
        "21 will run, and 3 invalid",
        "22 with n > 1 counted",
        f"{plan.prompt_tokens:,}, of which {plan.computed_prompt_tokens:,} to compute",
        "1, and 1 sequence alone",
        f"({report.facts.kv_peak_bytes // 1024:,} tokens)",
        "forest ◂",
        f"{report.facts.savings.single:,}",
        f"{plan.saved_prompt_tokens / plan.prompt_tokens:.1%}",
    ):
        assert expected in text
    assert report.explanation.split(";")[0] in " ".join(text.split())


def test_the_plan_s_own_mode_is_marked(report: PlanReport) -> None:
    prompts = [tokens(RULES[0] + c) for c in "abc"]
    assert "single ◂" in printed(make_report(Job(prompts), Sharing.single))


def test_predicted_orders_are_shown_when_there_are_any(report: PlanReport) -> None:
    assert "predicted" not in printed(report)
    orders = {Order.ratio: 65.0, Order.input: 80.5}
    report = make_report(Job([[1, 2]]), orders=orders)
    assert "predicted: ratio 1 min 05 s, input 1 min 20 s" in printed(report)
    assert report.summary()["orders"] == {"ratio": 65.0, "input": 80.5}


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
    assert max(map(len, printed(with_ids(), width).splitlines())) <= width


def test_a_full_pool_is_said(report: PlanReport) -> None:
    assert "fills the pool" not in printed(report)
    full = with_facts(report, kv_peak_bytes=report.facts.machine.kv_tokens * 1024)
    assert "fills the pool" in printed(full)


@pytest.mark.parametrize("source", ["stated", "default", "estimated"])
def test_how_the_pool_is_known_is_said(report: PlanReport, source: str) -> None:
    known = with_facts(report, machine=machine(blocks=128), kv_capacity_source=source)
    assert known.summary()["kv_pool"] == {"bytes": 4096 * 1024, "source": source}
    words = {"stated": "as stated", "default": "on a CPU", "estimated": "a run measures"}
    assert "4.0 MiB (4,096 tokens)" in printed(known)
    assert words[source] in printed(known)


@pytest.mark.parametrize(
    ("source", "words"), [("measured", "as measured here"), ("assumed", "a common one is assumed")]
)
def test_whether_the_machine_was_measured_is_said(
    report: PlanReport, source: str, words: str
) -> None:
    on = dataclasses.replace(machine(budget=77), source=RatesSource(source))
    known = with_facts(report, machine=on)
    told = known.summary()["machine"]
    assert (told["source"], told["token_budget"]) == (source, 77)
    assert told["flops_per_second"] == on.costs.flops_per_second
    assert words in printed(known)


def test_a_pilot_is_told(report: PlanReport) -> None:
    assert "Pilot" not in printed(report)
    figures = dataclasses.replace(report.facts.figures, pilots=20)
    assert "20 sequences run first" in printed(with_facts(report, figures=figures))


def test_a_job_without_sharing() -> None:
    text = printed(make_report(Job([[1, 2], [3]])))
    assert "0, and 2 sequences alone" in text
    assert "Shared prefixes" not in text
    assert "Requests" in printed(make_report(Job([])))


def test_a_diagnosis_says_what_where_and_what_it_costs() -> None:
    report = with_ids()
    (item,) = report.summary()["diagnoses"]
    text = " ".join(printed(report, 120).split())
    assert item["kind"] == "varying_field"
    assert item["offset_tokens"] == item["offset_characters"] == len("Case ")
    assert item["lines"] == [1, 2]
    assert "after 5 tokens (5 characters), as in lines 1 and 2" in text
    assert "line 1: Case [<000]</script>" in text
    assert "line 2: Case [&919]</script>" in text
    assert f"{item['cost_tokens']:,} prompt tokens computed again" in text
    after = item["computed_tokens_after"]
    assert f"leave {after:,} prompt tokens" in text
    assert item["share_of_prompt_tokens"] == item["cost_tokens"] / report.plan.prompt_tokens


def test_several_devices() -> None:
    report = desks()
    figures = dataclasses.replace(report.facts.figures, computed_prompt_tokens=10**6)
    report = with_facts(
        report, figures=figures, device_seconds=(30.0, 31.0), device_kv_peak_bytes=(5, 6)
    )
    again = 10**6 - report.plan.computed_prompt_tokens
    text = " ".join(printed(report).split())
    assert "Devices 2; predicted: 30.0 s to 31.0 s each" in text
    assert f"{again:,} prompt tokens more, where families are cut" in text
    assert "1,000,000 to compute" in text
    devices = {
        "seconds": [30.0, 31.0],
        "computed_prompt_tokens": 10**6,
        "kv_peak_bytes": [5, 6],
    }
    assert report.summary()["devices"] == devices
    assert "devices" not in desks().summary()
