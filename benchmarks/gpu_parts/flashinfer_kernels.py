"""Compile FlashInfer's kernels in advance: `python3 -m benchmarks.gpu_parts.flashinfer_kernels`.

Needs FlashInfer and nvcc, no GPU if `FLASHINFER_CUDA_ARCH_LIST=9.0a` is set. `--into FOLDER` also
copies the libraries to where FlashInfer looks for finished ones if FOLDER is its package's.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.runner import say

DIM = 128
"""Of llama-8b's heads."""
BACKENDS = ("fa2", "fa3")


def kernels(dtype: torch.dtype, dim: int) -> list[Any]:
    """FlashInfer's descriptions of the libraries that a cascade loads, with either backend.

    Each has a `name`, `is_compiled`, `build` and `get_library_path`.
    """
    from flashinfer.jit import gen_batch_prefill_module
    from flashinfer.jit.cascade import gen_cascade_module

    # Dtypes of queries, KV, results and indices; no position encoding, window, cap, or half sums.
    common = dtype, dtype, dtype, torch.int32, dim, dim, 0, False, False, False
    return [gen_cascade_module(), *(gen_batch_prefill_module(b, *common) for b in BACKENDS)]


def main() -> None:
    """Compile what is not compiled yet; raises what FlashInfer raises if that fails."""
    parser = argparse.ArgumentParser("flashinfer_kernels", description=__doc__)
    parser.add_argument("--into", type=Path, help="a folder named flashinfer, of a package")
    into = parser.parse_args().into
    for kernel in kernels(torch.bfloat16, DIM):
        began = time.perf_counter()
        if not kernel.is_compiled:
            kernel.build(verbose=False)
        path = kernel.get_library_path()
        size = path.stat().st_size
        say(f"{kernel.name}: {size / 2**20:.1f} MiB, {time.perf_counter() - began:.0f} s")
        if into:
            target = into / "data" / "aot" / kernel.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


if __name__ == "__main__":
    sys.exit(main())
