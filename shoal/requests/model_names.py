"""What `body.model` may say: a name of the model that runs, or of an adapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from shoal.errors import InvalidRequestError
from shoal.prompts.refusals import kind_of, missing, shown, wrong_value
from shoal.types import BASE_MODEL, Adapter

ANY_MODEL = "*"
"""A served name that accepts every `body.model`."""
_MOST_NAMES = 20
"""Names that a refusal lists."""


class ModelNames:
    """The names of one job.

    Args:
        names: of the model; `*` accepts anything that names no adapter.
        adapters: that lines may name.
    """

    def __init__(self, names: Collection[str], adapters: Sequence[Adapter] = ()) -> None:
        self._names = frozenset(names)
        self._numbers = {adapter.name: number for number, adapter in enumerate(adapters)}

    def adapter_of(self, body: Mapping[str, Any]) -> int:
        """The number of the adapter that a body asks for; `BASE_MODEL`: none.

        Where there are adapters the model need not be named: without a name it is the model itself.

        Raises:
            InvalidRequestError: it names no model, or another.
        """
        model = body.get("model")
        if model is None:
            if self._numbers:
                return BASE_MODEL
            raise missing("body.model")
        if not isinstance(model, str):
            raise wrong_value("body.model", f"must be a string, not {kind_of(model)}")
        if model in self._numbers:
            return self._numbers[model]
        if model not in self._names and ANY_MODEL not in self._names:
            raise self._unknown(model)
        return BASE_MODEL

    def _unknown(self, model: str) -> InvalidRequestError:
        names = ", ".join(repr(name) for name in sorted(self._names))
        adapters = sorted(self._numbers)
        listed = ", ".join(repr(name) for name in adapters[:_MOST_NAMES])
        more = f" and {len(adapters) - _MOST_NAMES} more" if len(adapters) > _MOST_NAMES else ""
        also = f"; adapters are {listed}{more}" if adapters else ""
        return InvalidRequestError(
            f"body.model {shown(model)} is not the model that runs, which goes by {names}{also}; "
            "accept another name with --served-model-name, or give an adapter with --lora.",
            code="model_not_found",
            param="body.model",
        )
