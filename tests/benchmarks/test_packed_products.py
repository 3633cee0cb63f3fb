"""What is timed multiplies by the weights: else its time would say nothing."""

from __future__ import annotations

import torch

from benchmarks.packed_products import GROUP, in_eight_bits, in_four_bits, measure


def test_products_are_near_those_of_the_weights() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(64, 256), torch.randn(5, 256).bfloat16()
    wanted = x.float() @ weight.T
    packed, parameters = in_four_bits(weight)
    four = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, parameters)
    eight = torch.ops.aten._weight_int8pack_mm(x, *in_eight_bits(weight))
    for product, most in ((four, 0.15), (eight, 0.02)):
        assert (product.float() - wanted).norm() / wanted.norm() < most


def test_each_number_of_rows_is_measured() -> None:
    results = measure(128, 64, rounds=1)
    assert [result["rows"] for result in results] == [1, 16, 64, 256]
    assert all(result["4_bits_ratio"] > 0 for result in results)
