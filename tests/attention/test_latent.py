"""Attention over latents, absorbed, expanded and both, equals the definition in float64."""

import pytest
import torch

from shoal.attention import AttentionKind, KVLayer, KVShape, latent
from shoal.attention.latent import Expansion, LatentAttention, PartialAttention
from shoal.attention.native import NativeAttention
from shoal.attention.reference import ReferenceAttention
from shoal.kernels import available_isas, load_kernels
from tests.helpers.attention_work import (
    CPU,
    TOLERANCE,
    Case,
    dense_attention,
    one_segment,
    random_case,
    random_inputs,
    used_slots,
)

KERNELS = load_kernels()
BACKENDS: list[PartialAttention] = [ReferenceAttention()]
if KERNELS is not None:
    BACKENDS += [NativeAttention(KERNELS, isa) for isa in available_isas()]


def latent_pool(backend: PartialAttention, case: Case, keys: torch.Tensor, rank: int) -> KVLayer:
    size = case.work.block_size
    blocks = case.num_slots // size
    shape = KVShape(1, keys.shape[2], rank, blocks, size, keys.dtype, CPU, latent=True)
    layer = backend.allocate(shape)
    # What was there before is no number: a new block must not show it.
    layer.keys.fill_(float("nan"))
    slots = torch.from_numpy(used_slots(case.work))
    backend.store(layer, slots, keys[:, slots], keys[:, slots, :rank])
    return layer


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS, ids=range(len(BACKENDS)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "rank", "rope"), [(16, 512, 64), (3, 40, 6), (130, 32, 2)])
def test_values_within_keys(
    backend: PartialAttention, dtype: torch.dtype, heads: int, rank: int, rope: int
) -> None:
    case = random_case(3, block_size=32, scattered=True)
    query, keys, _ = random_inputs(case, (heads, 1), (rank + rope, rank), dtype)
    layer = latent_pool(backend, case, keys, rank)
    scale = (rank + rope) ** -0.5
    expected = dense_attention(case, query, keys, keys[..., :rank], scale)
    found = backend(query, layer, backend.prepare(case.work, CPU), scale)
    assert (found.double() - expected).abs().max() < TOLERANCE[dtype]
    part, lse = backend.partial(query, layer, backend.prepare(case.work, CPU), scale)
    assert (part.double() - expected).abs().max() < TOLERANCE[dtype]
    row = max(range(len(case.row_slots)), key=lambda row: len(case.row_slots[row]))
    at = torch.from_numpy(case.row_slots[row])
    scores = query[:, row].double() @ keys[0, at].double().T * scale
    assert torch.allclose(lse[row].double(), scores.logsumexp(dim=1), atol=TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS, ids=range(len(BACKENDS)))
def test_rows_whose_windows_differ(backend: PartialAttention) -> None:
    """Each reads latents of its own, also those of one tile."""
    case, rank, kind = one_segment(96, 1100, causal=True), 32, AttentionKind(window=40)
    query, keys, _ = random_inputs(case, (4, 1), (rank + 2, rank), torch.float32)
    layer = latent_pool(backend, case, keys, rank)
    found = backend(query, layer, backend.prepare(case.work, CPU), 0.2, kind)
    expected = dense_attention(case, query, keys, keys[..., :rank], 0.2, kind)
    assert (found.double() - expected).abs().max() < TOLERANCE[torch.float32]


@pytest.mark.parametrize("backend", BACKENDS, ids=range(len(BACKENDS)))
@pytest.mark.parametrize("least_rows", [float("inf"), 8, 2, 0])
@pytest.mark.parametrize("seed", [0, 1])
def test_both_ways(backend: PartialAttention, least_rows: float, seed: int) -> None:
    case = random_case(seed, block_size=32, scattered=True)
    heads, plain, rope, rank, value_dim = 5, 12, 8, 24, 10
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(heads, plain + value_dim, rank, generator=generator) * rank**-0.5
    expansion = Expansion(weight[:, :plain], weight[:, plain:])
    query, _, _ = random_inputs(case, (heads, 1), (plain + rope, 1), torch.float32)
    latents = torch.randn(1, case.num_slots, rank + rope, generator=generator)
    layer = latent_pool(backend, case, latents, rank)
    mixed = LatentAttention(backend, least_rows)
    prepared = mixed.prepare(case.work, CPU)
    found = mixed.attend(query, layer, prepared, 0.2, expansion)
    keys, values = expansion.expand(latents[0])
    expected = dense_attention(case, query, keys, values, 0.2)
    assert (found.double() - expected).abs().max() < 5e-5


@pytest.mark.parametrize(
    ("heads", "measured"),
    [((128, 128, 64, 512, 128), 266), ((40, 64, 32, 256, 64), 208), ((20, 192, 64, 512, 256), 380)],
    ids=["deepseek-v3", "minicpm3", "glm-4.7-flash"],
)
def test_the_crossing_is_near_the_measured(heads: tuple[int, ...], measured: float) -> None:
    """Those of docs/lab-notes.md: two cores of an AMD EPYC, bfloat16."""
    count, plain, rope, rank, value = heads
    expansion = Expansion(torch.empty(count, plain, rank), torch.empty(count, value, rank))
    assert 0.8 <= expansion.crossing(rope) / measured <= 1.4


def test_rows_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items of most rows are expanded, and no more than there is memory for."""
    case = random_case(1, block_size=32, scattered=True)
    work = case.work
    rows = work.row_last - work.row_first
    worth = latent._worth(work, 8, 1)
    assert (worth == ((rows >= 8) & (work.kv_tokens > 0))).all()
    assert worth.any()
    assert not worth.all()
    monkeypatch.setattr(latent, "EXPANDED_BYTES", 0)
    assert not latent._worth(work, 8, 1).any()
