"""Finds operations that wait for the device because the host needs a value from it.

In an eager forward each costs the host its lead over the device; in a forward that is being
captured into a CUDA graph it is an error, and one that torch 2.11 does not recover from (the
allocator goes on believing in the capture: pytorch/pytorch#180395, mended in 2.12). So a forward
is watched before it is captured, and one that reads back never is. What is watched is which
operations are called, so the answer is the same on any device, but for copies to the host, which
only a device makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

READBACKS = frozenset(
    {
        _aten._local_scalar_dense,  # bool, int, float, item and tolist come to this
        _aten.item,
        _aten.equal,
        _aten.is_nonzero,
        _aten.nonzero,
        _aten.nonzero_numpy,
        _aten.argwhere,
        _aten.masked_select,
        _aten.unique_dim,
        _aten.unique_consecutive,
        _aten._unique,
        _aten._unique2,
        _aten.bincount,
    }
)
"""Operations whose result, or its shape, the host needs to know."""

_MASKS = (torch.bool, torch.uint8)


# torch leaves this class without types.
class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the names of operations that read back."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        if _reads_back(func, args, keywords):
            self._found.append(str(func))
        return func(*args, **keywords)


@contextmanager
def watch_readbacks() -> Iterator[list[str]]:
    """The names of operations that read back in this block, in order; filled as it runs."""
    found: list[str] = []
    with _Watch(found):
        yield found


def _reads_back(func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    packet = func.overloadpacket
    if packet in READBACKS:
        return True
    if packet in (_aten.index, _aten.index_put, _aten.index_put_):
        # A mask is turned into the indices at which it is true, whose number the host must know.
        return any(index is not None and index.dtype in _MASKS for index in args[1])
    if packet is _aten.where:
        return len(args) == 1
    if packet is _aten.repeat_interleave:
        counted = func is not _aten.repeat_interleave.self_int
        return counted and keywords.get("output_size") is None
    if packet is _aten._to_copy:
        return _is_far(args[0]) and torch.device(keywords.get("device") or args[0].device).type == (
            "cpu"
        )
    if packet is _aten.copy_:
        return _is_far(args[1]) and args[0].device.type == "cpu"
    return False


def _is_far(tensor: torch.Tensor) -> bool:
    return tensor.device.type not in ("cpu", "meta")
