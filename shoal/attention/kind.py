"""What a layer asks of its attention beyond a softmax over all earlier tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shoal.work import Window


@dataclass(frozen=True, eq=False)
class AttentionKind:
    """A layer's attention; the default is plain attention over all earlier tokens.

    Attributes:
        window: a row at position p sees the keys at positions above p - window only, at least 1.
        softcap: scores z become softcap * tanh(z / softcap), above 0.
        sinks: [heads], any dtype: for each query head one more score in the softmax, whose weight
            goes to no value.
        chunk: a row at position p sees the keys from position p - p % chunk on only, at least 1.
            Not with a window.
    """

    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None
    chunk: int | None = None

    @property
    def sight(self) -> Window | None:
        """What it hides of earlier keys; None: nothing."""
        if self.chunk is not None:
            return Window(self.chunk, chunked=True)
        return None if self.window is None else Window(self.window)

    def within(self, tokens: int) -> AttentionKind:
        """The same for sequences of at most so many tokens: a window as long hides nothing."""
        if self.sight is None or self.sight.tokens < tokens:
            return self
        return AttentionKind(None, self.softcap, self.sinks)


PLAIN = AttentionKind()
