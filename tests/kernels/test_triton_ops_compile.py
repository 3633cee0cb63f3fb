"""The Triton ops compile for Hopper, spill nothing and move 16 bytes at a time.

Needs no GPU, as tests/attention/triton/test_compiles.py. Run by `make test-kernels`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.interpreter import INTERPRETED

pytest.importorskip("triton")
from shoal.kernels.triton_ops import gate_row, norm_row, turn_heads
from tests.attention.triton.test_compiles import NAMES, compiled, resources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing"),
]


def check(kernel, folder: Path, most_registers: int) -> None:
    registers, stack = resources(kernel, folder)
    assert stack == 0
    assert registers <= most_registers
    text = kernel.asm["ptx"]
    for way in ("ld.global", "st.global"):
        assert any(way in line and "v4.b32" in line for line in text.splitlines())


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize(("width", "warps"), [(896, 2), (3584, 8), (4096, 8), (16_384, 16)])
def test_norms(tmp_path: Path, width: int, warps: int, dtype: torch.dtype) -> None:
    types = dict.fromkeys(("x", "weight", "out"), f"*{NAMES[dtype]}") | {"stride": "i32"}
    block = 1 << (width - 1).bit_length()
    constants = {"EPS": 1e-5, "OFFSET": 0.0, "WIDTH": width, "BLOCK": block}
    check(compiled(norm_row, constants, types, warps), tmp_path, 128)


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("silu", [True, False])
def test_gates(tmp_path: Path, silu: bool, dtype: torch.dtype) -> None:
    types = dict.fromkeys(("gate_up", "out"), f"*{NAMES[dtype]}") | {"stride": "i32"}
    constants = {"WIDTH": 14_336, "BLOCK": 1024, "SILU": silu}
    check(compiled(gate_row, constants, types, 4), tmp_path, 64)


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(
    ("dim", "rotary_dim", "neighbours"), [(128, 128, False), (64, 64, False), (80, 32, True)]
)
def test_rotations(
    tmp_path: Path, dim: int, rotary_dim: int, neighbours: bool, norm: bool, dtype: torch.dtype
) -> None:
    types = dict.fromkeys(("qkv", "cos", "sin", "norms"), f"*{NAMES[dtype]}")
    block = 1 << (dim // 2 - 1).bit_length()
    constants = {
        "EPS": 1e-6, "OFFSET": 0.0, "QUERIES": 32, "HEADS": 40, "DIM": dim, "NORM": norm,
        "ROTARY_DIM": rotary_dim, "NEIGHBOURS": neighbours, "BLOCK": block, "TILE": 512 // block,
    }  # fmt: skip
    kernel = compiled(turn_heads, constants, types | {"qkv_row": "i32", "angle_row": "i32"}, 2)
    if neighbours:
        assert resources(kernel, tmp_path)[1] == 0
    else:
        check(kernel, tmp_path, 128)
