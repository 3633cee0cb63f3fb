from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from shoal.errors import OutputWriteError
from shoal.report.page import write_report
from shoal.report.summary import summary_rows
from tests.helpers.report_runs import SUMMARY, Ran, run, tickets


class Page(HTMLParser):
    """Tags with their attributes, and the text of each kind of tag."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.tags[-1][0] if self.tags else "", []).append(data)

    def images(self) -> list[bytes]:
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return [base64.b64decode(s.removeprefix("data:image/svg+xml;base64,")) for s in sources]


@pytest.fixture(scope="module")
def ran() -> Ran:
    return run(tickets())


def write(folder: Path, ran: Ran, title: str = "tickets.jsonl", **changes: Any) -> Path:
    values = {
        "title": title,
        "summary": SUMMARY,
        "run": ran,
    }
    return write_report(folder, **values | changes)


def test_the_folder_holds_the_report(tmp_path: Path, ran: Ran) -> None:
    folder = tmp_path / "new" / "report"
    path = write(folder, ran)
    assert path == folder / "index.html"
    names = {"index.html", "plan.svg", "token_batches.svg", "summary.json"}
    assert {file.name for file in folder.iterdir()} == names
    assert json.loads((folder / "summary.json").read_bytes()) == SUMMARY.to_dict()
    for name in ("plan.svg", "token_batches.svg"):
        assert ElementTree.parse(folder / name).getroot().tag.endswith("svg")


def test_the_page_needs_nothing_else(tmp_path: Path, ran: Ran) -> None:
    path = write(tmp_path, ran)
    page = Page(path)
    files = [tmp_path / "token_batches.svg", tmp_path / "plan.svg"]
    assert page.images() == [file.read_bytes() for file in files]
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "srcset", "style"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "http" not in path.read_text().replace("http-equiv", "")


def test_a_person_finds_every_figure(tmp_path: Path, ran: Ran) -> None:
    page = Page(write(tmp_path, ran))
    cells = {text.strip() for text in page.texts["td"]}
    assert {figures for _, figures in summary_rows(SUMMARY)} <= cells
    assert {"64 per iteration", "1,000 blocks of 4 tokens", "forest, ratio"} <= cells
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alts == ["Token batches", "The plan"]
    assert len(page.texts["figcaption"]) >= 2


def test_the_title_cannot_break_the_page(tmp_path: Path, ran: Ran) -> None:
    title = "</title><script>alert(1)</script>&\"' \udc80"
    page = Page(write(tmp_path, ran, title))
    assert "script" not in [tag for tag, _ in page.tags]
    shown = title.replace("\udc80", "\N{REPLACEMENT CHARACTER}")
    assert shown in "".join(page.texts["h1"])
    assert shown in "".join(page.texts["title"])


@pytest.mark.long
def test_an_older_report_is_replaced(tmp_path: Path, ran: Ran) -> None:
    write(tmp_path, ran, "old")
    write(tmp_path, ran, "new")
    assert "old" not in Page(tmp_path / "index.html").texts["h1"][0]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, ran: Ran) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputWriteError, match=r"file/report: .*Choose another folder"):
        write(tmp_path / "file" / "report", ran)
