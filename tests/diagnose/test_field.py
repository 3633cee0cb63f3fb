"""A field that changes from request to request at the front of a prompt."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.diagnose import FindingKind
from shoal.diagnose.field import _field_ends, _move
from shoal.diagnose.sample import Prompts
from tests.helpers.diagnoses import WORDS, as_job, computed, diagnosed, only, prose
from tests.helpers.planner_jobs import Job, jobs

FIELDS = {
    "id": lambda rng: f"{rng.randrange(10**9):09}",
    "number of any length": lambda rng: str(rng.randrange(10 ** rng.randint(1, 9))),
    "time": lambda rng: f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}",
    "name": lambda rng: " ".join(rng.choices(WORDS, k=rng.randint(1, 3))).title(),
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("head", ["", "<system>\nRequest "])
@pytest.mark.parametrize("families", [1, 7])
def test_a_field_at_the_front_is_found_where_it_is(field: str, head: str, families: int) -> None:
    rng = random.Random(field + head)
    rule = prose(rng, 30)
    documents = [prose(rng, 20) for _ in range(families)]
    fields = [FIELDS[field](rng) for _ in range(60)]
    tails = [f"\n{rule} {documents[i % families]}. {prose(rng, 4)}" for i in range(60)]
    finding = only(
        [head + f + t for f, t in zip(fields, tails, strict=True)], FindingKind.varying_field
    )
    assert finding.offset == len(head)
    assert finding.exact
    assert finding.requests == 60
    assert finding.variants == len(set(fields))
    for example in finding.examples:
        assert example.end - example.start == len(fields[example.request])
    now = computed([head + f + t for f, t in zip(fields, tails, strict=True)])
    better = computed([head + t + f for f, t in zip(fields, tails, strict=True)])
    assert finding.cost_tokens == now - better


def test_a_field_behind_a_shared_text_costs_only_what_follows() -> None:
    rng = random.Random(0)
    system, rule = prose(rng, 80), prose(rng, 30)
    texts = [f"{system}\nId {i:06}\n{rule}\n{prose(rng, 4)}" for i in range(100, 160)]
    finding = only(texts, FindingKind.varying_field)
    at = len(f"{system}\nId 0001")  # the first digits are the same in all
    assert finding.offset == at
    moved = [text[:at] + text[at + 2 :] + text[at : at + 2] for text in texts]
    assert finding.cost_tokens == computed(texts) - computed(moved)


def test_a_text_that_repeats_itself_does_not_hide_where_the_field_ends() -> None:
    texts = [f"{i * 7919 % 1000:03}\nThe rule:{'-' * 60}\n{i}" for i in range(40)]
    finding = only(texts, FindingKind.varying_field)
    assert [(e.start, e.end) for e in finding.examples] == [(0, 3), (0, 3)]


def test_two_templates_with_fields_are_told_apart() -> None:
    rng = random.Random(0)
    rules = [prose(rng, 40), prose(rng, 60)]
    heads = ["Ticket ", "Order number "]
    texts = [
        f"{heads[i % 2]}{rng.randrange(10**6):06}\n{rules[i % 2]}\n{prose(rng, 3)}"
        for i in range(80)
    ]
    found = diagnosed(as_job(texts)).prompts
    assert [f.offset for f in found] == [len(heads[1]), len(heads[0])]
    assert [f.requests for f in found] == [40, 40]


def test_a_small_field_of_a_few_hides_no_large_one_below() -> None:
    rng = random.Random(0)
    rules = [prose(rng, 60), prose(rng, 60)]
    few = [f"{letter}{rules[0]}" for letter in "PQRSTUVW"]
    many = [f"Case {rng.randrange(10**6):06}\n{rules[1]}\n{prose(rng, 3)}" for _ in range(50)]
    finding = only(few + many, FindingKind.varying_field)
    assert (finding.offset, finding.requests) == (len("Case "), 50)


@settings(deadline=None)
@given(jobs(), st.integers(0, 5))
def test_moving_a_field_keeps_every_token(job: Job, depth: int) -> None:
    table = job.table
    prompts = Prompts.of(table, np.arange(len(table)))
    end = _field_ends(prompts, depth, 16)
    moved = _move(prompts, depth, end)
    for i, prompt in enumerate(job.prompts):
        start = depth if depth < len(prompt) else len(prompt)
        stop = max(int(end[i]), start)
        expected = prompt[:start] + prompt[stop:] + prompt[start:stop]
        assert moved.tokens[moved.offsets[i] : moved.offsets[i + 1]].tolist() == expected
