"""The states' memory: of every layer one tensor for convolutions, one for the recurrence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import torch

RECURRENT_DTYPE = torch.float32
"""As transformers keeps recurrent states, whatever the model's dtype."""


@dataclass(frozen=True)
class StateShape:
    """One layer's state.

    Attributes:
        conv: (earlier tokens, channels) that its convolution reads.
        recurrent: of what its recurrence carries over; None: it has none.
    """

    conv: tuple[int, int] | None = None
    recurrent: tuple[int, ...] | None = None

    def nbytes(self, dtype: torch.dtype) -> int:
        """Bytes of one state of a model in `dtype`."""
        conv = 0 if self.conv is None else prod(self.conv) * dtype.itemsize
        recurrent = 0 if self.recurrent is None else prod(self.recurrent)
        return conv + recurrent * RECURRENT_DTYPE.itemsize

    def with_part(self, **parts: tuple[int, ...]) -> StateShape:
        """The shape with one of its parts."""
        return replace(self, **parts)  # type: ignore[arg-type]


@dataclass(frozen=True)
class LayerStates:
    """One layer's memory.

    Attributes:
        conv: [slots + 1, earlier tokens, channels], in the model's dtype.
        recurrent: [slots + 1, ...], float32.

    The last slot is nobody's: the state before a first token.
    """

    conv: torch.Tensor | None
    recurrent: torch.Tensor | None

    @classmethod
    def allocate(
        cls, shape: StateShape, num_slots: int, dtype: torch.dtype, device: torch.device
    ) -> LayerStates:
        """Memory for so many states, all zero."""
        conv = recurrent = None
        if shape.conv is not None:
            conv = torch.zeros(num_slots + 1, *shape.conv, dtype=dtype, device=device)
        if shape.recurrent is not None:
            recurrent = torch.zeros(
                num_slots + 1, *shape.recurrent, dtype=RECURRENT_DTYPE, device=device
            )
        return cls(conv, recurrent)


class StateMemory:
    """The states of all layers that have one, in slots handed out by the scheduler."""

    def __init__(
        self,
        shapes: Mapping[int, StateShape],
        num_slots: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`shapes`: by layer index."""
        self.num_slots = num_slots
        self._layers = {
            layer: LayerStates.allocate(shape, num_slots, dtype, device)
            for layer, shape in shapes.items()
        }

    def __getitem__(self, layer: int) -> LayerStates:
        return self._layers[layer]
