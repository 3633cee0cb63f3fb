"""The adapters of a run: loaded before their first user, dropped after their last."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from shoal.errors import ModelLoadError, UnsupportedModelError
from shoal.kernels.lora import AdapterSlices
from shoal.model.lora.adapted_products import AdaptedProducts
from shoal.model.lora.adapter_file import AdapterFile, matrix_of, tensor_name
from shoal.model.lora.adapter_matrices import LinearAdapter
from shoal.model.lora.lora_config import LoraConfig
from shoal.scheduler import AdapterRows
from shoal.types import BASE_MODEL, Adapter, Int64Array

_log = logging.getLogger(__name__)


class RunAdapters:
    """Has those in memory that the scheduler says may be, and applies them to a batch's rows."""

    def __init__(self, products: AdaptedProducts, adapters: Sequence[Adapter]) -> None:
        self._products, self._adapters = products, adapters
        self._held: dict[int, Any] = {}

    def applied(
        self, rows: AdapterRows | None, wanted: Int64Array | None
    ) -> AbstractContextManager[None]:
        """A block in which a batch's products have what adapters add.

        Args:
            wanted: int64 [R], ascending, the rows that the last layer computes; None: all.

        Raises:
            ModelLoadError: an adapter cannot be read any more, or is another than at planning.
        """
        if rows is None:
            return nullcontext()
        self._load(rows)
        total = int(rows.starts[-1])
        used = {each: n for n, each in enumerate(set(rows.adapter.tolist()) - {BASE_MODEL})}
        number = np.array([used.get(each, BASE_MODEL) for each in rows.adapter.tolist()])
        slices = {total: _slices(number, rows.starts)}
        if wanted is not None:
            slices[len(wanted)] = _slices(number, np.searchsorted(wanted, rows.starts))
        return self._products.applied(slices, [self._held[each] for each in used])

    def _load(self, rows: AdapterRows) -> None:
        """Drop those that may not be in memory any more, then read what is missing."""
        for adapter in self._held.keys() - set(rows.resident):
            del self._held[adapter]
        for adapter in rows.adapter.tolist():
            if adapter != BASE_MODEL and adapter not in self._held:
                self._held[adapter] = self._read(self._adapters[adapter])

    def _read(self, adapter: Adapter) -> Any:
        file = AdapterFile.read(adapter.name, adapter.path)
        if file.digest != adapter.digest:
            raise ModelLoadError(
                f"adapter {adapter.name!r} in {adapter.path!r} changed since the job was planned. "
                "Put it back as it was, or start over."
            )
        config, tensors = LoraConfig.read(adapter.name, file.config), file.tensors()
        modules = {found[0] for found in map(matrix_of, tensors) if found is not None}
        linears: list[LinearAdapter] = []
        for module in modules:
            if module not in self._products.places:
                raise UnsupportedModelError(
                    "adapters of this layer",
                    f"adapter {adapter.name!r} changes {module!r}, which is computed in a way that "
                    "adapters cannot be added to. Merge it into its model.",
                )
            a, b = (tensors[tensor_name(module, matrix)] for matrix in "AB")
            scale = config.scale(module)
            linears += [LinearAdapter(p, a, b, scale) for p in self._products.places[module]]
        dtype = self._products.held.of_adapter([each.dtype for each in tensors.values()])
        # In the order in which a batch comes by them.
        return self._products.additions.hold(sorted(linears, key=lambda each: each.place), dtype)


def _slices(adapter: Int64Array, starts: Int64Array) -> AdapterSlices:
    """Runs of rows that have an adapter, empty ones left out."""
    begin, end = starts[:-1], starts[1:]
    taken = (adapter != BASE_MODEL) & (begin < end)
    return AdapterSlices(
        adapter[taken].astype(np.int32), begin[taken].astype(np.int64), end[taken].astype(np.int64)
    )
