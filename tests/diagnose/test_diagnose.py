from __future__ import annotations

import json
import random
import string
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from benchmarks.workloads import SPECS, make_workload
from shoal.diagnose import Diagnoses, Finding, FindingKind, diagnose
from shoal.diagnose.field import _field_ends, _move
from shoal.diagnose.sample import Prompts, take
from shoal.diagnose.spelling import _as_words
from shoal.diagnose.tokens import token_texts
from shoal.planner import build_forest, forest_of, make_plan
from shoal.types import RequestParams, RequestTable
from tests.helpers.planner_jobs import Job, jobs

ROOT = Path(__file__).parents[2]
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


def test_what_costs_little_of_the_job_is_not_told() -> None:
    rng = random.Random(0)
    rule = prose(rng, 20)
    few = [f"{rng.randrange(10**6):06}\n{rule}" for _ in range(10)]
    assert diagnosed(as_job(few)).prompts
    assert diagnosed(as_job(few + [prose(rng, 60) for _ in range(300)])).prompts == []


def test_a_part_keeps_families_together() -> None:
    rng = np.random.default_rng(0)
    families, members = 1000, 20
    shared = rng.integers(100, 1000, (families, 60))
    family = rng.permutation(np.repeat(np.arange(families), members))
    ids = rng.integers(0, 10, (len(family), 6))
    table = Job(np.concatenate([ids, shared[family]], axis=1).tolist()).table
    by_rank = np.argsort(build_forest(table.tokens, table.offsets, table.choices).rank)
    part = take(table, by_rank, requests=640, tokens=1 << 30)
    assert 600 <= len(part) <= 640
    together = np.bincount(family[part.request], minlength=families)
    assert together[together >= members // 2].sum() > len(part) / 2


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


@pytest.mark.parametrize("between", ["\n", "\n\n"])
@pytest.mark.parametrize("label", ["A", "positive, and more words than a line needs"])
def test_shuffled_examples_are_found(between: str, label: str) -> None:
    rng = random.Random(0)
    examples = [f"Input: {prose(rng, 12)}\nLabel: {label}" for _ in range(4)]
    head = prose(rng, 20)
    orders = [rng.sample(examples, 4) for _ in range(80)]
    tails = [f"{between}Input: {prose(rng, 4)}\nLabel:" for _ in range(80)]

    def texts(chosen: list[list[str]]) -> list[str]:
        pairs = zip(chosen, tails, strict=True)
        return [between.join([head, *one]) + tail for one, tail in pairs]

    finding = only(texts(orders), FindingKind.shuffled_chunks)
    assert finding.requests == 80
    assert finding.variants == len({tuple(order) for order in orders})
    assert finding.cost_tokens == computed(texts(orders)) - computed(texts([examples] * 80))
    assert finding.offset >= len(head)


def test_a_short_question_is_no_part_of_the_last_example() -> None:
    rng = random.Random(0)
    examples = [f"Input: {prose(rng, 12)}\nL: {label}" for label in "ABCD"]
    head = prose(rng, 20)
    orders = [rng.sample(examples, 4) for _ in range(60)]
    shuffled = ["\n".join([head, *order, f"Q {i:02}"]) for i, order in enumerate(orders)]
    fixed = ["\n".join([head, *examples, f"Q {i:02}"]) for i in range(60)]
    finding = only(shuffled, FindingKind.shuffled_chunks)
    assert finding.requests == 60
    assert finding.cost_tokens == computed(shuffled) - computed(fixed)


def test_examples_of_different_sets_are_not_called_shuffled() -> None:
    rng = random.Random(0)
    texts = ["\n".join(prose(rng, 12) for _ in range(4)) + f"\nInput: {i}" for i in range(40)]
    assert diagnosed(as_job(texts)).prompts == []


@pytest.mark.parametrize("name", SPECS)
def test_the_benchmark_workloads_are_clean(name: str) -> None:
    job = Job(make_workload(name, vocabulary=1000, scale=0.25).prompts)
    assert diagnosed(job).prompts == []


def test_the_bundled_example_is_clean() -> None:
    tokenizer = Tokenizer.from_file(str(ROOT / "shoal/models/shoal-tiny/tokenizer.json"))
    prompts = []
    for line in (ROOT / "examples/tickets.jsonl").read_text().splitlines():
        messages = json.loads(line)["body"]["messages"]
        turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
        prompts.append(tokenizer.encode("".join(turns) + "<|im_start|>assistant\n").ids)
    table = Job(prompts).table
    forest = build_forest(table.tokens, table.offsets, table.choices)
    found = diagnose(
        table,
        make_plan(table, forest=forest),
        forest,
        lambda token: tokenizer.decode([token], skip_special_tokens=False).encode(),
    )
    assert found.prompts == []


def test_ids_without_a_text_are_no_white_space() -> None:
    rng = np.random.default_rng(0)
    prompts = [[5] * 200 + rng.integers(10, 1000, 40).tolist() for _ in range(20)]
    table = Job(prompts).table
    forest = build_forest(table.tokens, table.offsets, table.choices)
    plan = make_plan(table, forest=forest)
    assert diagnose(table, plan, forest, lambda token: b"").prompts == []


@pytest.mark.parametrize("shape", ["random", "shared", "two levels", "questions", "equal", "few"])
def test_ordinary_jobs_are_clean(shape: str) -> None:
    rng = random.Random(shape)
    system = prose(rng, 50)
    texts = {
        "random": [prose(rng, 40) for _ in range(60)],
        "shared": [f"{system}\n{prose(rng, 20)}\nAnswer:" for _ in range(60)],
        "two levels": [
            f"{system}\n{prose(random.Random(i % 5), 40)}\n{prose(rng, 9)}" for i in range(60)
        ],
        "questions": [f"Question: {prose(rng, 15)}?\nAnswer:" for _ in range(60)],
        "equal": [system] * 60,
        "few": [f"{i}{system}" for i in range(5)],
    }[shape]
    assert diagnosed(as_job(texts)).prompts == []


def test_the_order_of_the_input_changes_no_figure() -> None:
    rng = random.Random(0)
    rule = prose(rng, 30)
    texts = [f"Id {rng.randrange(10**6):06}\n{rule}\n{prose(rng, 4)}" for _ in range(50)]
    one = only(texts, FindingKind.varying_field)
    two = only(rng.sample(texts, 50), FindingKind.varying_field)
    assert (one.offset, one.cost_tokens, one.variants) == (
        two.offset,
        two.cost_tokens,
        two.variants,
    )


def test_choices_count_as_sequences() -> None:
    rng = random.Random(0)
    rule = prose(rng, 30)
    texts = [f"{rng.randrange(10**6):06}\n{rule}\n{prose(rng, 4)}" for _ in range(50)]
    single = only(texts, FindingKind.varying_field)
    several = diagnosed(replace(as_job(texts), choices=[3] * 50)).prompts[0]
    assert several.cost_tokens == single.cost_tokens, "a request's choices share all of it anyhow"


def test_requests_kept_out_of_sharing_are_not_looked_at() -> None:
    rng = random.Random(0)
    rule = prose(rng, 30)
    table = as_job([f"{rng.randrange(10**6):06}\n{rule}" for _ in range(50)]).table
    table = replace(table, params=[RequestParams(echo=True, logprobs=0)])
    forest = forest_of(table)
    plan = make_plan(table, forest=forest)
    found = diagnose(table, plan, forest, lambda t: chr(t).encode())
    assert found.prompts == []


@pytest.mark.long
def test_a_large_job_is_judged_by_a_part_of_it() -> None:
    rng = np.random.default_rng(0)
    number, size, families = 34_000, 80, 340
    prompts = rng.integers(100, 1000, (number, size), dtype=np.int32)
    prompts[:, :6] = rng.integers(0, 10, (number, 6))
    shared = rng.integers(100, 1000, (families, 60), dtype=np.int32)
    prompts[:, 6:66] = shared[rng.integers(0, families, number)]

    def saved(prompts: np.ndarray) -> int:
        forest = build_forest(prompts.reshape(-1), offsets, choices)
        return int(((forest.end - forest.start) * (forest.users - 1)).sum())

    offsets, choices = np.arange(number + 1) * size, np.ones(number, dtype=np.int32)
    base = Job([[1]] * number).table
    table = replace(base, tokens=prompts.reshape(-1), offsets=offsets)
    forest = build_forest(table.tokens, table.offsets, table.choices)
    plan = make_plan(table, forest=forest)
    (finding,) = diagnose(table, plan, forest, lambda t: b" %d" % t).prompts
    true = saved(np.concatenate([prompts[:, 6:], prompts[:, :6]], axis=1)) - saved(prompts)
    assert not finding.exact
    assert 0.8 * true < finding.cost_tokens < 1.05 * true
    assert finding.requests == pytest.approx(number, rel=0.05)


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


@settings(deadline=None)
@given(jobs(max_requests=20), st.integers(2, 10), st.integers(1, 400))
def test_a_part_of_the_requests_is_a_part(job: Job, requests: int, tokens: int) -> None:
    table = job.table
    part = take(table, np.arange(len(table)), requests=requests, tokens=tokens)
    assert len(part) <= max(requests, 2)
    assert (np.diff(part.request) > 0).all()
    for i, request in enumerate(part.request):
        tokens_of = part.tokens[part.offsets[i] : part.offsets[i + 1]]
        assert tokens_of.tolist() == job.prompts[request]


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


def with_limits(limit: int | None, length: int, requests: int = 100) -> RequestTable:
    table = Job([[i] * 50 for i in range(requests)], max_new=length).table
    params = [RequestParams(max_tokens=limit)]
    return replace(table, params=params)


def limits_of(table: RequestTable, capacity: int, generated: list[int] | None = None) -> Diagnoses:
    forest = build_forest(table.tokens, table.offsets, table.choices)
    lengths = None if generated is None else np.array(generated)
    return diagnose(
        table,
        make_plan(table, forest=forest),
        forest,
        lambda t: b"x",
        capacity_tokens=capacity,
        generated=lengths,
    )


def test_a_limit_that_memory_cannot_hold_is_told() -> None:
    (finding,) = limits_of(with_limits(4000, 4000), 10_000).limits
    assert (finding.stated, finding.limit, finding.needed) == (True, 4000, None)
    assert finding.fitting == 10_000 // 4050
    assert finding.fitting_if_needed == 10_000 // 306
    assert limits_of(with_limits(4000, 4000), 1_000_000).limits == []
    assert limits_of(with_limits(300, 300), 10_000).limits == []
    assert limits_of(with_limits(4000, 4000, requests=2), 10_000).limits == []


def test_a_limit_that_nobody_stated_is_told_as_such() -> None:
    (finding,) = limits_of(with_limits(None, 8000), 10_000).limits
    assert not finding.stated


def test_a_limit_is_compared_with_what_was_generated() -> None:
    table = with_limits(2000, 2000)
    (finding,) = limits_of(table, 1_000_000, [80] * 98 + [90, -1]).limits
    assert finding.needed == 90
    assert limits_of(table, 1_000_000, [80] * 90 + [1900] * 10).limits == []
    assert limits_of(table, 1_000_000, [-1] * 100).limits == []
