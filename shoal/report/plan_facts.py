"""The figures of a planned job, as rows for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from shoal.config import Order
from shoal.costs import Machine, RatesSource
from shoal.planner import Plan, Savings
from shoal.planning import AdapterUse
from shoal.report.units import plural, readable_bytes, readable_seconds
from shoal.types import PlanFigures


@dataclass(frozen=True, kw_only=True)
class PlanFacts:
    """What is known around a plan.

    Attributes:
        requests: those that will run.
        invalid: lines that cannot run and are no part of the plan.
        savings: what each sharing mode would save on this job.
        figures: the plan that a run begins with, of all devices together.
        machine: what it is made for, each of several devices.
        kv_peak_bytes: expected at most, on one device.
        kv_capacity_source: how that is known: "stated", "default", or "estimated" without weights.
        weights: how those of a quantised checkpoint are stored; empty for plain ones.
        orders: seconds predicted for each order that was compared.
        read_seconds, plan_seconds, diagnose_seconds: what each step took.
        device_seconds: predicted of each of several devices; empty for one.
        device_kv_peak_bytes: expected at most on each of them.
        adapters: what there is of them; None: none was given.
    """

    requests: int
    invalid: int
    savings: Savings
    figures: PlanFigures
    machine: Machine
    kv_peak_bytes: int
    orders: dict[Order, float]
    read_seconds: float
    plan_seconds: float
    diagnose_seconds: float
    kv_capacity_source: str = "stated"
    weights: str = ""
    device_seconds: tuple[float, ...] = ()
    device_kv_peak_bytes: tuple[int, ...] = ()
    adapters: AdapterUse | None = None


_SOURCES = {
    "stated": "as stated",
    "default": "the default on a CPU",
    "estimated": "estimated; a run measures what is left on the device",
}


_RATES = {
    RatesSource.measured: "as measured here with this model",
    RatesSource.assumed: "a common one is assumed: none was measured here with this model yet",
}


def fact_rows(plan: Plan, facts: PlanFacts) -> Iterator[tuple[str, str]]:
    """The figures as (name, text), most important first."""
    invalid = f", and {facts.invalid:,} invalid that will not" if facts.invalid else ""
    yield "Requests", f"{facts.requests:,} will run{invalid}"
    if plan.num_sequences != facts.requests:
        yield "Sequences", f"{plan.num_sequences:,} with n > 1 counted"
    yield (
        "Prompt tokens",
        f"{plan.prompt_tokens:,}, of which {facts.figures.computed_prompt_tokens:,} to compute",
    )
    alone = int(np.count_nonzero(plan.sequence_segment < 0))
    shared = len(plan.groups) - 1 - alone
    yield "Prefix groups", f"{shared:,}, and {alone:,} {plural('sequence', alone)} alone"
    if plan.num_segments:
        degree = np.average(plan.segment_users, weights=plan.segment_length)
        yield "Sharing degree", f"{degree:,.1f} sequences use a shared token"
    kv_tokens, kv_bytes = facts.machine.kv_tokens, int(facts.machine.costs.kv_bytes)
    peak_tokens = facts.kv_peak_bytes // kv_bytes
    fills = ", fills the pool" if peak_tokens >= kv_tokens else ""
    size = readable_bytes(facts.kv_peak_bytes)
    yield "Expected KV peak", f"{size} ({peak_tokens:,} tokens){fills}"
    size, source = readable_bytes(kv_tokens * kv_bytes), _SOURCES[facts.kv_capacity_source]
    yield "KV pool", f"{size} ({kv_tokens:,} tokens), {source}"
    if facts.weights:
        yield "Weights", facts.weights
    if facts.machine.states is not None:
        state = readable_bytes(int(facts.machine.costs.state_bytes))
        yield "State", f"{state} for each running sequence and each shared segment in use"
    if facts.adapters is not None:
        yield from _adapter_rows(facts.adapters, facts.requests)
    yield "Machine", _RATES[facts.machine.source]
    if facts.device_seconds:
        least, most = (readable_seconds(f(facts.device_seconds)) for f in (min, max))
        again = facts.figures.computed_prompt_tokens - plan.computed_prompt_tokens
        cut = f"; {again:,} prompt tokens more, where families are cut" if again > 0 else ""
        yield "Devices", f"{len(facts.device_seconds)}; predicted: {least} to {most} each{cut}"
    if facts.figures.pilots:
        yield (
            "Pilot",
            f"{facts.figures.pilots:,} sequences run first, to learn how long answers get",
        )
    if facts.orders:
        predicted = ", ".join(
            f"{order} {readable_seconds(seconds)}" for order, seconds in facts.orders.items()
        )
        yield "Order", f"{plan.order}; predicted: {predicted}"
    yield (
        "Time",
        f"{facts.read_seconds:.2f} s reading, {facts.plan_seconds:.2f} s planning, "
        f"{facts.diagnose_seconds:.2f} s looking for mistakes",
    )


def _adapter_rows(adapters: AdapterUse, requests: int) -> Iterator[tuple[str, str]]:
    others = requests - adapters.requests
    yield (
        "Adapters",
        f"{adapters.used:,} of {adapters.given:,} in use, by {adapters.requests:,} "
        f"{plural('request', adapters.requests)}; {others:,} of the model itself",
    )
    if not adapters.used:
        return
    whole, largest, memory = map(
        readable_bytes, (adapters.bytes, adapters.largest_bytes, adapters.memory_bytes)
    )
    yield "Adapter memory", f"{whole} for all, {largest} for the largest; {memory} at a time"
    if adapters.tokens_apart:
        yield (
            "Apart by adapter",
            f"{adapters.tokens_apart:,} prompt tokens that several adapters have in common, and "
            "that each computes for itself",
        )


@dataclass(frozen=True)
class ModeRow:
    """What one sharing mode saves; `planned` marks the plan's own."""

    name: str
    saved: int
    share: float
    computed: int
    planned: bool


def mode_rows(plan: Plan, savings: Savings) -> list[ModeRow]:
    """The sharing modes side by side."""
    total = plan.prompt_tokens
    return [
        ModeRow(
            {"forest_max": "forest, nothing folded"}.get(mode, mode),
            saved,
            saved / max(total, 1),
            total - saved,
            mode == plan.sharing,
        )
        for mode, saved in asdict(savings).items()
    ]
