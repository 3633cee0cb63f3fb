from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from shoal.errors import OutputWriteError
from shoal.planner import Plan
from shoal.report.explain import PlanReport
from shoal.report.plan_page import plan_page, write_plan_page
from shoal.report.units import TIMES
from shoal.types import Int32Array
from tests.helpers.planner_jobs import Job
from tests.helpers.report_plans import desks, make_report, with_ids
from tests.report.test_page import Page

SVG = "{http://www.w3.org/2000/svg}"


def svg_of(page: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", page, re.DOTALL)
    assert found
    return ElementTree.fromstring(found[0])


def rects(page: str, *, of: str) -> list[ElementTree.Element]:
    found = svg_of(page).findall("rect")
    if of == "segment":
        return [r for r in found if r.get("class") not in ("t",) and " m" not in r.get("class", "")]
    return [r for r in found if of in r.get("class", "").split()]


def data_of(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found
    data: dict[str, object] = json.loads(found[1])
    return data


def test_one_rectangle_per_segment() -> None:
    report = desks()
    page, plan = plan_page("job.jsonl", report), report.plan
    shown = rects(page, of="segment")
    details = data_of(page)["segments"]
    assert len(shown) == len(details) == plan.num_segments
    for rect, (users, tokens, start, saved, _), segment in zip(
        shown, details, range(plan.num_segments), strict=True
    ):
        assert (users, tokens) == (plan.segment_users[segment], plan.segment_length[segment])
        assert start == plan.segment_start[segment]
        assert saved == tokens * (users - 1)
        width = 1200 * users / plan.num_sequences
        assert float(rect.get("width", "")) == pytest.approx(width, rel=1e-4)
        height = 480 * tokens / data_of(page)["depth"]
        assert float(rect.get("height", "")) == pytest.approx(height, rel=1e-4)
    assert {rect.get("class") for rect in shown} >= {"s0", "s5"}


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "plan.html"
    write_plan_page(path, "job.jsonl", desks())
    page = Page(path)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "img")
        assert not attributes.keys() & {"src", "href", "srcset", "style", "onclick"}
    text = path.read_text()
    assert "http" not in text.replace("http-equiv", "")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text, "the page's own rule lets its script run"


def test_a_person_finds_all_of_it() -> None:
    report = with_ids()
    page = plan_page("job.jsonl", report)
    for text in (
        report.explanation,
        "What would help",
        report.advice[0].cost,
        "<mark>&lt;000</mark>&lt;/script&gt;",
        "forest, nothing folded",
        "30 will run",
        "(planned)",
    ):
        assert text in page
    assert "What would help" not in plan_page("x", desks())


def test_it_can_be_read_without_seeing_or_pointing(tmp_path: Path) -> None:
    path = tmp_path / "plan.html"
    write_plan_page(path, "job.jsonl", desks())
    page = Page(path)
    (svg,) = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert svg["role"] == "img"
    assert svg["tabindex"] == "0"
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {svg["aria-labelledby"], svg["aria-describedby"], "tip", "reset", "range"} <= ids
    assert any(attributes.get("aria-live") == "polite" for _, attributes in page.tags)
    assert any("ticket" in text for text in page.texts["span"]), "the prefixes are listed as text"
    assert "prefers-color-scheme" in path.read_text() or "light-dark(" in path.read_text()


def test_prompts_and_titles_cannot_break_the_page(tmp_path: Path) -> None:
    text = "</title></script><script>alert(1)</script>&\"'<b>"
    prompts = [[*map(ord, text * 2), 100 + i] for i in range(9)]
    path = tmp_path / "plan.html"
    write_plan_page(path, text + "\udc80", make_report(Job(prompts)))
    page = Page(path)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 2
    assert "b" not in tags
    assert data_of(path.read_text())["segments"][0][4].startswith(text[:40])
    svg_of(path.read_text())


def large(first: Int32Array, last: Int32Array, level: Int32Array, sequences: int) -> PlanReport:
    """A report of segments in preorder, ten tokens each, users of which are [first, last)."""
    segments = len(first)
    zeros, base = np.zeros(segments, dtype=np.int32), make_report(Job([[1] * 100]))
    owner = np.searchsorted(first, np.arange(sequences), side="right").astype(np.int32) - 1
    owner[np.arange(sequences) >= last[owner]] = -1
    length = zeros + np.int32(10)
    plan = Plan(
        segment_parent=np.where(level > 0, np.arange(segments) - 1, -1).astype(np.int32),
        segment_start=level * np.int32(10),
        segment_length=length,
        segment_request=zeros,
        segment_first=first,
        segment_last=last,
        sequence_request=np.zeros(sequences, dtype=np.int32),
        sequence_choice=np.zeros(sequences, dtype=np.int32),
        sequence_segment=owner,
        sharing=base.plan.sharing,
        order=base.plan.order,
        prompt_tokens=100 * sequences,
        computed_prompt_tokens=100 * sequences - 10 * int((last - first - 1).sum()),
    )
    return replace(base, plan=plan, decode=lambda ids: "word & " * 40)


def test_a_million_segments_make_a_page_below_2_mb() -> None:
    first = np.arange(0, 2_000_000, 2, dtype=np.int32)
    page = plan_page("large", large(first, first + 2, 0 * first, 2_000_000))
    assert len(page.encode()) < 2_000_000
    assert len(rects(page, of="m")) > 500


def test_many_wide_segments_make_a_page_below_2_mb() -> None:
    groups, levels, width = 600, 12, 1000
    level = np.tile(np.arange(levels, dtype=np.int32), groups)
    first = np.repeat(np.arange(groups, dtype=np.int32) * width, levels)
    page = plan_page("large", large(first, first + width - level, level, groups * width))
    assert len(page.encode()) < 2_000_000
    assert 1000 < len(rects(page, of="segment")) <= 2500


def test_a_job_without_sharing_or_without_requests() -> None:
    for job in (Job([[1, 2], [3]]), Job([])):
        page = plan_page("x", make_report(job))
        assert rects(page, of="segment") == []
        assert "What saves most" not in page


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputWriteError, match="Choose another file"):
        write_plan_page(tmp_path / "absent" / "plan.html", "x", desks())


@pytest.mark.skipif(shutil.which("node") is None, reason="needs a JavaScript engine")
def test_the_script_is_javascript_and_describes_a_segment(tmp_path: Path) -> None:
    page = plan_page("job.jsonl", desks())
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script
    driver = Path(__file__).with_name("fake_browser.js").read_text()
    program = driver.replace("/*DATA*/", json.dumps(json.dumps(data_of(page)))).replace(
        "/*SCRIPT*/", json.dumps(script[1])
    )
    (tmp_path / "page.js").write_text(program)
    done = subprocess.run(
        ["node", str(tmp_path / "page.js")], capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout)
    users, tokens, _, saved, text = data_of(page)["segments"][0]
    assert seen["hovered"].startswith(f"{users} sequences {TIMES} {tokens} tokens")
    assert f"{saved:,} saved\n{text}" in seen["hovered"]
    assert seen["zoomed"] == "100 0 300 480"
    assert seen["reset"] == "0 0 1200 480"
    assert seen["keyed"] == seen["hovered"]
    assert seen["left"] == data_of(page)["hint"] or seen["left"] == seen["hovered"]
