"""Prompts that would be shared but for white space, case or punctuation."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.diagnose import FindingKind, diagnose
from shoal.diagnose.sample import Prompts
from shoal.diagnose.spelling import _as_words
from shoal.diagnose.tokens import token_texts
from shoal.planner import build_forest, make_plan
from tests.helpers.diagnoses import as_job, computed, only, prose
from tests.helpers.planner_jobs import Job


def test_white_space_is_named_as_such() -> None:
    rng = random.Random(0)
    rule = prose(rng, 60)
    ways = [rule, rule.replace(" ", "  ", 1), rule.replace(" ", "\n", 2), f"  {rule}"]
    tails = [f"\n<user>{prose(rng, 3)}" for _ in range(20)]
    finding = only([ways[i % 4] + tail for i, tail in enumerate(tails)], FindingKind.white_space)
    assert finding.variants == 4
    assert finding.exact
    now = computed([ways[i % 4] + tail for i, tail in enumerate(tails)])
    bounds = sorted(now - computed([way + tail for tail in tails]) for way in ways)
    assert bounds[0] - 60 <= finding.cost_tokens <= bounds[-1]
    a, b = (as_job([ways[e.request % 4]]).words[0] for e in finding.examples)
    assert a[: finding.offset] == b[: finding.offset]
    assert a[finding.offset] != b[finding.offset]


def test_space_at_the_end_of_the_system_prompt_is_found() -> None:
    rng = random.Random(0)
    rule = prose(rng, 20)
    user = prose(rng, 60)
    texts = [f"{rule}{' ' * (i % 5)}<user>{user} {prose(rng, 3)}" for i in range(20)]
    assert only(texts, FindingKind.white_space).offset == len(rule)


def test_case_and_punctuation_are_named_as_such() -> None:
    rng = random.Random(0)
    rule = ". ".join(prose(rng, 10) for _ in range(6))
    ways = [rule, rule.title(), rule.upper(), rule.replace(".", ","), rule.capitalize() + "!"]
    texts = [f"{ways[i % 5]}\n<user>{prose(rng, 3)}" for i in range(20)]
    finding = only(texts, FindingKind.spelling)
    assert (finding.requests, finding.variants) == (20, 5)
    best = computed([rule.title() + text[len(ways[i % 5]) :] for i, text in enumerate(texts)])
    assert finding.cost_tokens == pytest.approx(computed(texts) - best, rel=0.05)


def test_ids_without_a_text_are_no_white_space() -> None:
    rng = np.random.default_rng(0)
    prompts = [[5] * 200 + rng.integers(10, 1000, 40).tolist() for _ in range(20)]
    table = Job(prompts).table
    forest = build_forest(table.tokens, table.offsets, table.choices)
    plan = make_plan(table, forest=forest)
    assert diagnose(table, plan, forest, lambda token: b"").prompts == []


TEXTS = st.text(alphabet="aB. \n<é", min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8), st.booleans())
def test_words_agree_exactly_where_the_texts_do(texts: list[str], folded: bool) -> None:
    """Equal word sequences are equal texts but for what is folded, and the other way round."""
    table = as_job(texts).table
    prompts = Prompts.of(table, np.arange(len(table)))
    words = _as_words(
        prompts, *token_texts(prompts.tokens, lambda t: chr(t).encode()), folded=folded
    ).prompts
    runs = [
        words.tokens[words.offsets[i] : words.offsets[i + 1]].tolist() for i in range(len(texts))
    ]

    def read(text: str) -> list[str]:
        found, word = [], ""
        for before, c in zip(" " + text, text, strict=False):
            if (not c.isalnum() or not before.isalnum()) and word:
                found, word = [*found, word], ""
            kept = c.casefold() if folded else c
            word += "" if c.isspace() or (folded and c == ".") else kept
        return [*found, word] if word or not found else found

    for i, one in enumerate(texts):
        for j, other in enumerate(texts):
            assert (runs[i] == runs[j]) == (read(one) == read(other))
