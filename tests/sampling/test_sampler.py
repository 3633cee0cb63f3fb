import numpy as np
import pytest
import torch

from shoal.errors import InternalError, InvalidLogitsError, InvalidRequestError
from shoal.kernels import load_kernels
from shoal.sampling import logprobs
from shoal.sampling.random import seeded_key
from shoal.sampling.rows import LogitRows
from shoal.sampling.sampler import Sampler, check_vocabulary
from shoal.types import RequestParams
from tests.helpers.statistics import assert_fits

VOCAB = 12
EOS = (10, 11)
PROMPT = np.array([1, 2, 2], dtype=np.int32)
LOGITS = 1.2 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(4))
KERNELS = None
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=["torch", "native"], autouse=True)
def kernels(request):
    """Every test here runs with the C++ kernels and without."""
    global KERNELS
    KERNELS = load_kernels() if request.param == "native" else None
    assert request.param == "torch" or KERNELS is not None, "the kernels must be built"
    yield KERNELS
    KERNELS = None


def int32(*values):
    return np.array(values, dtype=np.int32)


def sampler_with(*params, keys=None, vocab=VOCAB):
    sampler = Sampler(vocab, EOS, KERNELS)
    for sequence, entry in enumerate(params):
        key = keys[sequence] if keys else seeded_key(sequence, PROMPT, 0)
        sampler.add(sequence, entry, key, PROMPT)
    return sampler


def step(sampler, logits, position=0, sequences=None):
    count = len(logits)
    sequences = np.arange(count, dtype=np.int32) if sequences is None else sequences
    rows = LogitRows.whole(logits)
    return sampler.sample(rows, sequences, np.full(count, position, dtype=np.int32))


def forced(token, count=1):
    """Logits that leave no choice."""
    logits = torch.full((count, VOCAB), -200.0)
    logits[:, token] = 200.0
    return logits


def reference(params, outputs=()):
    """The distribution by definition, one float64 vector at a time."""
    x = LOGITS.double().numpy().copy()
    for token, bias in params.logit_bias:
        x[token] += bias
    if len(outputs) < params.min_tokens:
        x[[*EOS, *params.stop_token_ids]] = -np.inf
    for token in {*PROMPT.tolist(), *outputs}:
        r = params.repetition_penalty
        x[token] = x[token] / r if x[token] > 0 else x[token] * r
    for token in set(outputs):
        x[token] -= params.frequency_penalty * outputs.count(token) + params.presence_penalty
    p = np.exp((x - x.max()) / params.temperature)
    p[p < params.min_p * p.max()] = 0
    order = np.argsort(-p)
    if params.top_k > 0:
        p[order[params.top_k :]] = 0
    p /= p.sum()
    p[order[(np.cumsum(p[order]) - p[order]) >= params.top_p]] = 0
    return p / p.sum()


@pytest.mark.long
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"temperature": 0.6},
        {"top_p": 0.7},
        {"top_k": 4},
        {"min_p": 0.2},
        {"logit_bias": {"3": 1.5, "0": -100.0}},
        {"min_tokens": 6, "stop_token_ids": [3]},
        {"repetition_penalty": 1.7},
        {"frequency_penalty": 0.8},
        {"presence_penalty": -1.1},
        {
            "temperature": 1.3,
            "min_p": 0.02,
            "top_k": 8,
            "top_p": 0.9,
            "repetition_penalty": 1.2,
            "frequency_penalty": 0.3,
            "presence_penalty": 0.4,
            "logit_bias": {"7": 2.0},
        },
    ],
    ids=str,
)
def test_each_sampler_draws_from_its_distribution(chosen, device):
    params = RequestParams(**chosen)
    outputs, draws = [4, 5, 4], 8000
    sampler = sampler_with(*[params] * draws)
    for position, token in enumerate(outputs):
        step(sampler, forced(token, draws), position)
    tokens = step(sampler, LOGITS.to(device).expand(draws, -1), 3).token_ids
    assert_fits(tokens, reference(params, outputs))


@pytest.mark.long
def test_positions_of_one_sequence_are_fair_too():
    params = RequestParams(top_p=0.9)
    sampler = sampler_with(params)
    tokens = [step(sampler, LOGITS[None], position).token_ids[0] for position in range(3000)]
    assert_fits(tokens, reference(params))


def test_choices_of_one_seed_are_independent():
    params = RequestParams(n=2, seed=5)
    prompts = [int32(request) for request in range(4000)]
    keys = [seeded_key(5, prompt, choice) for prompt in prompts for choice in range(2)]
    sampler = sampler_with(*[params] * len(keys), keys=keys)
    tokens = step(sampler, LOGITS.expand(len(keys), -1)).token_ids
    first, second = tokens.reshape(-1, 2).T
    p = reference(params)
    assert_fits(first * VOCAB + second, np.outer(p, p).ravel())


MIXED = [
    RequestParams(temperature=0),
    RequestParams(),
    RequestParams(top_p=0.8, logprobs=2),
    RequestParams(top_k=3, repetition_penalty=1.4),
    RequestParams(temperature=0, frequency_penalty=1.0, min_tokens=4),
    RequestParams(min_p=0.1, logit_bias={"2": 3.0}),
    RequestParams(temperature=0.5, presence_penalty=0.7, logprobs=0),
]


def run(order, steps=6, seed=0, again=False):
    """The tokens of MIXED, batched in the given order."""
    sampler = Sampler(VOCAB, EOS, KERNELS)
    for sequence in order:
        sampler.add(sequence, MIXED[sequence], seeded_key(seed, PROMPT, sequence), PROMPT)
    tokens = {sequence: [] for sequence in order}
    for position in range(steps):
        generator = torch.Generator().manual_seed(position)
        logits = torch.randn(len(MIXED), VOCAB, generator=generator)[list(order)]
        for _ in range(1 + again):
            sampled = step(sampler, logits, position, int32(*order)).token_ids.tolist()
        for sequence, token in zip(order, sampled, strict=True):
            tokens[sequence].append(token)
    return tokens


def test_neither_company_nor_order_nor_repetition_matters(monkeypatch):
    together = run(range(len(MIXED)))
    assert run([5, 3, 0, 6, 2, 4, 1]) == together
    assert run(range(len(MIXED)), again=True) == together
    for sequence in range(len(MIXED)):
        assert run([sequence])[sequence] == together[sequence]
    monkeypatch.setattr(logprobs, "MAX_ELEMENTS", 2 * VOCAB)
    assert run(range(len(MIXED))) == together
    assert run(range(len(MIXED)), seed=1) != together


def test_an_earlier_position_can_be_sampled_again():
    params = RequestParams(temperature=0, frequency_penalty=2.0)
    sampler = sampler_with(params)
    close = torch.arange(VOCAB).float()[None] / 2
    tokens = [int(step(sampler, close, position).token_ids[0]) for position in range(8)]
    assert len(set(tokens)) > 1
    assert [int(step(sampler, close, position).token_ids[0]) for position in range(8)] == tokens


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_takes_the_first_maximum_and_leaves_the_logits(dtype, device):
    logits = torch.zeros(3, VOCAB, dtype=dtype, device=device)
    logits[1, 5] = logits[1, 8] = 2
    logits[2, 9] = 1
    before = logits.clone()
    greedy = RequestParams(temperature=0)
    biased = RequestParams(temperature=0, logit_bias={"4": 0.5})
    sampled = step(sampler_with(greedy, greedy, greedy), logits)
    assert sampled.token_ids.tolist() == [0, 5, 9]
    assert sampled.token_ids.dtype == np.int32
    assert list(sampled.logprobs) == []
    mixed = step(sampler_with(biased, RequestParams(top_k=1), greedy), logits)
    assert mixed.token_ids.tolist() == [4, 5, 9]
    assert torch.equal(logits, before)


def test_no_end_before_min_tokens():
    params = RequestParams(temperature=0, min_tokens=2, stop_token_ids=[3], ignore_eos=True)
    logits = torch.zeros(1, VOCAB)
    logits[0, [10, 11, 3, 6]] = torch.tensor([9.0, 8.0, 7.0, 1.0])
    sampler = sampler_with(params)
    assert [int(step(sampler, logits, p).token_ids[0]) for p in range(4)] == [6, 6, 10, 10]


def test_logprobs_are_of_the_raw_logits():
    expected = torch.log_softmax(LOGITS, dim=-1)
    asked = RequestParams(temperature=0.3, logprobs=3, logit_bias={"0": 50.0}, top_k=1)
    sampled = step(sampler_with(RequestParams(), asked), LOGITS.expand(2, -1))
    assert sampled.logprobs[0] is None
    entry = sampled.logprobs[1]
    assert entry.token_id == 0
    assert entry.logprob == pytest.approx(expected[0].item(), abs=1e-6)
    assert [token for token, _ in entry.top] == expected.topk(3).indices.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_name_their_sequences(temperature, wrong):
    params = RequestParams(temperature=temperature, presence_penalty=1.0)
    sampler = sampler_with(params, params, params)
    logits = LOGITS.repeat(3, 1)
    logits[1, 7] = wrong
    with pytest.raises(InvalidLogitsError) as caught:
        step(sampler, logits)
    assert caught.value.sequences == (1,)
    fresh = step(sampler_with(params, params, params), LOGITS.expand(3, -1))
    again = step(sampler, LOGITS.expand(3, -1))
    assert again.token_ids.tolist() == fresh.token_ids.tolist()


def test_a_slot_used_again_holds_nothing_of_before():
    heavy = RequestParams(
        temperature=0, logit_bias={"0": 100.0}, frequency_penalty=2.0, min_tokens=9, logprobs=1
    )
    sampler = sampler_with(heavy)
    step(sampler, LOGITS[None])
    sampler.remove(0)
    sampler.add(1, RequestParams(temperature=0), 0, PROMPT)
    sampled = step(sampler, forced(10), sequences=int32(1))
    assert sampled.token_ids.tolist() == [10]
    assert list(sampled.logprobs) == []


def test_many_sequences_and_large_ids():
    sampler = Sampler(VOCAB, EOS, KERNELS)
    ids = [7 + 10_000_019 * i for i in range(200)]
    for sequence in ids:
        sampler.add(sequence, RequestParams(temperature=0), 0, PROMPT)
    logits = torch.zeros(200, VOCAB)
    wanted = [i % VOCAB for i in range(200)]
    logits[range(200), wanted] = 1
    assert step(sampler, logits, sequences=int32(*ids)).token_ids.tolist() == wanted


def test_an_empty_batch():
    sampled = step(Sampler(VOCAB, EOS, KERNELS), torch.zeros(0, VOCAB))
    assert len(sampled.token_ids) == 0


@pytest.mark.parametrize(
    ("params", "name"),
    [({"logit_bias": {"12": 1.0}}, "logit_bias"), ({"stop_token_ids": [3, 40]}, "stop_token_ids")],
)
def test_unknown_tokens_are_refused(params, name):
    params = RequestParams(**params)
    with pytest.raises(InvalidRequestError, match="ids go from 0 to 11") as caught:
        check_vocabulary(params, VOCAB, "body.")
    assert caught.value.param == f"body.{name}"
    check_vocabulary(params, 41)
    with pytest.raises(InvalidRequestError):
        sampler_with(params)


def test_misuse_is_an_internal_error():
    sampler = sampler_with(RequestParams())
    with pytest.raises(InternalError, match="already"):
        sampler.add(0, RequestParams(), 0, PROMPT)
    with pytest.raises(InternalError, match="sequence 5 is not"):
        step(sampler, LOGITS[None], sequences=int32(5))
    with pytest.raises(InternalError, match="not registered"):
        sampler.remove(5)
    with pytest.raises(InternalError, match="logits of shape"):
        step(sampler, torch.zeros(1, VOCAB + 1))
