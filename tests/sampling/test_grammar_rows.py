"""Rows that follow a grammar: what may come is a function of the tokens before, of nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shoal.answers.grammar import GrammarCompiler
from shoal.answers.structure import of_structured_outputs
from shoal.cuda.transfers import DirectStage
from shoal.errors import InternalError, InvalidRequestError
from shoal.sampling.device_rows import TorchChooser
from shoal.sampling.device_sampling import DeviceSampler
from shoal.sampling.results import Sampled
from shoal.sampling.rows import LogitRows
from shoal.sampling.sampler import Sampler, needs_history
from shoal.types import RequestParams
from tests.helpers.models import VOCABULARY, byte_tokenizer
from tests.sampling.test_device_sampling import batch_of

TOKENIZER = byte_tokenizer()
END = 1
COMPILER = GrammarCompiler(TOKENIZER, VOCABULARY, (END,))
PROMPT = np.array([5, 6], dtype=np.int32)


def grammar(**asked: Any) -> str:
    return of_structured_outputs(asked, "").grammar


def token(character: str) -> int:
    found = TOKENIZER.convert_tokens_to_ids(character)
    assert isinstance(found, int)
    return found


def sampler_of(*params: dict[str, Any]) -> Sampler:
    sampler = Sampler(VOCABULARY, (END,), None, COMPILER)
    for sequence, each in enumerate(params):
        sampler.add(sequence, RequestParams(**each), sequence, PROMPT)
    return sampler


def logits_of(*favourites: str, rows: int = 1) -> torch.Tensor:
    """Those characters are likely, the first most of all."""
    logits = torch.zeros(rows, VOCABULARY)
    for place, character in enumerate(favourites):
        logits[:, token(character)] = 20.0 - place
    return logits


def sample(sampler: Sampler, logits: torch.Tensor, position: int, sequence: int = 0) -> Sampled:
    ids, positions = np.array([sequence], np.int32), np.array([position], np.int32)
    return sampler.sample(LogitRows.whole(logits), ids, positions)


def test_only_what_the_grammar_allows_comes() -> None:
    sampler = sampler_of({"temperature": 0.0, "grammar": grammar(choice=["fish", "fin"])})
    likely = logits_of("q", "n", "s", "i", "f", "h")
    found = [int(sample(sampler, likely, position).token_ids[0]) for position in range(4)]
    assert found == [token("f"), token("i"), token("n"), END]


def test_a_place_is_found_again_from_the_tokens_before() -> None:
    sampler = sampler_of({"temperature": 0.0, "grammar": grammar(choice=["fish", "fin", "go"])})
    sample(sampler, logits_of("f"), 0)
    sample(sampler, logits_of("i"), 1)
    assert sample(sampler, logits_of("n"), 2).token_ids == [token("n")]
    # The batch failed, and is sampled again from other logits; then from its start.
    assert sample(sampler, logits_of("s"), 2).token_ids == [token("s")]
    assert sample(sampler, logits_of("n"), 3).token_ids == [token("h")]
    assert sample(sampler, logits_of("g"), 0).token_ids == [token("g")]
    assert sample(sampler, logits_of("i"), 1).token_ids == [token("o")]
    assert sample(sampler, logits_of("i"), 2).token_ids == [END]
    sample(sampler, logits_of("f"), 0)
    with pytest.raises(InternalError, match="position 2 of an answer asked for after 1 tokens"):
        sample(sampler, logits_of("i"), 2)


def test_the_end_waits_for_min_tokens_unless_nothing_else_may_come() -> None:
    some = {"temperature": 0.0, "min_tokens": 3, "stop_token_ids": [token("c")]}
    sampler = sampler_of(
        {**some, "grammar": grammar(regex="[abc]*")}, {**some, "grammar": grammar(choice=["a"])}
    )
    likely = logits_of("c", "b")
    likely[:, END] = 30.0
    assert [int(sample(sampler, likely, p).token_ids[0]) for p in range(4)] == [
        *[token("b")] * 3,
        END,
    ]
    assert [int(sample(sampler, likely, p, 1).token_ids[0]) for p in range(2)] == [token("a"), END]


def test_after_the_end_nothing_is_held_to_the_grammar() -> None:
    sampler = sampler_of({"temperature": 0.0, "ignore_eos": True, "grammar": grammar(choice=["a"])})
    found = [int(sample(sampler, logits_of("q"), position).token_ids[0]) for position in range(4)]
    assert found == [token("a"), END, token("q"), token("q")]
    assert sample(sampler, logits_of("q"), 1).token_ids == [END]
    assert sample(sampler, logits_of("q"), 2).token_ids == [token("q")]


def test_bias_and_penalties_choose_among_what_may_come() -> None:
    choices = grammar(regex="[ab]+")
    sampler = sampler_of(
        {"temperature": 0.0, "grammar": choices, "logit_bias": {str(token("q")): 100.0}},
        {"temperature": 0.0, "grammar": choices, "presence_penalty": 2.0},
    )
    likely = logits_of("q", "a", "b")
    assert [int(sample(sampler, likely, p).token_ids[0]) for p in range(2)] == [token("a")] * 2
    turns = [int(sample(sampler, likely, p, 1).token_ids[0]) for p in range(2)]
    assert turns == [token("a"), token("b")]


def test_logprobs_are_those_of_the_raw_logits() -> None:
    sampler = sampler_of({"temperature": 0.0, "grammar": grammar(choice=["a"]), "logprobs": 1})
    likely = logits_of("q", "a")
    (logprob,) = sample(sampler, likely, 0).logprobs
    assert logprob is not None
    raw = torch.log_softmax(likely[0], 0)
    assert logprob.logprob == pytest.approx(raw[token("a")].item())
    assert [alternative for alternative, _ in logprob.top] == [token("q")]


def test_an_answer_that_cannot_go_on_is_an_error_of_its_request() -> None:
    # The tokenizer has no token for byte 0xAD, which a soft hyphen ends with.
    sampler = sampler_of({"temperature": 0.0, "grammar": grammar(choice=["a\u00ad"])})
    for position in range(2):
        sample(sampler, logits_of("a"), position)
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="could not be continued") as caught:
            sample(sampler, logits_of("a"), 2)
        assert caught.value.status_code == 400


def test_nobody_runs_ahead_of_a_grammar() -> None:
    assert needs_history(RequestParams(grammar=grammar(regex="a")))
    with pytest.raises(InternalError, match="nothing to compile it with"):
        Sampler(VOCABULARY, (END,)).add(0, RequestParams(grammar=grammar(regex="a")), 0, PROMPT)


def test_the_devices_way_gives_the_hosts_tokens() -> None:
    params = [
        {"temperature": 1.0, "grammar": grammar(json_object=True), "logprobs": 2},
        {"temperature": 0.0, "grammar": grammar(regex="[a-f]{9}")},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.9, "grammar": grammar(regex="[a-z]+"), "min_tokens": 3},
        {"temperature": 0.0, "presence_penalty": 1.0},
        {"temperature": 1.0, "presence_penalty": 1.0, "grammar": grammar(choice=["no", "nothing"])},
    ]
    host, other = sampler_of(*params), sampler_of(*params)
    device = DeviceSampler(other, VOCABULARY, TorchChooser())
    count = len(params)
    ids = np.arange(count, dtype=np.int32)
    generator = torch.Generator().manual_seed(0)
    for position in range(8):
        logits = torch.randn(count, VOCABULARY, generator=generator) * 4
        expected = host.sample(LogitRows.whole(logits), ids, np.full(count, position, np.int32))
        plan = device.plan(batch_of(count, np.arange(count), count, position), DirectStage())
        chosen = device.choose(plan, logits, {})
        arrays = [part.numpy() for part in device.logprobs(plan, logits, chosen, {})]
        device.collect(plan, tokens := chosen.numpy().astype(np.int32), arrays)
        assert tokens.tolist() == expected.token_ids.tolist()
