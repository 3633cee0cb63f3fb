"""A pool of the C++ kernel lies in huge pages, where the system has any to give."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest
import torch

from shoal.attention.contract import KVShape
from shoal.attention.native import NativeAttention
from shoal.kernels import load_kernels

SIZE = 128 * 2**20
"""More than glibc keeps of what was freed, which lies in small pages since it was first used."""
SMAPS = Path("/proc/self/smaps")


def huge_bytes(address: int) -> int:
    """Bytes in huge pages of the mapping that holds `address`."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and (size := re.match(r"AnonHugePages:\s+(\d+) kB", line)):
            return int(size[1]) * 1024
    raise AssertionError(f"no mapping holds {address:#x}")


def gives_huge_pages() -> bool:
    if not SMAPS.exists() or not hasattr(mmap, "MADV_HUGEPAGE"):
        return False
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.write(b"\1" * SIZE)
        view = torch.frombuffer(memory, dtype=torch.uint8)
        found = huge_bytes(view.data_ptr() + SIZE // 2)
        del view
    return found > SIZE // 2


@pytest.mark.long
def test_the_pool_is_in_huge_pages() -> None:
    kernels = load_kernels()
    if kernels is None or not gives_huge_pages():
        pytest.skip("no kernels, or no huge pages to be had")
    shape = KVShape(1, 64, 64, SIZE // 8192, 32, torch.float32, torch.device("cpu"))
    layer = NativeAttention(kernels).allocate(shape)
    middle = layer.keys.data_ptr() + layer.keys.nbytes // 2
    assert huge_bytes(middle) > SIZE // 2
    assert not layer.keys.any()
