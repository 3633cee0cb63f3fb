"""A job large enough for a pilot, on a real tiny random model."""

from pathlib import Path

import numpy as np
import pytest

from shoal import LLM, SamplingParams
from tests.helpers.models import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


def test_a_pilot_changes_no_answer_and_what_is_computed_is_what_was_planned(folder: Path) -> None:
    random = np.random.default_rng(4)
    templates = [random.integers(2, 256, 20).tolist() for _ in range(5)]
    prompts = [
        templates[i] + random.integers(2, 256, 12).tolist()
        for i in random.integers(0, 5, 1000).tolist()
    ]
    eos = SamplingParams(temperature=1.0, seed=3, max_tokens=64, stop_token_ids=tuple(range(2, 40)))
    runs = {}
    for order in ("ratio", "input"):
        llm = LLM(
            str(folder), dtype="float32", kv_memory="1MiB", max_num_batched_tokens=256, order=order
        )
        outputs = llm.generate(prompts, eos, use_tqdm=False)
        assert llm.last_run is not None
        runs[order] = llm.last_run
        texts = [tuple(out.outputs[0].token_ids) for out in outputs]
        if order == "ratio":
            expected = texts
    # Another batch rounds otherwise: a draw on the very edge between two tokens may turn.
    assert sum(one != other for one, other in zip(texts, expected, strict=True)) <= 2
    piloted, plain = runs["ratio"], runs["input"]
    assert (piloted.lengths.pilots, plain.lengths.pilots) == (20, 0)
    for run in runs.values():
        assert run.preemptions == 0
        assert run.tokens.prompt == run.tokens.prompt_computed + run.tokens.prompt_saved
        assert run.lengths.answers == 1000
        assert run.lengths.within_50 == pytest.approx(0.5, abs=0.2)
    extra = piloted.tokens.prompt_computed - plain.tokens.prompt_computed
    assert extra == 5 * 20
