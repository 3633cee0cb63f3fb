"""The kernels compile for Hopper, at the tiles of the table and within its registers.

Triton brings NVIDIA's assembler along, so this needs no GPU. Run by `make test-kernels`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shoal.attention import KVShape
from shoal.attention.triton.kernels import attend, merge, store
from shoal.attention.triton.launch import make_launch
from shoal.attention.triton.tiles import Tiles, choose_tiles
from tests.helpers.compiled import compiled, resources
from tests.helpers.hopper import FULL_SHARED_BYTES, REGISTERS, SHARED_BYTES
from tests.helpers.interpreter import INTERPRETED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing"),
]
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def attend_types(number: str) -> dict[str, str]:
    pointers = dict.fromkeys(("query", "keys", "values", "out"), f"*{number}")
    partial = dict.fromkeys(("lse_out", "part_out", "part_lse"), "*fp32")
    lists = dict.fromkeys(("counts", "tasks", "blocks", "positions"), "*i32")
    strides = dict.fromkeys(("query_head", "query_row"), "i32")
    asked = {"sinks": "*fp32", "scale": "fp32", "softcap": "fp32", "window": "i32"}
    return {**pointers, **partial, **lists, **strides, **asked}


def attention(
    tiles: Tiles,
    heads: tuple[int, int],
    dim: int,
    dtype: torch.dtype,
    with_lse: bool = False,
    asks: tuple[str, ...] = (),
    rank: int | None = None,
):
    """`rank`: of latents, whose keys have `dim` numbers; None: keys and values."""
    dims = dim, rank or dim
    cpu = torch.device("cpu")
    shape = KVShape(heads[1], *dims, 1, 32, dtype, cpu, latent=rank is not None)
    constants = make_launch(shape, heads[0], tiles, 1).attend
    types = attend_types(NAMES[dtype]) | ({"out": "*fp32"} if with_lse else {})
    warps = constants.pop("num_warps")
    constants |= {name: name in asks for name in ("WINDOW", "SOFTCAP", "SINKS")}
    return compiled(attend, {**constants, "WITH_LSE": with_lse}, types, warps)


@pytest.mark.parametrize("heads", [(14, 2), (16, 1), (4, 4)])
def test_other_groups_and_the_partial_variant(heads: tuple[int, int]) -> None:
    tiles = choose_tiles(torch.bfloat16, 64, 64, SHARED_BYTES).light
    assert "wgmma" in attention(tiles, heads, 64, torch.bfloat16, with_lse=True).asm["ptx"]


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("asks", [("WINDOW",), ("WINDOW", "SINKS"), ("WINDOW", "SOFTCAP")])
def test_windows_soft_caps_and_sinks_fit(tmp_path: Path, dim: int, asks: tuple[str, ...]) -> None:
    tiles = choose_tiles(torch.bfloat16, dim, dim, SHARED_BYTES).light
    kernel = attention(tiles, (32, 8), dim, torch.bfloat16, asks=asks)
    _, stack = resources(kernel, tmp_path)
    # A few registers spill: the rows' first keys are held beside the rest.
    assert stack <= 80
    assert kernel.metadata.shared <= SHARED_BYTES
    assert "wgmma" in kernel.asm["ptx"]


@pytest.mark.parametrize("kind", ["light", "heavy"])
@pytest.mark.parametrize(
    ("dtype", "dim", "most_stack"),
    [
        (torch.bfloat16, 64, 0),
        (torch.bfloat16, 96, 32),
        (torch.bfloat16, 128, 32),
        (torch.float16, 128, 32),
        (torch.bfloat16, 256, 32),
        (torch.float32, 64, 0),
        (torch.float32, 128, 0),
        (torch.float32, 256, 0),
    ],
)
def test_attention_fits_a_multiprocessor(
    tmp_path: Path, kind: str, dtype: torch.dtype, dim: int, most_stack: int
) -> None:
    """As many programs as the table says, hardly a register spilled, matrix units in use."""
    pair = choose_tiles(dtype, dim, dim, SHARED_BYTES)
    if kind == "heavy" and pair.heavy == pair.light:
        pytest.skip("the same tiles as the light ones")
    tiles: Tiles = getattr(pair, kind)
    kernel = attention(tiles, (32, 8), dim, dtype)
    registers, stack = resources(kernel, tmp_path)
    assert stack <= most_stack
    assert -(-registers // 8) * 8 * 32 * tiles.warps * tiles.programs <= REGISTERS
    assert (kernel.metadata.shared + 1024) * tiles.programs <= FULL_SHARED_BYTES
    assert kernel.metadata.shared <= SHARED_BYTES
    estimate = tiles.shared_bytes(dim, dim, dtype.itemsize)
    assert kernel.metadata.shared <= 1.1 * estimate
    text = kernel.asm["ptx"]
    assert "cp.async" in text
    assert ("wgmma" in text) == (dtype != torch.float32)


@pytest.mark.parametrize("heads", [16, 128])
@pytest.mark.parametrize(("dim", "rank"), [(576, 512), (288, 256)])
@pytest.mark.parametrize("kilobytes", [99, 227])
def test_latents_fit(tmp_path: Path, heads: int, dim: int, rank: int, kilobytes: int) -> None:
    tiles = choose_tiles(torch.bfloat16, dim, rank, kilobytes << 10).light
    kernel = attention(tiles, (heads, 1), dim, torch.bfloat16, with_lse=True, rank=rank)
    registers, stack = resources(kernel, tmp_path)
    assert stack <= 32
    assert registers * 32 * tiles.warps * tiles.programs <= REGISTERS
    assert kernel.metadata.shared <= kilobytes << 10
    assert "mma" in kernel.asm["ptx"]


def test_merge() -> None:
    pointers = dict.fromkeys(("out", "lse_out", "part_out", "part_lse", "sinks"), "*fp32")
    lists = dict.fromkeys(("counts", "rows", "offsets", "slots"), "*i32")
    constants = {"HEADS": 32, "VALUE_DIM": 128, "COLUMNS": 128, "TILE": 8, "WITH_LSE": True}
    constants["SINKS"] = True
    kernel = compiled(merge, constants, {**pointers, **lists, "num_rows": "i32"}, 4)
    assert "st.global.v4" in kernel.asm["ptx"]


def test_store() -> None:
    pointers = dict.fromkeys(("key", "value", "keys", "values"), "*bf16")
    strides = dict.fromkeys(("key_head", "key_row", "value_head", "value_row"), "i32")
    dense = {"slot_step": 1, "key_column": 1, "value_column": 1}
    dims = {"KEY_DIM": 96, "KEY_COLUMNS": 128, "VALUE_DIM": 96, "VALUE_COLUMNS": 128}
    constants = {"KV_HEADS": 8, "BLOCK": 32, "TILE": 16, "LATENT": False, **dims, **dense}
    types = {**pointers, **strides, "num_rows": "i32", "slots": "*i64"}
    assert "st.global.v4" in compiled(store, constants, types, 4).asm["ptx"]
