"""Which backend a device gets, and what is said when it is not the fast one."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import pytest
import torch

from shoal.attention import backends, select_backend

CUDA = torch.device("cuda")


def test_without_triton_the_reference_runs_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    with caplog.at_level(logging.WARNING):
        assert select_backend(torch.bfloat16, CUDA, [(8, 128, 128)]).name == "reference"
    assert "pip install 'shoal[cuda]'" in caplog.text


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    ("dtype", "dims", "name"),
    [
        (torch.bfloat16, (128, 128), "triton"),
        (torch.float32, (80, 96), "triton"),
        (torch.float16, (256, 256), "triton"),
        (torch.float16, (128, 257), "reference"),
        (torch.float64, (64, 64), "reference"),
    ],
)
def test_on_cuda(
    caplog: pytest.LogCaptureFixture, dtype: torch.dtype, dims: tuple[int, int], name: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert select_backend(dtype, CUDA, [(8, 64, 64), (8, *dims)]).name == name
    assert ("no Triton attention" in caplog.text) == (name == "reference")
