from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.config import parse_bytes
from shoal.report.units import plural, readable_bytes, readable_seconds


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (3000 * 2**40, "3,000.0 TiB"),
    ],
)
def test_bytes(size: int, text: str) -> None:
    assert readable_bytes(size) == text


@given(st.integers(1, 2**49))
def test_bytes_can_be_read_back(size: int) -> None:
    assert parse_bytes(readable_bytes(size)) == pytest.approx(size, rel=0.06)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (9.994, "9.99 s"),
        (9.999, "10.0 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 00 s"),
        (192.4, "3 min 12 s"),
        (3599.7, "1 h 00 min"),
        (3600 * 1234 + 60 * 5, "1,234 h 05 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert readable_seconds(seconds) == text


def test_plural() -> None:
    assert [plural("run", count) for count in (0, 1, 2)] == ["runs", "run", "runs"]
