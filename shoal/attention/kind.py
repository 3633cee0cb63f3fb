"""What a layer asks of its attention beyond a softmax over all earlier tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class AttentionKind:
    """A layer's attention; the default is plain attention over all earlier tokens.

    Attributes:
        window: a row at position p sees the keys at positions above p - window only, at least 1.
        softcap: scores z become softcap * tanh(z / softcap), above 0.
        sinks: [heads], any dtype: for each query head one more score in the softmax, whose weight
            goes to no value.
    """

    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    def within(self, tokens: int) -> AttentionKind:
        """The same for sequences of at most so many tokens: a window as long hides nothing."""
        if self.window is None or self.window < tokens:
            return self
        return AttentionKind(None, self.softcap, self.sinks)


PLAIN = AttentionKind()
