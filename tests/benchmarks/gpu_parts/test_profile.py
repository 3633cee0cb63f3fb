"""What a profile makes of a device's spans of work."""

from __future__ import annotations

import pytest

from benchmarks.gpu_parts.profile import Span, kind_of, summarise


def test_overlaps_count_once_and_gaps_do_not() -> None:
    spans = [
        Span("nvjet_tst_128", 100.0, 50.0),
        Span("attend", 140.0, 30.0),
        Span("Memcpy HtoD", 150.0, 5.0),
        Span("attend", 190.0, 10.0),
    ]
    found = summarise(reversed(spans), iterations=2)
    assert found["busy_fraction"] == pytest.approx(80 / 100)
    assert found["device_ms_per_iteration"] == pytest.approx(0.05)
    assert found["kinds_ms"] == pytest.approx(
        {"attention": 0.02, "copies": 0.0025, "products": 0.025}
    )
    assert found["longest"][0]["kernel"] == "nvjet_tst_128"
    assert found["longest"][1] == {"kernel": "attend", "ms": pytest.approx(0.02), "calls": 1.0}


def test_nothing_ran() -> None:
    assert summarise([], 1)["busy_fraction"] == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void at::native::vectorized_elementwise_kernel<4, at::CUDAFunctor_add", "elementwise"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32", "products"),
        ("_draw_row", "sampling"),
        ("something new", "other"),
    ],
)  # fmt: skip
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind
