"""What is run end to end: workloads, KV memory, policies, the most telling first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.workloads import MONKEYS, Workload, common_prefixes
from shoal.scheduler import BLOCK_SIZE

MOST_TIMES = 32
"""How many times as many groups as on the CPU, if time allows."""
_ALL = ("shoal", "sorted-lru", "paper", "fcfs-lru")
_WIDER = (*_ALL, "sorted-lru-1024")


@dataclass(frozen=True)
class Cell:
    """One workload under several policies, in the same KV memory.

    Attributes:
        tight: half of the distinct prompt tokens fit the KV memory; otherwise all of it is used.
        profiled: whether some of our iterations are looked at from inside, after the runs.
    """

    workload: str
    tight: bool = False
    policies: tuple[str, ...] = _ALL
    profiled: bool = False

    @property
    def name(self) -> str:
        """For records."""
        return f"{self.workload}, tight KV" if self.tight else self.workload


CELLS = (
    Cell("tight-2k", tight=True, policies=_WIDER, profiled=True),
    Cell("shared-2k", policies=_WIDER, profiled=True),
    Cell("wide-2k"),
    Cell("mixed"),
    Cell("tree"),
    Cell("none"),
    Cell("n-best"),
    Cell("shared-2k", tight=True),
)

MONKEYS_CELLS = (Cell(MONKEYS, policies=("shoal",), profiled=True),)
MONKEYS_TIMES = 128
"""Times one problem: the whole published workload."""


def tight_blocks(workload: Workload) -> int:
    """KV blocks for half of the distinct prompt tokens, and at least for eight long requests."""
    prompts = workload.sorted().prompts
    shared = [0, *common_prefixes(prompts)]
    distinct = sum(len(p) - s for p, s in zip(prompts, shared, strict=True))
    longest = max(map(len, prompts)) + max(workload.outputs)
    return max(distinct // 2, 8 * longest) // BLOCK_SIZE + 1


def how_often(expected: float, share: float, left: float, most: int = MOST_TIMES) -> int:
    """How many times as many groups to run; 0 if not even once fits.

    Args:
        expected: seconds that all policies together take at 1.
        share: seconds meant for this cell.
        left: seconds there are at all.
        most: not more often than this.
    """
    if expected > left:
        return 0
    return max(1, min(most, int(share / max(expected, 1e-9))))


def affordable(policies: Sequence[str], expect: Callable[[str], float], left: float) -> list[str]:
    """The first policies whose runs together fit `left` seconds."""
    chosen: list[str] = []
    for policy in policies:
        left -= expect(policy)
        if left < 0:
            break
        chosen.append(policy)
    return chosen
