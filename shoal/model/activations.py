"""Lets transformers check the activation that a config names without importing what computes it.

Its check of a config's fields asks a table in `transformers.activations`. With that module come
torch's compiler and distributed tensors: two seconds, most of what planning a small job takes.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextlib import suppress
from types import ModuleType

_TABLE = "transformers.activations"
_CHECKS = "transformers.utils.type_validators"
COMMON = frozenset(
    ("gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "relu", "relu2", "silu", "swish")
)
"""Activations of nearly all models; other names are looked up where transformers keeps them."""


class _Activations:
    """What the check asks of the table."""

    def __contains__(self, name: object) -> bool:
        return name in COMMON or name in self.keys()

    def __len__(self) -> int:
        return len(COMMON)

    def keys(self) -> Collection[str]:
        """All names there are."""
        from transformers.activations import ACT2FN

        names: Collection[str] = ACT2FN.keys()
        return names


def check_activations_by_name() -> None:
    """Has an effect in a process that has not imported transformers' checks yet.

    The module of the checks is imported with a stand-in for the table, which is gone afterwards.
    Where this transformers needs more of it, the checks are imported as they are.
    """
    if _CHECKS in sys.modules or _TABLE in sys.modules:
        return
    stand_in = ModuleType(_TABLE)
    stand_in.ACT2FN = _Activations()  # type: ignore[attr-defined]
    sys.modules[_TABLE] = stand_in
    try:
        with suppress(ImportError):
            import transformers.utils.type_validators  # noqa: F401
    finally:
        del sys.modules[_TABLE]
