"""What chooses a token for each row of logits on a device, without being read back.

On CUDA that is Triton kernels, which read logits where they are. Elsewhere it is torch, which
copies the rows it works on: the same rule, in a form that needs no GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from shoal.sampling.choose import UNSOUND
from shoal.sampling.draw import Kinds, Rest, draw, sort_all
from shoal.sampling.row_group import Chooser, RowGroup


@dataclass(frozen=True)
class TorchChooser:
    """On any device, with copies of the rows.

    Attributes:
        rest: what draws for rows whose likeliest candidates do not suffice.
    """

    rest: Rest = sort_all
    in_place: bool = False

    def __call__(self, logits: torch.Tensor, group: RowGroup, tokens: torch.Tensor) -> None:
        """See `Chooser`."""
        picked = logits.index_select(0, group.rows)
        best = picked.max(dim=-1)
        found, sound = best.indices, best.values.isfinite()
        if group.drawn:
            hot = group.params.temperature > 0
            params = replace(
                group.params, temperature=torch.where(hot, group.params.temperature, 1.0)
            )
            truncated = torch.arange(len(picked) if group.ranked else 0, device=picked.device)
            # Whatever is drawn for a row without numbers is a token, and not used.
            picked = torch.where(sound[:, None], picked.float(), 0.0)
            drawn = draw(picked, params, Kinds(group.min_p, truncated), self.rest)
            found = torch.where(hot, drawn, found)
        tokens.index_copy_(0, group.samples, torch.where(sound, found, UNSOUND))


def chooser_for(device: torch.device) -> Chooser:
    """What chooses tokens on a device, without reading back."""
    if device.type != "cuda" or find_spec("triton") is None:
        return TorchChooser()
    from shoal.sampling.triton_chooser import TritonChooser

    return TritonChooser()
