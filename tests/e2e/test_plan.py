"""`shoal plan` as a user types it: what it finds wrong, and the page it writes."""

from __future__ import annotations

import gzip
import json
import os
import random
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from shoal.model.description import bundled_model_path
from tests.e2e.conftest import Shoal
from tests.helpers.e2e_jobs import POLICIES, chat, good


def with_ids(number: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {
            **(line := chat(f"c-{i}", f"my order {i} is late")),
            "body": {
                **line["body"],
                "messages": [
                    {"role": "system", "content": f"Case {rng.randrange(10**6):06}\n{POLICIES[0]}"},
                    line["body"]["messages"][1],
                ],
            },
        }
        for i in range(number)
    ]


def prompts(lines: list[dict[str, Any]]) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(bundled_model_path() / "tokenizer.json"))
    texts = [
        "".join(
            f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in line["body"]["messages"]
        )
        for line in lines
    ]
    return [tokenizer.encode(text + "<|im_start|>assistant\n").ids for text in texts]


def computed(prompts: list[list[int]]) -> int:
    """Tokens of the trie of all prompts."""

    def common(a: list[int], b: list[int]) -> int:
        return next(
            (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
        )

    ordered = sorted(prompts)
    return sum(map(len, prompts)) - sum(common(a, b) for a, b in pairwise(ordered))


def test_an_id_at_the_front_is_diagnosed_with_offset_and_cost(shoal: Shoal) -> None:
    lines = with_ids(40)
    shoal.write("in.jsonl", lines)
    assert shoal("plan", "in.jsonl", "--json", "--html", "plan.html") == 0
    summary = json.loads(shoal.text("stdout"))
    (found,) = summary["diagnoses"]
    ids = prompts(lines)
    at = next(i for i in range(99) if len({prompt[i] for prompt in ids}) > 1)
    assert found["kind"] == "varying_field"
    assert found["offset_tokens"] == at
    assert found["offset_characters"] == len("<|im_start|>system\nCase ")
    assert found["lines"] == [1, 2]
    # The tiny tokenizer writes a token per digit: six of them are the id.
    moved = [prompt[:at] + prompt[at + 6 :] + prompt[at : at + 6] for prompt in ids]
    assert found["cost_tokens"] == computed(ids) - computed(moved)
    assert found["exact"]
    assert "varying field" in shoal.text("plan.html")

    assert shoal("plan", "in.jsonl") == 0
    text = " ".join(shoal.text("stdout").split())
    assert f"first differ after {at} tokens (24 characters), as in lines 1 and 2" in text
    assert f"{found['cost_tokens']:,} prompt tokens computed again" in text


def test_a_clean_job_is_not_scolded(shoal: Shoal) -> None:
    shoal.write("in.jsonl", [chat(f"c-{i}", f"my order {i} is late", i % 2) for i in range(40)])
    assert shoal("plan", "in.jsonl", "--json") == 0
    summary = json.loads(shoal.text("stdout"))
    assert summary["diagnoses"] == []
    assert "of the saving" in summary["explanation"] or "It all comes" in summary["explanation"]


def test_earlier_results_judge_max_tokens(shoal: Shoal) -> None:
    shoal.write("first.jsonl", [chat(f"c-{i}", "hello") for i in range(3)])
    assert shoal("run", "first.jsonl", "-o", "out.jsonl", "--quiet") == 0
    generous = [chat(f"c-{i}", "hello", max_tokens=400) for i in range(9)]
    shoal.write("in.jsonl", generous)
    assert shoal("plan", "in.jsonl", "--json", "--results", "out.jsonl") == 0
    (found,) = json.loads(shoal.text("stdout"))["diagnoses"]
    used = max(r["response"]["body"]["usage"]["completion_tokens"] for r in shoal.read("out.jsonl"))
    assert found["kind"] == "output_limit"
    assert (found["limit_tokens"], found["needed_tokens"]) == (400, used)

    shoal.write("others.jsonl", [chat("other", "hello")])
    assert shoal("plan", "others.jsonl", "--results", "out.jsonl") == 1
    assert "no result of this job" in shoal.text("stderr")
    assert shoal("plan", "in.jsonl", "--results", "in.jsonl") == 1
    assert "line 1 of in.jsonl is no result" in shoal.text("stderr")


def test_compressed_input_and_pipes_are_planned_like_the_file(shoal: Shoal) -> None:
    path = shoal.write("in.jsonl", [good(i) for i in range(12)] + [b"", b"?"])
    (shoal.folder / "in.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    os.mkfifo(shoal.folder / "pipe")
    plans = []
    for source in ("in.jsonl", "in.jsonl.gz", "pipe"):
        process = shoal.start("plan", source, "--json")
        if source == "pipe":
            (shoal.folder / "pipe").write_bytes(path.read_bytes())
        assert process.wait() == 0
        plans.append(json.loads(shoal.text("stdout").splitlines()[-1]))
    assert plans[0]["invalid"] == 1
    for plan in plans:
        assert [plan[name] for name in ("requests", "invalid", "tokens")] == [
            plans[0][name] for name in ("requests", "invalid", "tokens")
        ]
