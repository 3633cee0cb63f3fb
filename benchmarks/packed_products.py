"""Products with weights of 4 and 8 bits, as torch packs them for the CPU, beside bfloat16's.

Only the weights are narrow: rows are bfloat16. So it is memory that could be saved, where few rows
make a product wait for its weights.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
from torch.nn import functional

from benchmarks.attention import seconds_per_call

SHAPES = ((768, 2048), (4096, 4096), (4096, 14336))
"""Inputs and outputs: layers of llama-100m and of a model of 8B."""
ROWS = (1, 16, 64, 256)
GROUP = 128
"""Inputs that share a scale and a zero of 4 bits."""


def in_four_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [outputs, inputs] as torch packs them; [inputs / GROUP, outputs, (scale, zero)]."""
    groups = weight.reshape(len(weight), -1, GROUP)
    least, most = groups.amin(-1), groups.amax(-1)
    scale = (most - least) / 15
    steps = ((groups - least[..., None]) / scale[..., None]).round().to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps.reshape(weight.shape), 1)
    parameters = torch.stack([scale, least + 8 * scale], -1).transpose(0, 1)
    return packed, parameters.contiguous().bfloat16()


def in_eight_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [outputs, inputs] in 8 bits, and the scale of each output."""
    scale = weight.abs().amax(1) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale.bfloat16()


def measure(inputs: int, outputs: int, rounds: int) -> list[dict[str, float]]:
    """For each number of rows: GFLOP/s of bfloat16, and its time divided by that of the others."""
    weight = torch.randn(outputs, inputs)
    plain, four, eight = weight.bfloat16(), in_four_bits(weight), in_eight_bits(weight)
    results = []
    for rows in ROWS:
        x = torch.randn(rows, inputs).bfloat16()
        ways = (
            lambda x=x: functional.linear(x, plain),
            lambda x=x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, four[0], GROUP, four[1]),
            lambda x=x: torch.ops.aten._weight_int8pack_mm(x, *eight),
        )
        times = [[seconds_per_call(way) for way in ways] for _ in range(rounds)]
        base, *others = (statistics.median(column) for column in zip(*times, strict=True))
        results.append(
            {
                "inputs": inputs,
                "outputs": outputs,
                "rows": rows,
                "bfloat16_gflops": round(2 * rows * inputs * outputs / base / 1e9, 1),
                "4_bits_ratio": round(base / others[0], 2),
                "8_bits_ratio": round(base / others[1], 2),
            }
        )
    return results


def main() -> None:
    """One line of JSON for each shape and number of rows."""
    parser = argparse.ArgumentParser("python -m benchmarks.packed_products", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    for shape in SHAPES:
        for result in measure(*shape, rounds):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
