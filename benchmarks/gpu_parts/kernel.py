"""The attention kernel over shapes: against its ceiling, torch, FlashInfer, and two launches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu_parts.attention_peers import Tensors, TwoLaunches, torch_per_request
from benchmarks.gpu_parts.ceilings import Ceilings
from benchmarks.gpu_parts.clock import Deadline, Stopwatch
from benchmarks.gpu_parts.flashinfer_peer import WAYS, FlashInferAbsentError, FlashInferCascade
from benchmarks.gpu_parts.records import Recorder
from benchmarks.runner import say
from benchmarks.shapes import BLOCK, Heads, Shape
from shoal.attention import AttentionBackend, KVLayer, KVShape

LLAMA_8B_HEADS = Heads(32, 8, 128)
DECODE_ROWS = 256
"""Of every decode shape: a batch as large as the baselines' limit."""
OWN = 128
PREFIXES = (2048, 4096, 8192, 16384, 1024)
DEGREES = (16, 64, 256, 4)
"""In the order of interest: the first are measured even if time is short."""
_SECONDS = 0.25
"""Spent on each timing."""


def shapes() -> list[Shape]:
    """All that are measured, the most interesting first."""
    found = [_decode(2048, 16), _decode(4096, 64), *_prefills()]
    for prefix in PREFIXES:
        found += [s for degree in DEGREES if (s := _decode(prefix, degree)) not in found]
    return found


def _decode(prefix: int, degree: int) -> Shape:
    return Shape(f"decode-{prefix}x{degree}", DECODE_ROWS // degree, prefix, degree, 1, OWN)


def _prefills() -> list[Shape]:
    """Chunks of 2,048 rows: own parts behind a prefix, and prompts that share nothing."""
    return [
        Shape("prefill-2048x32-behind", 1, 2048, 32, 64, 64),
        Shape("prefill-8192x8-behind", 1, 8192, 8, 256, 256),
        Shape("prefill-2048-alone", 1, 0, 1, 2048, 2048),
        Shape("prefill-8192-second-half", 1, 0, 1, 4096, 8192),
    ]


@dataclass(frozen=True)
class KernelBench:
    """What to measure with."""

    backend: AttentionBackend
    heads: Heads
    dtype: torch.dtype
    device: torch.device
    watch: Stopwatch
    ceilings: Ceilings

    def run(self, chosen: list[Shape], recorder: Recorder, deadline: Deadline) -> None:
        """A record per shape, until all are done or the time is over."""
        for place, shape in enumerate(chosen):
            if recorder.knows("kernel", shape=shape.name):
                continue
            if deadline.left == 0:
                names = [left.name for left in chosen[place:]]
                recorder.add("kernel", skipped=names, reason="no time left")
                return
            recorder.add("kernel", **self._figures(shape))
            say(f"kernel {place + 1}/{len(chosen)} {shape.name}")

    def _figures(self, shape: Shape) -> dict[str, Any]:
        """One shape's figures, or why there are none: the others are measured all the same."""
        try:
            return self.measure(shape)
        except Exception as error:
            return {"shape": shape.name, "error": f"{type(error).__name__}: {error}"[:500]}

    @torch.inference_mode()
    def measure(self, shape: Shape) -> dict[str, Any]:
        """One shape's figures; the outputs of all ways are compared."""
        tensors = self._tensors(shape)
        layer = self._stored(shape, tensors)
        prepared = self.backend.prepare(shape.work(), self.device)
        scale = self.heads.dim**-0.5

        def ours() -> torch.Tensor:
            return self.backend(tensors.query, layer, prepared, scale)

        peer, how = torch_per_request(shape, tensors)
        seconds = {"ours": self._time(ours), "torch": self._time(peer)}
        mine = ours()
        errors = {"torch": _distance(mine, peer())}
        if shape.shared and hasattr(self.backend, "partial"):
            two = TwoLaunches(self.backend, shape, tensors, layer)
            seconds["two_launches"] = self._time(two)
            seconds["two_launches_unmerged"] = self._time(two.launches)
            errors["two_launches"] = _distance(mine, two())
        outside = self._flashinfer(shape, tensors.query, layer, mine, seconds, errors)
        floor, bound = self.floor(shape)
        return {
            "shape": shape.name,
            "prefix": shape.shared,
            "degree": shape.users,
            "segments": shape.segments,
            "rows": shape.num_rows,
            "own": shape.own,
            "kernel": self.backend.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "seconds": seconds,
            "ratios": {name: s / seconds["ours"] for name, s in seconds.items() if name != "ours"},
            "floor_seconds": floor,
            "bound": bound,
            "ceiling_fraction": floor / seconds["ours"],
            "relative_error": errors,
            "torch_way": how,
            "flashinfer_way": outside,
        }

    @torch.inference_mode()
    def seconds(self, shape: Shape) -> float:
        """Of our kernel alone."""
        tensors = self._tensors(shape)
        layer, prepared = (
            self._stored(shape, tensors),
            self.backend.prepare(shape.work(), self.device),
        )
        scale = self.heads.dim**-0.5
        return self._time(lambda: self.backend(tensors.query, layer, prepared, scale))

    def _flashinfer(
        self,
        shape: Shape,
        query: torch.Tensor,
        layer: KVLayer,
        mine: torch.Tensor,
        seconds: dict[str, float],
        errors: dict[str, float],
    ) -> dict[str, str]:
        """Add FlashInfer's figures; returns how each way ran, or why it has no figures."""
        how = {}
        for name, backend in WAYS.items():
            try:
                cascade = FlashInferCascade(shape, query, layer, backend)
                errors[name] = _distance(mine, cascade())
                seconds[name] = self._time(cascade)
                how[name] = cascade.how
            except FlashInferAbsentError as absent:
                how[name] = str(absent)
            except Exception as error:
                how[name] = f"failed: {type(error).__name__}: {error}"[:500]
        return how

    def _time(self, call: Any) -> float:
        return self.watch.seconds(call, _SECONDS)

    def floor(self, shape: Shape) -> tuple[float, str]:
        """The least seconds a shape can take, and what bounds it."""
        size = self.dtype.itemsize
        moved = shape.kv_bytes(self.heads, size) + shape.row_bytes(self.heads, size)
        seconds = {
            "bytes": moved / self.ceilings.copy_bytes_per_second,
            "flops": shape.flops(self.heads) / self.ceilings.flops_per_second,
        }
        bound = max(seconds, key=seconds.__getitem__)
        return seconds[bound], bound

    def _tensors(self, shape: Shape) -> Tensors:
        kv, dim = self.heads.kv_heads, self.heads.dim

        def pair(count: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
            size = count, kv, tokens, dim
            k, v = (torch.randn(size, device=self.device, dtype=self.dtype) for _ in range(2))
            return k, v

        rows = torch.randn(shape.num_rows, self.heads.heads, dim, device=self.device)
        return Tensors(
            query=rows.to(self.dtype).transpose(0, 1),
            shared=pair(shape.segments, shape.shared),
            own=pair(shape.requests, shape.own),
        )

    def _stored(self, shape: Shape, tensors: Tensors) -> KVLayer:
        """A pool that holds the tensors where the shape's work list looks for them."""
        kv, dim = self.heads.kv_heads, self.heads.dim
        layer = self.backend.allocate(
            KVShape(kv, dim, dim, shape.num_blocks, BLOCK, self.dtype, self.device)
        )
        work = shape.work()
        for item, (k, v) in enumerate(_in_item_order(shape, tensors)):
            slots = torch.from_numpy(work.slots(item)).to(self.device)
            self.backend.store(layer, slots, k, v)
        return layer


def _in_item_order(shape: Shape, tensors: Tensors) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values [kv_heads, tokens, dim] of each of the shape's items."""
    for segment in range(shape.segments):
        for user in range(segment * shape.users, (segment + 1) * shape.users):
            yield tensors.own[0][user], tensors.own[1][user]
        if shape.shared:
            yield tensors.shared[0][segment], tensors.shared[1][segment]


def _distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The norm of the difference over the norm of theirs, in float32."""
    a, b = ours.float(), theirs.float()
    return float((a - b).norm() / b.norm())
