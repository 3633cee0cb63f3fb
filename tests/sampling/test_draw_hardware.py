"""The kernels that choose tokens, on a GPU, at the sizes of a decode batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shoal.sampling.device_rows import chooser_for
from shoal.sampling.draw import DrawParams
from tests.helpers.choices import check, group_of
from tests.helpers.interpreter import on_hardware
from tests.sampling.test_draw import warp

pytestmark = pytest.mark.skipif(not on_hardware(), reason="needs a GPU with Triton")
CUDA = torch.device("cuda")
VOCAB = 128_256


def logits_of(rows: int, spread: float, dtype: torch.dtype) -> torch.Tensor:
    """Rows [rows, VOCAB], every 64th without numbers, every 64th with equal logits."""
    generator = torch.Generator(CUDA).manual_seed(rows)
    logits = spread * torch.randn(rows, VOCAB, device=CUDA, generator=generator)
    logits[5::64, VOCAB - 1] = torch.nan
    logits[6::64] = 1.5
    return logits.to(dtype)


def params_of(rows: int, seed: int, **chosen: float) -> DrawParams:
    rng = np.random.default_rng(seed)
    hot = rng.choice([0.6, 1.0, 1.5], rows)
    if not chosen:
        hot[::2] = 0.0
    return warp(rng.random(rows), VOCAB, temperature=hot, device=CUDA, **chosen)


def shuffled(rows: int) -> torch.Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(1)).to(CUDA)


@pytest.mark.parametrize(
    ("rows", "dtype"),
    [(2048, torch.bfloat16), (256, torch.float16), (256, torch.float32), (1, torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize("min_p", [0.0, 0.01])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_plain_rows(rows: int, dtype: torch.dtype, min_p: float, spread: float) -> None:
    logits = logits_of(rows, spread, dtype)
    params = params_of(rows, 0, min_p=min_p) if min_p else params_of(rows, 0)
    group = group_of(shuffled(rows), params, ranked=False)
    check(chooser_for(CUDA), logits, group, most_near=rows // 20)


@pytest.mark.parametrize(
    ("rows", "dtype"),
    [(1100, torch.bfloat16), (128, torch.float16), (128, torch.float32), (1, torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize(
    "chosen",
    [
        {"top_k": 40},
        {"top_k": 3000},
        {"top_p": 0.9},
        {"top_p": 0.999},
        {"top_k": 200, "top_p": 0.8, "min_p": 0.001},
    ],
    ids=str,
)
@pytest.mark.parametrize("spread", [0.3, 4.0])
def test_ranked_rows(
    rows: int, dtype: torch.dtype, chosen: dict[str, float], spread: float
) -> None:
    logits = logits_of(rows, spread, dtype)
    group = group_of(shuffled(rows), params_of(rows, 1, **chosen), ranked=True)
    check(chooser_for(CUDA), logits, group, most_near=rows // 20)
