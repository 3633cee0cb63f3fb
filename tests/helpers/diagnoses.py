"""Jobs of texts, one token per character, and what is found in them."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from itertools import pairwise

from shoal.diagnose import Diagnoses, Finding, FindingKind, diagnose
from shoal.planner import build_forest, make_plan
from tests.helpers.planner_jobs import Job

WORDS = [
    "".join(random.Random(i).choices(string.ascii_lowercase, k=random.Random(i).randint(2, 9)))
    for i in range(400)
]


def as_job(texts: list[str]) -> Job:
    """A token per character."""
    return Job([[ord(c) for c in text] for text in texts])


def diagnosed(job: Job, **changes: object) -> Diagnoses:
    table = replace(job.table, **changes) if changes else job.table
    forest = build_forest(table.tokens, table.offsets, table.choices)
    plan = make_plan(table, forest=forest)
    return diagnose(table, plan, forest, lambda token: chr(token).encode())


def only(texts: list[str], kind: FindingKind) -> Finding:
    found = diagnosed(as_job(texts)).prompts
    assert [finding.kind for finding in found] == [kind]
    return found[0]


def common(a: str, b: str) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def computed(texts: list[str]) -> int:
    """Characters of the texts' trie: each shared beginning counts once."""
    ordered = sorted(texts)
    shared = sum(common(a, b) for a, b in pairwise(ordered))
    return sum(map(len, texts)) - shared


def prose(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))
