"""The adapters of a run: loaded before their first user, dropped after their last."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from shoal.errors import ModelLoadError, UnsupportedModelError
from shoal.model.lora.adapted_products import (
    AdaptedProducts,
    Addition,
    ProductAdapter,
    Slice,
    Weights,
)
from shoal.model.lora.adapter_file import AdapterFile, matrix_of, tensor_name
from shoal.model.lora.lora_config import LoraConfig
from shoal.scheduler import AdapterRows
from shoal.types import BASE_MODEL, Adapter, Int64Array

_log = logging.getLogger(__name__)


class RunAdapters:
    """Has those in memory that the scheduler says may be, and applies them to a batch's rows."""

    def __init__(
        self,
        products: AdaptedProducts,
        adapters: Sequence[Adapter],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`dtype`: that weights are held in."""
        self._products, self._adapters = products, adapters
        self._dtype, self._device = dtype, device
        self._weights: dict[int, Weights] = {}

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
        slices = {total: _slices(rows.adapter, rows.starts)}
        if wanted is not None:
            slices[len(wanted)] = _slices(rows.adapter, np.searchsorted(wanted, rows.starts))
        return self._products.applied(slices, self._weights)

    def _load(self, rows: AdapterRows) -> None:
        """Drop those that may not be in memory any more, then read what is missing."""
        for adapter in self._weights.keys() - set(rows.resident):
            del self._weights[adapter]
        for adapter in rows.adapter.tolist():
            if adapter != BASE_MODEL and adapter not in self._weights:
                self._weights[adapter] = self._read(self._adapters[adapter])

    def _read(self, adapter: Adapter) -> Weights:
        file = AdapterFile.read(adapter.name, adapter.path)
        if file.digest != adapter.digest:
            raise ModelLoadError(
                f"adapter {adapter.name!r} in {adapter.path!r} changed since the job was planned. "
                "Put it back as it was, or start over."
            )
        config, tensors = LoraConfig.read(adapter.name, file.config), file.tensors()
        modules = sorted({found[0] for found in map(matrix_of, tensors) if found is not None})
        of_product: dict[int, list[tuple[int, str]]] = {}
        for module in modules:
            if module not in self._products.places:
                raise UnsupportedModelError(
                    "adapters of this layer",
                    f"adapter {adapter.name!r} changes {module!r}, which is computed in a way that "
                    "adapters cannot be added to. Merge it into its model.",
                )
            for place in self._products.places[module]:
                of_product.setdefault(place.product, []).append((place.column, module))
        return {
            product: self._part(sorted(parts), config, tensors)
            for product, parts in of_product.items()
        }

    def _part(
        self, parts: list[tuple[int, str]], config: LoraConfig, tensors: dict[str, torch.Tensor]
    ) -> ProductAdapter:
        """`parts`: columns and names of the linear layers in one product."""
        low, additions, first = [], [], 0
        for column, module in parts:
            low.append(tensors[tensor_name(module, "A")].to(self._dtype))
            high = tensors[tensor_name(module, "B")].float() * config.scale(module)
            matrix = high.T.contiguous().to(self._device, self._dtype)
            additions.append(Addition(first, first + len(matrix), column, matrix))
            first += len(matrix)
        return ProductAdapter(torch.cat(low).to(self._device), tuple(additions))


def _slices(adapter: Int64Array, starts: Int64Array) -> list[Slice]:
    """Runs of rows that have an adapter, empty ones left out."""
    runs = zip(adapter.tolist(), starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    return [(each, begin, end) for each, begin, end in runs if each != BASE_MODEL and begin < end]
