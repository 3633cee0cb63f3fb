"""Lets transformers check the activation that a config names without importing what computes it.

Its check of a config's fields asks a table in `transformers.activations`. With that module come
torch's compiler, Triton and distributed tensors: 1.8 seconds of a processor, beside the 3.2 that
planning a small job takes without it. transformers 5.23 has no switch against it: `type_validators`
imports the table at its top wherever torch is installed, and USE_TORCH=0 changes nothing. So the
module is given another table while it is imported. The check is its own, and a name that is not
common is looked up where transformers has it.
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
    A transformers that needs more of it raises ImportError. Then nothing is done, and the checks
    are imported later as they are: slower, and the same. `tests/test_imports.py` sees it.
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
