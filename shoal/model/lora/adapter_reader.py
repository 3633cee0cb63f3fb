"""Reads adapters and checks that each fits the model, before any weight is loaded."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import PurePath

from transformers import PreTrainedConfig

from shoal.errors import ModelLoadError
from shoal.model.lora.adapter_file import AdapterFile, matrix_of, tensor_name
from shoal.model.lora.base_linears import Shape, base_linears
from shoal.model.lora.held_format import HeldFormat
from shoal.model.lora.lora_config import LoraConfig
from shoal.types import Adapter

_log = logging.getLogger(__name__)


class AdapterReader:
    """Reads adapters for one model."""

    def __init__(
        self,
        config: PreTrainedConfig,
        name: str,
        held: HeldFormat,
        *,
        trusted: bool = False,
    ) -> None:
        """`name`: of the model; `held`: how its adapters are."""
        self._model, self._held = name, held
        self._linears = base_linears(config, trusted=trusted)
        self._kind = config.model_type

    def read(self, name: str, path: str) -> Adapter:
        """The adapter in a folder.

        Raises:
            ModelLoadError: it cannot be read, asks for something that is not applied, or does not
                fit the model.
        """
        file = AdapterFile.read(name, path)
        config, stored = LoraConfig.read(name, file.config), file.stored()
        shapes = {tensor: each.shape for tensor, each in stored.items()}
        matrices = {tensor: matrix_of(tensor) for tensor in shapes}
        other = [tensor for tensor, matrix in matrices.items() if matrix is None]
        if other:
            raise ModelLoadError(
                f"adapter {name!r} holds {other[0]!r}, which is no matrix of a linear layer. Merge "
                "it into its model (peft's merge_and_unload), and run that model."
            )
        modules = {matrix[0] for matrix in matrices.values() if matrix is not None}
        self._check_modules(config, modules)
        for module in sorted(modules):
            self._check_shapes(config, module, shapes)
        self._note_base(config)
        numbers = sum(first * second for first, second in shapes.values())
        dtype = self._held.of_adapter([each.dtype for each in stored.values()])
        return Adapter(name, path, file.digest, numbers * dtype.itemsize)

    def _check_modules(self, config: LoraConfig, modules: Collection[str]) -> None:
        unknown = sorted(set(modules) - self._linears.keys())
        if unknown:
            raise self._misfit(
                config, f"it changes {unknown[0]!r}, which is no linear layer of a layer of it"
            )
        targets = config.targets(self._linears)
        if missing := sorted(targets - set(modules)):
            raise ModelLoadError(
                f"adapter {config.name!r} lacks the matrices of {len(missing)} of the "
                f"{len(targets)} modules that its target_modules name, {missing[0]!r} among them. "
                "Copy its files again, or save it again."
            )
        if surplus := sorted(set(modules) - targets):
            raise ModelLoadError(
                f"adapter {config.name!r} holds matrices of {surplus[0]!r}, which its "
                "target_modules do not name. Copy its files again, or save it again."
            )
        if not modules:
            raise ModelLoadError(f"adapter {config.name!r} holds no matrix: save it again.")

    def _check_shapes(
        self, config: LoraConfig, module: str, shapes: dict[str, tuple[int, ...]]
    ) -> None:
        outputs, inputs = self._linears[module]
        rank = config.rank(module)
        expected: dict[str, Shape] = {"A": (rank, inputs), "B": (outputs, rank)}
        for matrix, shape in expected.items():
            tensor = tensor_name(module, matrix)
            if tensor not in shapes:
                raise ModelLoadError(
                    f"adapter {config.name!r} lacks the tensor {tensor!r}. Copy its files again."
                )
            if shapes[tensor] == shape:
                continue
            found = list(shapes[tensor])
            if len(found) == 2 and found[matrix == "B"] != rank:
                raise ModelLoadError(
                    f"adapter {config.name!r}: {tensor!r} is {found}, which is not of rank {rank}, "
                    "as adapter_config.json says. Copy both files of one adapter."
                )
            raise self._misfit(config, f"{tensor!r} is {found}, and {list(shape)} would fit")

    def _misfit(self, config: LoraConfig, what: str) -> ModelLoadError:
        trained = f"was trained on {config.base!r} and " if config.base else ""
        return ModelLoadError(
            f"adapter {config.name!r} {trained}does not fit {self._model!r} ({self._kind}): {what}."
            " Run it with its own model."
        )

    def _note_base(self, config: LoraConfig) -> None:
        trained = PurePath(config.base).name
        if trained and trained != PurePath(self._model).name:
            _log.warning(
                "adapter %r was trained on %r; the model that runs is %r, of the same shape",
                config.name,
                config.base,
                self._model,
            )
