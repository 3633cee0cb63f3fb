"""The arithmetic a workload cannot do without, counted exactly.

Each distinct prompt prefix is computed once; each generated token but a choice's last is fed back.
Of a prompt that is scored the last token is only looked up, and the others are computed. A token
attends to itself and to all tokens before it; in a gated delta rule it changes a state once, by the
recurrence: a form in chunks computes more. Not counted are attention with a window, norms,
activations, softmax and sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.models import ModelShape
from benchmarks.workloads import Workload, common_prefixes


@dataclass(frozen=True)
class Work:
    """Counts over a whole workload.

    Attributes:
        prompt_tokens: prompt tokens as asked for, once for each request.
        distinct_prompt_tokens: those left when each distinct prefix is computed once.
        fed_tokens: generated tokens that are fed back.
        head_positions: positions whose logits are needed; the choices of a prompt share the first,
            and so do scored prompts as far as they are the same.
        attention_pairs: (query, key) pairs, over one layer and one head.
    """

    prompt_tokens: int
    distinct_prompt_tokens: int
    fed_tokens: int
    head_positions: int
    attention_pairs: int


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, a multiplication and an addition counted as two."""

    linear: int
    attention: int
    recurrence: int
    head: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.linear + self.attention + self.recurrence + self.head


def count_work(workload: Workload) -> Work:
    """Count a workload's positions and attention pairs."""
    if workload.starts is not None:
        return _count_scores(workload, workload.starts)
    ordered = workload.sorted().prompts
    shared = [0, *common_prefixes(ordered)]
    distinct = sum(len(p) - s for p, s in zip(ordered, shared, strict=True))
    pairs = sum(_triangle(len(p)) - _triangle(s) for p, s in zip(ordered, shared, strict=True))
    ends = sum(a != b for a, b in zip(ordered, [*ordered[1:], None], strict=True))
    fed = 0
    for prompt, output in zip(workload.prompts, workload.outputs, strict=True):
        fed += workload.n * (output - 1)
        pairs += workload.n * (_triangle(len(prompt) + output - 1) - _triangle(len(prompt)))
    return Work(
        prompt_tokens=sum(map(len, ordered)),
        distinct_prompt_tokens=distinct,
        fed_tokens=fed,
        head_positions=ends + fed,
        attention_pairs=pairs,
    )


def _count_scores(workload: Workload, starts: list[int]) -> Work:
    inputs = sorted(prompt[:-1] for prompt in workload.prompts)
    shared = [0, *common_prefixes(inputs)]
    rows = {
        tuple(prompt[:end])
        for prompt, start in zip(workload.prompts, starts, strict=True)
        for end in range(start, len(prompt))
    }
    return Work(
        prompt_tokens=sum(map(len, workload.prompts)),
        distinct_prompt_tokens=sum(len(p) - s for p, s in zip(inputs, shared, strict=True)),
        fed_tokens=0,
        head_positions=len(rows),
        attention_pairs=sum(
            _triangle(len(p)) - _triangle(s) for p, s in zip(inputs, shared, strict=True)
        ),
    )


def count_flops(work: Work, shape: ModelShape) -> Flops:
    """What the counted work costs on a model.

    Every layer is counted for every token, the last one too, where an engine could leave out
    prompt positions nobody samples from.
    """
    tokens = work.distinct_prompt_tokens + work.fed_tokens
    return Flops(
        linear=2 * tokens * shape.linear_parameters,
        attention=4 * work.attention_pairs * shape.full_layers * shape.heads * shape.head_dim,
        recurrence=tokens * shape.recurrence_flops,
        head=2 * work.head_positions * shape.hidden * shape.vocabulary,
    )


def _triangle(tokens: int) -> int:
    """Pairs of a causal prompt: 1 + 2 + ... + tokens."""
    return tokens * (tokens + 1) // 2
