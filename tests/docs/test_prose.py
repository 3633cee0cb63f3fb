"""The pages are made of short sentences, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_WORDS = 35
DIARIES = {"lab-notes.md", "cli.md"}
"""A diary, and a page that is generated from the options' help: their links are checked alone."""
PAGES = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("shoal", "csrc", "tests", "tools", "benchmarks", "docs", "examples")
FILES = [f"/{file.relative_to(ROOT)}" for name in FOLDERS for file in (ROOT / name).rglob("*.*")]
OTHERS = {
    "vllm/engine/arg_utils.py",  # vLLM's
    "results.jsonl",  # these a user's
    "results.errors.jsonl",
    "requests.jsonl",
    "OUTPUT.jsonl",
    "OUTPUT.errors.jsonl",
    "OUT.jsonl.requests.jsonl",
    "OUTPUT.jsonl.requests.jsonl",
    "results.fp32.errors.jsonl",
    "benchmarks/results/gpu.jsonl",  # not written yet
}
PROSE = [page for page in PAGES if page.name not in DIARIES]

_CODE = re.compile(r"`[^`]*`")
_LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")
_FILE = re.compile(r"`([\w./-]+\.(?:py|cpp|h|md|jsonl))`")
_END = re.compile(r"(?<=[.!?:])[)*_]*\s+|\n\s*\n|\n\s*(?:[-*]|\d+\.) ")
_NESTED = re.compile(r"\([^()]*\(")


def sentences(text: str) -> list[str]:
    """The sentences of a page, without code blocks, tables, headings and pictures.

    A colon ends one, as does a list item; a code span is one word, a link its text.
    """
    text = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    text = re.sub(r"^(?: {4}|[|#]).*$", "", text, flags=re.M)
    text = _LINK.sub(lambda link: link[1], _CODE.sub("code", text))
    return [sentence.strip() for sentence in _END.split(text) if sentence.strip()]


def complaints(text: str) -> list[str]:
    """What is wrong with the sentences of a page, and with which."""
    found = []
    for sentence in sentences(text):
        words = len(sentence.split())
        if words > MOST_WORDS:
            found.append(f"{words} words: {sentence}")
        if _NESTED.search(sentence):
            found.append(f"a parenthesis in a parenthesis: {sentence}")
    return found


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", text, flags=re.M):
        shown = _LINK.sub(lambda link: link[1], heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def dead_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of it."""
    dead = []
    for _, target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short(page: Path) -> None:
    assert complaints(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text()) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("word " * 35 + "\n", 0),
        ("word " * 36 + "\n", 1),
        ("word " * 20 + "word. " + "word " * 20, 0),
        ("- " + "word " * 20 + "\n- " + "word " * 20, 0),
        ("```\n" + "word " * 40 + "\n```\n\n| " + "word " * 40 + "|\n", 0),
        ("A call (of `f(g(x))`) and [a link](there-(or-not)).", 0),
        ("One (of two (or more)).", 1),
    ],
)
def test_what_is_complained_about(text: str, count: int) -> None:
    assert len(complaints(text)) == count


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_are_there(page: Path) -> None:
    """A file may be named by the end of its path."""
    named = set(_FILE.findall(page.read_text())) - OTHERS
    assert [name for name in sorted(named) if not any(f.endswith(f"/{name}") for f in FILES)] == []


def test_a_dead_link_is_seen() -> None:
    text = "[a](README.md) [b](no.md) [c](README.md#no-such-heading) [d](https://example.org)"
    assert dead_links(ROOT / "CONTENTS.md", text) == ["no.md", "README.md#no-such-heading"]


def test_docstrings_name_headings_that_are_there() -> None:
    dead = [
        f"{file.relative_to(ROOT)}: {target}"
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.suffix in {".py", ".h", ".cpp"} and file != Path(__file__)
        for target in re.findall(r"docs/[\w-]+\.md(?:#[\w-]+)?", file.read_text())
        if dead_links(ROOT / "README.md", f"[]({target})")
    ]
    assert dead == []
