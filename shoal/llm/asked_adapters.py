"""The adapters that a call from Python asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from shoal.config import EngineOptions
from shoal.errors import OptionError
from shoal.llm.lora_request import LoRARequest
from shoal.model.description import ModelDescription
from shoal.model.lora.adapter_catalogue import check_budget
from shoal.model.lora.adapter_reader import AdapterReader
from shoal.model.lora.held_format import HeldFormat
from shoal.types import BASE_MODEL, Adapter, RequestTable

Loras: TypeAlias = LoRARequest | Sequence[LoRARequest | None] | None
"""For all prompts, or one for each; None: the model as it is."""


class AskedAdapters:
    """Reads the adapters of calls; each is read anew, since files may have changed."""

    def __init__(self, description: ModelDescription, options: EngineOptions) -> None:
        self._description, self._budget = description, options.lora_bytes
        self._reader: AdapterReader | None = None

    def applied(self, asked: Loras, table: RequestTable, count: int) -> RequestTable:
        """The table with the adapters of its requests.

        Args:
            asked: as given to a call of `count` prompts; line i of the table is prompt i.

        Raises:
            OptionError: adapters are not enabled, not as many as prompts, or something else.
            ModelLoadError: one cannot be read, or does not fit the model.
        """
        if asked is None:
            return table
        each = [asked] * count if isinstance(asked, LoRARequest) else list(asked)
        if len(each) != count:
            raise OptionError(f"{len(each)} lora_requests for {count} prompts")
        numbers: dict[LoRARequest, int] = {}
        column = np.full(count, BASE_MODEL, dtype=np.int32)
        for index, request in enumerate(each):
            if request is None:
                continue
            if not isinstance(request, LoRARequest):
                raise OptionError(f"lora_request must be a LoRARequest, not {request!r:.80}.")
            column[index] = numbers.setdefault(request, len(numbers))
        adapter = column[table.line]
        if not numbers or (adapter == BASE_MODEL).all():
            return table
        adapters = tuple(self._read(request) for request in numbers)
        return replace(table, adapters=adapters, adapter=adapter)

    def _read(self, request: LoRARequest) -> Adapter:
        if not self._budget:
            raise OptionError(
                "lora_request: this LLM was made without memory for adapters; give "
                "LLM(..., enable_lora=True)."
            )
        if self._reader is None:
            model = self._description
            self._reader = AdapterReader(
                model.config,
                model.id,
                HeldFormat.of(model.dtype, model.device),
                trusted=model.trust_remote_code,
            )
        adapter = self._reader.read(request.lora_name, request.lora_path)
        check_budget(adapter, self._budget)
        return adapter
