"""Micro-benchmark of segment attention: `make bench-attention`.

Every shape is timed in turn with torch's flash attention and a matrix product, several rounds,
medians. One line per shape; the last line of standard output is JSON, {shape, gflops,
matmul_gflops, torch_flash_gflops}, of the shape where a shared segment dominates.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.shapes import BLOCK, Heads, Shape
from shoal.attention import KVShape
from shoal.attention.native import NativeAttention
from shoal.kernels import available_isas, load_kernels, missing_note

HEADS, KV_HEADS, DIM = 12, 4, 64
LLAMA_100M = Heads(HEADS, KV_HEADS, DIM)


SHAPES = [
    Shape("decode-shared-2k", segments=8, shared=2048, users=32, rows=1, own=96),
    Shape("decode-shared-8k", segments=1, shared=8192, users=128, rows=1, own=64),
    Shape("decode-wide", segments=32, shared=2048, users=8, rows=1, own=96),
    Shape("decode-own", segments=256, shared=0, users=1, rows=1, own=512),
    Shape("chunks-shared-2k", segments=1, shared=2048, users=32, rows=64, own=64),
    Shape("prefill-2k", segments=1, shared=0, users=1, rows=2048, own=2048),
]
HEADLINE = "chunks-shared-2k"


def seconds_per_call(call: Callable[[], object], least: float = 0.15) -> float:
    """Mean time of calls repeated for `least` seconds."""
    call()
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < least:
        call()
        count += 1
    return spent / count


def ours(shape: Shape, backend: NativeAttention, dtype: torch.dtype) -> Callable[[], object]:
    work, num_blocks = shape.work(), shape.num_blocks
    cpu = torch.device("cpu")
    layer = backend.allocate(KVShape(KV_HEADS, DIM, DIM, num_blocks, BLOCK, dtype, cpu))
    rows = torch.randn(KV_HEADS, num_blocks * BLOCK, DIM).to(dtype)
    backend.store(layer, torch.arange(num_blocks * BLOCK), rows, rows)
    query = torch.randn(work.num_rows, HEADS, DIM).to(dtype).transpose(0, 1)
    prepared = backend.prepare(work, cpu)
    return lambda: backend(query, layer, prepared, DIM**-0.5)


def torch_flash(shape: Shape, dtype: torch.dtype) -> Callable[[], object]:
    """torch's kernel where it does best: each segment's queries gathered, keys already dense."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    group = HEADS // KV_HEADS
    calls = []
    if shape.shared:
        q = torch.randn(shape.segments, KV_HEADS, shape.users * shape.rows * group, DIM).to(dtype)
        k = torch.randn(shape.segments, KV_HEADS, shape.shared, DIM).to(dtype)
        calls.append((q, k, False))
    requests = shape.requests
    q = torch.randn(requests, HEADS, shape.rows, DIM).to(dtype)
    k = torch.randn(requests, KV_HEADS, shape.own, DIM).to(dtype)
    k = k.repeat_interleave(group, dim=1)
    calls.append((q, k, shape.rows > 1))
    return lambda: [flash(q, k, k, is_causal=causal) for q, k, causal in calls]


def matmul_gflops(dtype: torch.dtype) -> float:
    """The rate of a matrix product in `dtype`, or in float32 where that is faster."""
    return max(_product_gflops(format) for format in {dtype, torch.float32})


def _product_gflops(dtype: torch.dtype) -> float:
    a, b = torch.randn(2048, 768).to(dtype), torch.randn(4096, 768).to(dtype)
    product = seconds_per_call(lambda: torch.nn.functional.linear(a, b))
    return 2 * 2048 * 768 * 4096 / product / 1e9


def copy_gbytes() -> float:
    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_per_call(lambda: target.copy_(source)) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa", choices=[isa.name for isa in available_isas()])
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES])
    options = parser.parse_args()
    kernels = load_kernels()
    if kernels is None:
        sys.exit(f"bench-attention: {missing_note()}")
    isa = next((i for i in available_isas() if i.name == options.isa), kernels.isa)
    dtype = getattr(torch, options.dtype)
    backend = NativeAttention(kernels, isa)
    print(f"{isa.name}, {options.dtype}, {torch.get_num_threads()} threads", file=sys.stderr)
    headline = {}
    for shape in SHAPES:
        if options.shape not in (None, shape.name):
            continue
        mine, flash = ours(shape, backend, dtype), torch_flash(shape, dtype)
        rounds = [
            (
                shape.flops(LLAMA_100M) / seconds_per_call(mine) / 1e9,
                shape.flops(LLAMA_100M) / seconds_per_call(flash) / 1e9,
                matmul_gflops(dtype),
                copy_gbytes(),
            )
            for _ in range(options.rounds)
        ]
        own, torchs, product, copy = (
            statistics.median(column) for column in zip(*rounds, strict=True)
        )
        read = shape.kv_bytes(LLAMA_100M) / (shape.flops(LLAMA_100M) / own / 1e9) / 1e9
        result = {
            "shape": shape.name,
            "gflops": round(own, 1),
            "matmul_gflops": round(product, 1),
            "torch_flash_gflops": round(torchs, 1),
            "kv_read_gbytes": round(read, 1),
            "copy_gbytes": round(copy, 1),
            "isa": isa.name,
            "dtype": options.dtype,
        }
        print(json.dumps(result), flush=True)
        if shape.name == (options.shape or HEADLINE):
            headline = result
    print(json.dumps(headline))


if __name__ == "__main__":
    main()
