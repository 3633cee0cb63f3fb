"""`LLM.score_choices`: the oracle is transformers' log-softmax of whole sequences in float32."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from shoal import LLM, SamplingParams
from shoal.devices import RunProtocol
from shoal.errors import GenerationInterrupted, OptionError
from shoal.llm import llm as llm_module
from shoal.model.description import bundled_model_path
from tests.helpers.models import greedy

POLICY = "Policy: late parcels go to delay, passwords to login, money back to refund.\n"
CONTEXTS = [POLICY + "Ticket: where is my parcel?\nQueue:", POLICY + "Ticket: pay me back.\nQueue:"]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(dtype="float32", kv_memory="16MiB", max_num_batched_tokens=64)


@pytest.fixture(scope="module")
def oracle() -> Any:
    return AutoModelForCausalLM.from_pretrained(bundled_model_path(), dtype=torch.float32)


def expected(oracle: Any, context: list[int], choice: list[int]) -> tuple[float, bool]:
    """Sum of the choice's logprobs, and whether argmax gives each of its tokens."""
    with torch.inference_mode():
        logits = oracle(torch.tensor([[*context, *choice]])).logits[0, len(context) - 1 : -1]
    rows = torch.log_softmax(logits.float(), dim=-1)
    total = rows.gather(1, torch.tensor(choice)[:, None]).sum()
    return float(total), rows.argmax(dim=-1).tolist() == choice


def check(oracle: Any, scores: Any, context: list[int], choices: list[list[int]]) -> None:
    assert len(scores) == len(choices)
    for score, choice in zip(scores, choices, strict=True):
        total, is_greedy = expected(oracle, context, choice)
        assert score.logprob == pytest.approx(total, abs=1e-4)
        assert (score.tokens, score.greedy) == (len(choice), is_greedy)


@pytest.mark.parametrize(
    "choices",
    [
        [" refund", " account", " order", " a"],  # a token each
        [" refund", " the login queue", " I do not know", " delay", " refund the money"],
        [" refund"],
    ],
)
def test_texts_are_scored_as_transformers_does(llm: LLM, oracle: Any, choices: list[str]) -> None:
    tokenizer = llm.get_tokenizer()
    for context, found in zip(
        CONTEXTS, llm.score_choices(CONTEXTS, choices, use_tqdm=False), strict=True
    ):
        assert found.error is None
        begin = tokenizer.encode(context)
        ids = [tokenizer.encode(context + choice)[len(begin) :] for choice in choices]
        check(oracle, found.scores, begin, ids)
        logprobs = [score.logprob for score in found.scores]
        assert found.best == int(np.argmax(logprobs))
        assert all(score.probability is None for score in found.scores)


def test_token_ids_and_lists_of_choices_of_their_own(llm: LLM, oracle: Any) -> None:
    contexts = [[5, 6, 7, 8], [5, 6, 9], np.array([11, 30, 31])]
    choices = [[[40], [41, 42]], [[50]], [[60, 61, 62], [60, 61], [63, 64, 65]]]
    found = llm.score_choices(contexts, choices, use_tqdm=False)
    for context, some, scored in zip(contexts, choices, found, strict=True):
        check(oracle, scored.scores, list(map(int, context)), some)
    (one,) = llm.score_choices([5, 6, 7, 8], [[40], [41, 42]], use_tqdm=False)
    assert [s.logprob for s in one.scores] == pytest.approx(
        [s.logprob for s in found[0].scores], abs=1e-5
    )


def test_what_the_model_would_write_is_greedy(llm: LLM, oracle: Any) -> None:
    context = llm.get_tokenizer().encode(CONTEXTS[0])
    written = greedy(bundled_model_path(), context, 3)
    other = [*written[:2], written[2] + 1]
    for choices in ([written, other, written[:2]], [written[:1], other[2:]]):
        (found,) = llm.score_choices([context], choices, use_tqdm=False)
        check(oracle, found.scores, context, choices)
        assert [score.greedy for score in found.scores] == [c == written[: len(c)] for c in choices]
        assert found.scores[0].greedy


def test_conversations_are_scored_behind_the_template(llm: LLM, oracle: Any) -> None:
    messages = [{"role": "user", "content": "My parcel is late."}]
    tokenizer = llm.get_tokenizer()
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.endswith("\n"), "what the template wrote last stays with it"
    begin = tokenizer.encode(text, add_special_tokens=False)
    for choices in (["refund", "login"], ["refund please", "login"]):
        ids = [
            tokenizer.encode(text + choice, add_special_tokens=False)[len(begin) :]
            for choice in choices
        ]
        (one,) = llm.score_choices(messages, choices, use_tqdm=False)
        check(oracle, one.scores, begin, ids)
        several = llm.score_choices([messages, CONTEXTS[0]], choices, use_tqdm=False)
        check(oracle, several[0].scores, begin, ids)


def test_white_space_at_the_end_of_a_context_belongs_to_the_choices(llm: LLM) -> None:
    plain = llm.score_choices(CONTEXTS, [" refund", " the delay"], use_tqdm=False)
    moved = [context + " " for context in CONTEXTS]
    for found, other in zip(
        llm.score_choices(moved, ["refund", "the delay"], use_tqdm=False), plain, strict=True
    ):
        assert [score.tokens for score in found.scores] == [s.tokens for s in other.scores]
        logprobs = [score.logprob for score in other.scores]
        assert [score.logprob for score in found.scores] == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("choices", [[" a", " b", " c"], [" a", " I do not know", " refund"]])
def test_probabilities_are_normalised_over_the_choices(llm: LLM, choices: list[str]) -> None:
    raw = llm.score_choices(CONTEXTS, choices, use_tqdm=False)
    for how in ("sum", "mean"):
        for found, scored in zip(
            llm.score_choices(CONTEXTS, choices, probabilities=how, use_tqdm=False),
            raw,
            strict=True,
        ):
            values = [s.logprob / (s.tokens if how == "mean" else 1) for s in scored.scores]
            weights = torch.softmax(torch.tensor(values, dtype=torch.float64), 0).tolist()
            probabilities = [score.probability for score in found.scores]
            assert probabilities == pytest.approx(weights, abs=1e-6)
            assert found.best == int(np.argmax(weights))
    with pytest.raises(OptionError, match="probabilities='product' is unknown; give \"sum\""):
        llm.score_choices(CONTEXTS, choices, probabilities="product")


def test_a_wrong_context_fails_alone(llm: LLM) -> None:
    contexts = [
        "",
        CONTEXTS[0],
        [5] * 100_000,
        [10**6],
        None,
        [{"role": "villain", "content": "x"}],
    ]
    found = llm.score_choices(contexts, [" refund", " I do not know"], use_tqdm=False)
    messages = [
        r"contexts\[0\] is empty",
        None,
        r"contexts\[2\]: the prompt has",
        r"contexts\[3\] holds token id 1000000 at position 0",
        r"contexts\[4\] is missing",
        r"contexts\[5\].*villain",
    ]
    for scored, message in zip(found, messages, strict=True):
        assert (scored.error is None) == (message is None) == bool(scored.scores)
        if message is not None:
            assert re.match(message, str(scored.error))
            assert scored.best is None
    (empty,) = llm.score_choices(CONTEXTS[:1], [" refund", ""], use_tqdm=False)
    assert "choices[1] is empty" in str(empty.error)
    (far,) = llm.score_choices([[5]], [[10**6], [3]], use_tqdm=False)
    assert "token id 1000000" in str(far.error)
    assert llm.score_choices([], ["a"], use_tqdm=False) == []


def test_wrong_calls_are_refused(llm: LLM) -> None:
    for choices, message in [
        ("refund", "choices must be a list"),
        ([], "at least one choice"),
        ([["a"]], "1 lists of choices for 2 contexts"),
        ([["a"], []], r"choices\[1\] must hold at least one"),
        (["a", 3], r"choices\[1\] must be text or token ids, not 3"),
        ([["a"], [2.5]], r"choices\[1\]\[0\] must be text"),
    ]:
        with pytest.raises(OptionError, match=message):
            llm.score_choices(CONTEXTS, choices)


def test_what_is_done_survives_an_interruption(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts with all their choices done are there, the others are None."""
    whole = llm.score_choices(CONTEXTS, [" refund", " I do not know"], use_tqdm=False)

    def interrupted(run: RunProtocol, table: Any, done: Any, make: Any, progress: bool) -> None:
        for completions in run:
            for completion in completions:
                if completion.request_index != 3:
                    done[completion.request_index] = make(0, None, completion)
        raise KeyboardInterrupt

    monkeypatch.setattr(llm_module, "drive", interrupted)
    with pytest.raises(GenerationInterrupted) as caught:
        llm.score_choices(CONTEXTS, [" refund", " I do not know"], use_tqdm=False)
    assert caught.value.outputs == [whole[0], None]


def test_choices_of_one_token_need_one_request(llm: LLM) -> None:
    llm.score_choices(CONTEXTS, [" refund", " order"], use_tqdm=False)
    assert llm.last_run is not None
    assert llm.last_run.requests.total == 2
    assert llm.last_run.tokens.prompt == sum(len(llm.get_tokenizer().encode(c)) for c in CONTEXTS)
    assert llm.last_run.tokens.prompt_computed < llm.last_run.tokens.prompt


def test_an_impossible_choice_has_no_share() -> None:
    from shoal.answers.choice_scores import add_probabilities
    from shoal.types import ChoiceScore, Normalisation

    scores = [ChoiceScore(-math.inf, 1, False), ChoiceScore(-3.0, 2, False)]
    add_probabilities(scores, Normalisation.sum)
    assert [score.probability for score in scores] == [0.0, 1.0]
    add_probabilities(scores[:1], Normalisation.mean)
    assert scores[0].probability == 1.0


def test_generate_is_as_it_was(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=2)
    assert [o.request_id for o in llm.generate(CONTEXTS, params, use_tqdm=False)] == ["0", "1"]
