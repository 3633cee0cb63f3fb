"""One run of the benchmark: a device, a time limit, the parts in turn."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts.ceilings import Ceilings, measure_ceilings, read_ceilings
from benchmarks.gpu_parts.cells import Cell
from benchmarks.gpu_parts.clock import Deadline, Stopwatch, stopwatch
from benchmarks.gpu_parts.contenders import OURS, POLICIES, run_policy
from benchmarks.gpu_parts.end_to_end import Bench
from benchmarks.gpu_parts.equality import check_equality
from benchmarks.gpu_parts.hardware_tests import SUITES, run_suites
from benchmarks.gpu_parts.kernel import KernelBench
from benchmarks.gpu_parts.model import describe, random_model, random_module
from benchmarks.gpu_parts.peer import NAME as PEER
from benchmarks.gpu_parts.peer import run_peer
from benchmarks.gpu_parts.records import Machine, Record, Recorder, versions
from benchmarks.gpu_parts.sizes import Runs, Sizes, real_sizes, smoke_sizes
from benchmarks.gpu_parts.table import table
from benchmarks.gpu_parts.tune import tune
from benchmarks.runner import say
from benchmarks.workloads import Workload, make_workload
from shoal.attention import AttentionBackend, select_backend
from shoal.attention.reference import ReferenceAttention
from shoal.model.description import ModelDescription
from shoal.model.hook import ATTENTION_NAME
from shoal.scheduler import BLOCK_SIZE

KERNEL_SHARE = 0.3
"""Most of the time left that the kernel part takes when whole workloads are to follow."""
PEER_SECONDS = 45.0
"""Kept for the outside peer."""
AMPLE_SHARE = 0.75
"""Of the memory the model leaves free, for KV."""


@dataclass(frozen=True)
class Choice:
    """What is run of what there is.

    Attributes:
        parts: of `PARTS` in `benchmarks.gpu`.
        workloads, policies: of end-to-end; none: all.
        fuse: see `random_model`.
    """

    parts: Sequence[str]
    workloads: Sequence[str] = ()
    policies: Sequence[str] = ()
    fuse: bool = True

    def cells(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that are chosen, with the policies that are."""
        return [
            replace(cell, policies=tuple(p for p in cell.policies if self._takes(p)))
            for cell in cells
            if not self.workloads or cell.workload in self.workloads
        ]

    def _takes(self, policy: str) -> bool:
        return not self.policies or policy in self.policies


class Session:
    """Runs parts and records what they find."""

    def __init__(
        self,
        seconds: float,
        results: Path | None,
        smoke: bool,
        known: Sequence[Record] = (),
    ) -> None:
        """Begin.

        Args:
            seconds: most time to take.
            results: the folder records go to; None: none.
            smoke: tiny sizes on the CPU; otherwise torch must see a CUDA device.
            known: what an earlier run found on this device, which is not measured again.
        """
        self._deadline = Deadline(seconds)
        self._device = torch.device("cpu" if smoke else "cuda")
        if smoke and importlib.util.find_spec("triton") is not None:
            from tests.helpers.interpreter import mend_interpreter

            mend_interpreter()
        self._sizes: Sizes = smoke_sizes() if smoke else real_sizes()
        self._recorder = Recorder(Machine.of(self._device, smoke), results, known)
        self._recorder.add("machine", **self._machine())

    def run(self, choice: Choice) -> None:
        """Run what is chosen, in the order of `PARTS`, and print a table of it."""
        parts, sizes = set(choice.parts), self._sizes
        if "tests" in parts:
            run_suites(SUITES, self._recorder, self._deadline)
        if "equality" in parts:
            models = sizes.equality_models
            check_equality(models, self._device, self._recorder, self._deadline, choice.fuse)
        if {"ceilings", "tune", "kernel", "end-to-end", "monkeys"} & parts:
            self._record_ceilings()
        if "tune" in parts:
            tune(
                sizes.trials,
                sizes.dtype,
                self._device,
                self._watch,
                self._ceilings,
                self._recorder,
                self._deadline,
            )
        if "kernel" in parts:
            self._run_kernel(KERNEL_SHARE if "end-to-end" in parts else 1.0)
        if "end-to-end" in parts:
            self._run_workloads(sizes.workloads, choice, peer="peer" in parts)
        if "monkeys" in parts:
            self._run_workloads(sizes.monkeys, Choice((), fuse=choice.fuse), peer=False)
        say(f"done, {self._deadline.left:.0f} s of the time limit left")
        say(table(self._recorder.records))

    @cached_property
    def _watch(self) -> Stopwatch:
        return stopwatch(self._device)

    @cached_property
    def _ceilings(self) -> Ceilings:
        sizes, known = self._sizes, self._recorder.known("ceilings")
        if known is not None:
            return read_ceilings(known)
        with torch.inference_mode():
            return measure_ceilings(
                sizes.workloads.shape,
                self._device,
                sizes.dtype,
                self._watch,
                sizes.copy_bytes,
                sizes.square,
                sizes.rows,
            )

    def _record_ceilings(self) -> None:
        if not self._recorder.knows("ceilings"):
            self._recorder.add("ceilings", **self._ceilings.record())

    def _run_kernel(self, share: float) -> None:
        sizes = self._sizes
        bench = KernelBench(
            kernel_backend(self._device, sizes),
            sizes.heads,
            sizes.dtype,
            self._device,
            self._watch,
            self._ceilings,
        )
        limit = self._deadline.within(share * self._deadline.left)
        bench.run(sizes.kernel_shapes, self._recorder, limit)
        self._free()

    def _run_workloads(self, runs: Runs, choice: Choice, peer: bool) -> None:
        sizes, device = self._sizes, self._device
        say(f"making {runs.model} in the memory of {device}")
        description = describe(runs.model, runs.shape, sizes.dtype, device)
        model = random_model(description, choice.fuse)
        self._recorder.add("model", model=runs.model, fused=model.fused)
        block_bytes = BLOCK_SIZE * description.kv_bytes_per_token
        bench = Bench(
            description,
            model,
            runs.shape,
            self._ceilings,
            sizes.ample_blocks or int(AMPLE_SHARE * self._free_bytes()) // block_bytes,
            self._recorder,
            runs.scale,
            sizes.token_budget,
            runs.most_times,
        )
        left = self._deadline.left
        kept = min(PEER_SECONDS, left / 2) if peer else 0.0
        bench.run(choice.cells(runs.cells), self._deadline.within(left - kept))
        if peer:
            self._run_peer(bench, description)
        bench.close()
        del model, bench
        self._free()

    def _run_peer(self, bench: Bench, description: ModelDescription) -> None:
        """A few requests of shared-2k through ours, then through transformers' own batching."""
        if self._deadline.left < PEER_SECONDS / 2:
            self._recorder.add("peer", skipped=[PEER], reason="no time left")
            return
        workload, warm_up = (self._few(seed) for seed in (2, 3))
        common = {
            "workload": f"{len(workload.prompts)} requests of shared-2k",
            "model": self._sizes.workloads.model,
            "tokens": workload.generated_tokens,
        }
        try:
            engine = bench.any_engine()
            for small in (warm_up, workload):
                ours = run_policy(engine, POLICIES[OURS], small, lambda: None, None)
            self._recorder.add("peer", policy=OURS, seconds=ours.seconds, **common)
            del engine
            bench.close()
            # Of the same weights, with all modules its own.
            module = random_module(
                description.config, description.dtype, self._device, ATTENTION_NAME
            )
            seconds, ids = run_peer(module, workload, warm_up, self._sizes.peer_limits)
            equal = sum(a[0] == b for a, b in zip(ours.token_ids, ids, strict=True))
            figures = {"ratio": seconds / ours.seconds, "equal_answers": equal}
            self._recorder.add("peer", policy=PEER, seconds=seconds, **figures, **common)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:500]
            self._recorder.add("peer", policy=PEER, error=reason, **common)

    def _few(self, seed: int) -> Workload:
        runs, count = self._sizes.workloads, self._sizes.peer_requests
        whole = make_workload("shared-2k", runs.shape.vocabulary, runs.scale, seed)
        return replace(whole, prompts=whole.prompts[:count], outputs=whole.outputs[:count])

    def _machine(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"versions": versions()}
        if self._device.type == "cuda":
            properties = torch.cuda.get_device_properties(self._device)
            facts["memory_bytes"] = properties.total_memory
            facts["multiprocessors"] = properties.multi_processor_count
        return facts

    def _free(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _free_bytes(self) -> int:
        self._free()
        free, _ = torch.cuda.mem_get_info(self._device)
        return int(free)


def kernel_backend(device: torch.device, sizes: Sizes) -> AttentionBackend:
    """The kernel to time; on a CPU the same one under Triton's interpreter, if Triton is there."""
    heads = sizes.heads
    if device.type == "cuda":
        layer = (heads.kv_heads, heads.dim, heads.dim)
        return select_backend(sizes.dtype, device, [layer])
    if importlib.util.find_spec("triton") is None:
        return ReferenceAttention()
    from shoal.attention.triton import TritonAttention

    return TritonAttention()
