"""Fat binaries lose the code of other devices, and nothing else."""

from __future__ import annotations

import struct

import pytest

from benchmarks.peers.pack_vllm import keep_architecture

PTX, ELF = 1, 2


def entry(kind: int, architecture: int, code: bytes) -> bytes:
    header = bytearray(64)
    struct.pack_into("<HHIQ", header, 0, kind, 0, 64, len(code))
    struct.pack_into("<I", header, 28, architecture)
    return bytes(header) + code


def fat(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


@pytest.mark.parametrize("around", [b"", b"ELF\0", struct.pack("<I", 0xBA55ED50) + b"\xff" * 12])
def test_code_for_the_device_stays(around: bytes) -> None:
    parts = entry(ELF, 80, b"a" * 40), entry(ELF, 90, b"b" * 24), entry(PTX, 90, b"c" * 8)
    library = around + fat(*parts) + b"between" + fat(entry(ELF, 75, b"d" * 16)) + b"end"
    found = keep_architecture(library, 90)
    assert len(found) == len(library)
    assert b"b" * 24 in found
    assert b"between" in found
    assert found.endswith(b"end")
    assert found.startswith(around)
    for gone in (b"a" * 4, b"c" * 4, b"d" * 4):
        assert gone not in found


def test_without_it_the_newest_code_that_can_be_compiled_stays() -> None:
    parts = entry(PTX, 80, b"a" * 8), entry(PTX, 89, b"b" * 8), entry(PTX, 100, b"c" * 8)
    found = keep_architecture(fat(*parts, entry(ELF, 80, b"d" * 8)), 90)
    assert b"b" * 8 in found
    assert all(gone not in found for gone in (b"a" * 8, b"c" * 8, b"d" * 8))
