"""The kernels that choose tokens compile for Hopper, several programs to a multiprocessor.

Run by `make test-kernels`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.hopper import FULL_SHARED_BYTES, REGISTERS
from tests.helpers.interpreter import INTERPRETED

pytest.importorskip("triton")

from shoal.sampling.draw_kernel import draw_plain
from shoal.sampling.ranked_kernel import draw_ranked
from shoal.sampling.triton_chooser import WARPS, TritonChooser
from tests.helpers.compiled import compiled, resources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing"),
]
CHOOSER = TritonChooser()
VOCAB = 128_256


def types(number: str) -> dict[str, str]:
    whole = dict.fromkeys(("stride", "vocab"), "i32")
    index = dict.fromkeys(("rows", "samples", "tokens"), "*i64")
    params = {"temperature": "*fp32", "min_p": "*fp32", "uniforms": "*fp64"}
    return {"logits": f"*{number}", **whole, **index, **params}


@pytest.mark.parametrize("number", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("ranked", "programs"), [(False, 3), (True, 2)])
def test_programs_fit_a_multiprocessor(
    tmp_path: Path, number: str, ranked: bool, programs: int
) -> None:
    block = CHOOSER.ranked_block if ranked else CHOOSER.plain_block
    constants = {"BLOCK": block, "BLOCKS": 1 << (VOCAB // block).bit_length()}
    if ranked:
        constants |= {"ROOM": CHOOSER.room, "PASS": CHOOSER.candidates}
        lists = {"top_k": "*i64", "top_p": "*fp64", "lists": "*i64", "count": "i32"}
        kernel = compiled(draw_ranked, constants, {**types(number), **lists}, WARPS)
    else:
        kernel = compiled(draw_plain, constants, types(number), WARPS)
    registers, stack = resources(kernel, tmp_path)
    assert stack <= 64
    assert registers * 32 * WARPS * programs <= REGISTERS
    assert (kernel.metadata.shared + 1024) * programs <= FULL_SHARED_BYTES
    # The row is fetched ahead.
    assert "cp.async" in kernel.asm["ptx"]
