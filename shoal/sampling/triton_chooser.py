"""Launches the kernels that choose tokens on a GPU: one for a whole group of rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from shoal.sampling.draw_kernel import draw_plain
from shoal.sampling.ranked_kernel import draw_ranked
from shoal.sampling.row_group import RowGroup

WARPS = 8


@dataclass(frozen=True)
class TritonChooser:
    """The `Chooser` for a GPU.

    Attributes:
        plain_block, ranked_block: tokens of a row that a program works on at once, powers of two.
            With those of the default two programs for ranked rows fit a Hopper multiprocessor.
        room: candidates that a program can list; 8 bytes each.
        candidates: how many of them it works on at once, a power of two.
        programs: most programs for ranked rows; more of them than run at once bring nothing.
    """

    plain_block: int = 4096
    ranked_block: int = 2048
    room: int = 2048
    candidates: int = 1024
    programs: int = 1024
    in_place: bool = True

    def __call__(self, logits: torch.Tensor, group: RowGroup, tokens: torch.Tensor) -> None:
        """See `Chooser`."""
        if logits.stride(-1) != 1:
            logits = logits.contiguous()
        if group.ranked:
            self._ranked(logits, group, tokens)
        else:
            self._plain(logits, group, tokens)

    def _plain(self, logits: torch.Tensor, group: RowGroup, tokens: torch.Tensor) -> None:
        params = group.params
        draw_plain[(len(group.rows),)](
            logits,
            logits.stride(0),
            logits.shape[1],
            group.rows,
            group.samples,
            params.temperature,
            params.min_p,
            params.uniforms,
            tokens,
            BLOCK=self.plain_block,
            BLOCKS=_blocks(logits.shape[1], self.plain_block),
            num_warps=WARPS,
        )

    def _ranked(self, logits: torch.Tensor, group: RowGroup, tokens: torch.Tensor) -> None:
        params, programs = group.params, min(len(group.rows), self.programs)
        lists = torch.empty(programs, self.room, dtype=torch.int64, device=logits.device)
        draw_ranked[(programs,)](
            logits,
            logits.stride(0),
            logits.shape[1],
            group.rows,
            group.samples,
            params.temperature,
            params.min_p,
            params.top_k,
            params.top_p,
            params.uniforms,
            tokens,
            lists,
            len(group.rows),
            BLOCK=self.ranked_block,
            BLOCKS=_blocks(logits.shape[1], self.ranked_block),
            ROOM=self.room,
            PASS=self.candidates,
            num_warps=WARPS,
        )


def _blocks(vocab: int, block: int) -> int:
    blocks: int = triton.next_power_of_2(triton.cdiv(vocab, block))
    return blocks
