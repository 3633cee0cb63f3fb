import pytest
import torch

from shoal.attention import AttentionBackend
from shoal.attention.reference import ReferenceAttention
from shoal.attention.torch_cpu import TorchCpuAttention
from tests.attention.work import dense_attention, random_case

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 3e-3}
"""Largest absolute error against float64, unit-normal inputs."""


@pytest.mark.parametrize("backend", [ReferenceAttention(), TorchCpuAttention()])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize("seed", range(8))
def test_equals_dense_attention(
    backend: AttentionBackend, dtype: torch.dtype, heads: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    case = random_case(seed, block_size=[1, 3, 16][seed % 3], scattered=seed % 2 == 0)
    dim = 16
    query = torch.randn(heads[0], case.work.num_rows, dim).to(dtype)
    keys = torch.randn(heads[1], case.num_slots, dim).to(dtype)
    values = torch.randn(heads[1], case.num_slots, dim).to(dtype)
    scale = dim**-0.5
    out = backend(query, keys, values, backend.prepare(case.work, query.device), scale)
    expected = dense_attention(case, query, keys, values, scale)
    assert out.dtype == dtype
    assert out.shape == expected.shape
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


def test_reference_gives_zeros_to_a_row_without_keys() -> None:
    case = random_case(0, block_size=4, scattered=False)
    work = case.work
    work.kv_tokens[:] = 0
    work.causal[:] = False
    out = ReferenceAttention()(
        torch.randn(2, work.num_rows, 8),
        torch.randn(1, case.num_slots, 8),
        torch.randn(1, case.num_slots, 8),
        work,
        1.0,
    )
    assert torch.equal(out, torch.zeros_like(out))
