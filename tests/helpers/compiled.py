"""Triton kernels compiled for Hopper. Triton brings NVIDIA's assembler along: no GPU is needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)


def compiled(kernel, constants: dict[str, int], types: dict[str, str], warps: int):
    """The kernel for Hopper, with arguments aligned as torch's are."""
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = [name for name in names if name in types and types[name] != "fp32"]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=HOPPER, options={"num_warps": warps})


def resources(kernel, folder: Path) -> tuple[int, int]:
    """Registers per thread, and bytes of stack, which spilled registers take."""
    binary = folder / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [tool, "--dump-resource-usage", binary]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    return int(registers), int(stack)
