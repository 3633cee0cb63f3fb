"""LoRA adapters as requests name them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in a folder, read and found to fit the model.

    Attributes:
        name: what requests call it.
        path: its folder.
        digest: of its files; it changes when they do.
        num_bytes: that its weights take in memory while it is in use.
    """

    name: str
    path: str
    digest: str
    num_bytes: int


BASE_MODEL = -1
"""In a column of adapters: the model as it is."""
