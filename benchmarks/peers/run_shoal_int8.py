"""Shoal with products in 8 bits behind the benchmark protocol."""

from __future__ import annotations

from benchmarks.peers.protocol import serve
from benchmarks.peers.run_shoal import ShoalEngine

if __name__ == "__main__":
    serve(ShoalEngine(quantization="int8"))
