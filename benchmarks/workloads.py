"""The seven workloads: token ids, shuffled, the same on every machine."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Tokens = list[int]
Lengths = int | tuple[int, int]
"""A length in tokens, or the least and the most of uniformly random ones."""

SEED = 20_260
SPECIAL_IDS = 10
"""Prompts keep clear of the lowest ids, where special tokens are."""


@dataclass(frozen=True)
class Group:
    """`groups` prefixes, each with `branches` longer prefixes, each with `requests` requests.

    Lengths are in tokens; the prefix of a request has `prefix` tokens, then its branch's.
    """

    groups: int
    requests: int
    prefix: int
    own: Lengths
    output: Lengths
    branches: int = 1
    branch_prefix: int = 0


@dataclass(frozen=True)
class Spec:
    """What a workload is made of, and what it shows."""

    shows: str
    parts: tuple[Group, ...]
    n: int = 1
    temperature: float = 0.0


SPECS = {
    "shared-2k": Spec("decode attention over a shared prefix", (Group(8, 32, 2048, 64, 64),)),
    "wide-2k": Spec("prefill-bound sharing", (Group(32, 8, 2048, 64, 64),)),
    "tight-2k": Spec("prefixes exceed the KV memory", (Group(64, 8, 2048, 64, 32),)),
    "none": Spec("no sharing", (Group(256, 1, 0, (100, 512), (32, 128)),)),
    "tree": Spec("two levels of sharing", (Group(4, 8, 1024, 64, 64, 8, 512),)),
    "mixed": Spec(
        "ordering and token batching",
        (Group(8, 12, 256, 32, 256), Group(8, 12, 2048, 256, 8)),
    ),
    "n-best": Spec("parallel samples of one prompt", (Group(16, 1, 512, 0, 128),), 16, 1.0),
}
WINDOW_SPECS = {
    "gemma-shape": Spec("windows of 1,024 in 5 of 6 layers", (Group(8, 32, 4096, 64, 64),)),
    "hybrid-shape": Spec("gated delta rules in 3 of 4 layers", (Group(8, 32, 1024, 64, 64),)),
    "gptoss-shape": Spec("windows of 128 in every second layer", (Group(8, 32, 4096, 64, 64),)),
}
"""Each for the model of its name."""
MONKEYS = "monkeys"
GPU_SPECS = {
    MONKEYS: Spec("very many samples of few prompts", (Group(1, 1, 715, 0, 700),), 1024, 0.6),
}
"""Too large for a CPU. `monkeys` times 128 has the sizes of the benchmark that Tokasaurus published
(`standalone_monkeys_gsm8k.py` of its repository): 128 problems of GSM8K, each behind four solved
ones of its own, 1,024 samples each at temperature 0.6. A run of Modal's copy of it counted 91,574
prompt tokens and 91,941,963 generated ones, hence the lengths."""


@dataclass(frozen=True)
class Workload:
    """Requests to run, in the order they come.

    Attributes:
        prompts: token ids of each request.
        outputs: tokens to generate for each choice of each request.
        n: choices per request.
        temperature: 0 is greedy.
        starts: where nothing is generated: from which token on each prompt is scored.
    """

    name: str
    prompts: list[Tokens]
    outputs: list[int]
    n: int = 1
    temperature: float = 0.0
    starts: list[int] | None = None

    @property
    def generated_tokens(self) -> int:
        """Tokens of all choices."""
        return self.n * sum(self.outputs)

    @property
    def counted_tokens(self) -> int:
        """Those generated; where prompts are scored, those of the prompts as asked for."""
        return self.generated_tokens if self.starts is None else sum(map(len, self.prompts))

    def sorted(self) -> Workload:
        """The same requests in the order of their token ids, so that prefixes are neighbours."""
        order = sorted(range(len(self.prompts)), key=self.prompts.__getitem__)
        return Workload(
            self.name,
            [self.prompts[i] for i in order],
            [self.outputs[i] for i in order],
            self.n,
            self.temperature,
            None if self.starts is None else [self.starts[i] for i in order],
        )


def make_workload(
    name: str, vocabulary: int, scale: float = 1.0, seed: int = SEED, times: int = 1
) -> Workload:
    """A workload of `SPECS`, `WINDOW_SPECS` or `GPU_SPECS`.

    Args:
        vocabulary: ids are below it.
        scale: multiplies every count and every length, none falls below 1. For smoke tests and
            warm-up; only scale 1 is the workload.
        seed: another seed gives other tokens and another order.
        times: multiplies the groups, and so the requests; what they share stays as it is.
    """
    return make_generation(
        name, (SPECS | WINDOW_SPECS | GPU_SPECS)[name], vocabulary, scale, seed, times
    )


def make_generation(
    name: str, spec: Spec, vocabulary: int, scale: float, seed: int, times: int = 1
) -> Workload:
    """The requests of a `Spec`, shuffled; arguments as for `make_workload`."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    prompts: list[Tokens] = []
    outputs: list[int] = []
    for part in spec.parts:
        for _ in range(times):
            for prompt, output in _requests(part, vocabulary, scale, rng):
                prompts.append(prompt)
                outputs.append(output)
    order = rng.permutation(len(prompts)).tolist()
    return Workload(
        name,
        [prompts[i] for i in order],
        [outputs[i] for i in order],
        scaled(spec.n, scale),
        spec.temperature,
    )


def _requests(
    part: Group, vocabulary: int, scale: float, rng: np.random.Generator
) -> list[tuple[Tokens, int]]:
    def tokens(count: int) -> Tokens:
        ids: Tokens = rng.integers(SPECIAL_IDS, vocabulary, count).tolist()
        return ids

    def drawn(lengths: Lengths) -> int:
        low, high = lengths if isinstance(lengths, tuple) else (lengths, lengths)
        return int(rng.integers(scaled(low, scale), scaled(high, scale) + 1))

    requests = []
    for _ in range(scaled(part.groups, scale)):
        prefix = tokens(scaled(part.prefix, scale))
        for _ in range(scaled(part.branches, scale)):
            branch = prefix + tokens(scaled(part.branch_prefix, scale))
            requests += [
                (branch + tokens(drawn(part.own)), drawn(part.output))
                for _ in range(scaled(part.requests, scale))
            ]
    return requests


def scaled(value: int, scale: float) -> int:
    """`value` times `scale`, rounded, at least 1; 0 stays 0."""
    return max(1, round(value * scale)) if value else 0


def common_prefixes(prompts: list[Tokens]) -> list[int]:
    """Tokens that each prompt but the first shares with the one before it."""
    return [common_prefix(before, prompt) for before, prompt in pairwise(prompts)]


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Tokens that two sequences begin with together."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])
