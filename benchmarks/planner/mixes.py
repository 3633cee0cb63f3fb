"""Jobs to put in order: synthetic mixes and the shapes of `benchmarks.workloads`, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.workloads import SPECS, make_workload
from shoal.types import RequestParams, RequestTable

_SEED = 20_260
VOCABULARY = 32_000
_LONGEST = 4096


@dataclass(frozen=True)
class Family:
    """Requests that share a prefix. Lengths are in tokens, `own` and `output` medians.

    `spread` is the standard deviation of the logarithms of own and output lengths.
    """

    requests: int
    prefix: int
    own: int
    output: int
    spread: float = 0.0


def _decode_and_prefill() -> Iterator[Family]:
    """Two kinds of templates: half of them write much, half of them read much."""
    for _ in range(8):
        yield Family(400, 256, 64, 384, 0.3)
        yield Family(400, 1024, 1024, 8, 0.3)


def _heavy_tails() -> Iterator[Family]:
    """Prompts and answers with heavy tails, in groups of 1 to 256."""
    for i in range(200):
        yield Family(2 ** (i % 9), 300, 150, 100, 1.2)


def _tiny_and_huge() -> Iterator[Family]:
    """Two huge templates, one that writes and one that reads, and many requests in pairs."""
    yield Family(2000, 512, 64, 384, 0.3)
    yield Family(2000, 512, 1024, 8, 0.3)
    for _ in range(1000):
        yield Family(2, 128, 200, 100, 0.8)


MIXES: dict[str, Callable[[], Iterator[Family]]] = {
    "decode + prefill": _decode_and_prefill,
    "heavy tails": _heavy_tails,
    "tiny + huge": _tiny_and_huge,
}


def mix_table(name: str) -> RequestTable:
    """A mix of `MIXES` in random order."""
    random = np.random.default_rng([_SEED, *name.encode()])
    prompts: list[np.ndarray] = []
    outputs: list[int] = []
    for family in MIXES[name]():
        prefix = random.integers(3, VOCABULARY, family.prefix, dtype=np.int32)
        for _ in range(family.requests):
            own, output = (
                int(np.clip(median * np.exp(family.spread * random.standard_normal()), 1, _LONGEST))
                for median in (family.own, family.output)
            )
            tokens = random.integers(3, VOCABULARY, own, dtype=np.int32)
            prompts.append(np.concatenate([prefix, tokens]))
            outputs.append(output)
    order = random.permutation(len(prompts)).tolist()
    return _table([prompts[i] for i in order], [outputs[i] for i in order], 1)


def workload_table(name: str) -> RequestTable:
    """A workload of `benchmarks.workloads` at its full size."""
    workload = make_workload(name, VOCABULARY)
    prompts = [np.array(prompt, dtype=np.int32) for prompt in workload.prompts]
    return _table(prompts, workload.outputs, workload.n)


def tables() -> Iterator[tuple[str, RequestTable]]:
    """All of them."""
    for name in SPECS:
        yield name, workload_table(name)
    for name in MIXES:
        yield name, mix_table(name)


def _table(prompts: list[np.ndarray], outputs: list[int], choices: int) -> RequestTable:
    count = len(prompts)
    limits = np.array(outputs, dtype=np.int32)
    return RequestTable(
        tokens=np.concatenate(prompts),
        offsets=np.append(0, np.cumsum([len(prompt) for prompt in prompts])).astype(np.int64),
        params=[RequestParams(n=choices)],
        params_index=np.zeros(count, dtype=np.int32),
        max_new_tokens=limits,
        expected_new_tokens=limits,
        seeds=np.zeros(count, dtype=np.int64),
        has_seed=np.zeros(count, dtype=np.bool_),
        line=np.arange(count, dtype=np.int64),
    )
