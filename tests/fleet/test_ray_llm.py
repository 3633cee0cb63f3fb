"""`LLM(ray=...)`: the Python interface on a real cluster."""

from __future__ import annotations

from typing import Any

import pytest

from shoal import LLM, SamplingParams

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

OPTIONS = {"dtype": "float32", "device": "cpu", "kv_memory": "8MiB", "max_num_batched_tokens": 128}


def test_an_llm_on_ray_answers_as_one_here(cluster: Any) -> None:
    prompts = [f"{stem} number {n}" for n in range(6) for stem in ("The river", "A list of")]
    params = [
        SamplingParams(temperature=0.0, max_tokens=6),
        SamplingParams(temperature=0.9, seed=3, n=2, max_tokens=6),
    ] * 6
    found = []
    for more in ({}, {"ray": cluster.address}):
        llm = LLM(**OPTIONS, **more)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        found.append([[choice.token_ids for choice in each.outputs] for each in outputs])
        llm.close()
    assert found[0] == found[1]
    assert all(found[0])
