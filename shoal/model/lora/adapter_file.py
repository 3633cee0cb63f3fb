"""An adapter's folder: its two files, and the names and shapes of its tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from shoal.errors import ModelLoadError
from shoal.model.lora.lora_config import CONFIG_FILE

WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SUFFIXES = {".lora_A.weight": "A", ".lora_B.weight": "B"}
_FORMATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class StoredTensor(NamedTuple):
    """A tensor in a file; `dtype`: None, where it is none that weights usually have."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None


@dataclass(frozen=True)
class AdapterFile:
    """The bytes of an adapter's files.

    Attributes:
        config: what its adapter_config.json says.
        digest: of both files.
    """

    name: str
    path: str
    config: Mapping[str, Any]
    digest: str
    _weights: bytes

    @classmethod
    def read(cls, name: str, path: str) -> AdapterFile:
        """Read a folder.

        Raises:
            ModelLoadError: a file is missing, or cannot be read.
        """
        folder = Path(path)
        text = _content(name, folder, CONFIG_FILE)
        try:
            config = json.loads(text)
        except (ValueError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise ModelLoadError(
                f"{CONFIG_FILE} of adapter {name!r} in {path!r} is no JSON object. Copy it again."
            )
        weights = _content(name, folder, WEIGHTS_FILE)
        # Not BLAKE2, as elsewhere: processors have instructions for SHA-256.
        digest = hashlib.sha256(text)
        digest.update(weights)
        return cls(name, path, config, digest.hexdigest(), weights)

    def stored(self) -> dict[str, StoredTensor]:
        """What every tensor is, by its name in the file; of the numbers only the end is looked for.

        The format: https://huggingface.co/docs/safetensors, a length, so much JSON, the numbers.
        """
        start = 8 + int.from_bytes(self._weights[:8], "little")
        try:
            header = json.loads(self._weights[8:start])
            header.pop("__metadata__", None)
            stored = {
                name: StoredTensor(tuple(map(int, each["shape"])), _FORMATS.get(each["dtype"]))
                for name, each in header.items()
            }
            ends = [int(each["data_offsets"][1]) for each in header.values()]
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            raise self._broken() from None
        if start + max(ends, default=0) != len(self._weights):
            raise self._broken()
        return stored

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor, by its name in the file."""
        try:
            return load(self._weights)
        except SafetensorError:
            raise self._broken() from None

    def _broken(self) -> ModelLoadError:
        return ModelLoadError(
            f"{WEIGHTS_FILE} of adapter {self.name!r} in {self.path!r} is torn or no safetensors "
            "file. Copy it again."
        )


def matrix_of(tensor: str) -> tuple[str, str] | None:
    """The module that a tensor is for, and which matrix it is, `A` or `B`; None: another thing."""
    for suffix, matrix in _SUFFIXES.items():
        if tensor.startswith(_PREFIX) and tensor.endswith(suffix):
            return tensor[len(_PREFIX) : -len(suffix)], matrix
    return None


def tensor_name(module: str, matrix: str) -> str:
    """The inverse of `matrix_of`."""
    return f"{_PREFIX}{module}.lora_{matrix}.weight"


def _content(name: str, folder: Path, file: str) -> bytes:
    try:
        return (folder / file).read_bytes()
    except FileNotFoundError:
        older = file == WEIGHTS_FILE and (folder / "adapter_model.bin").exists()
        remedy = (
            "there is adapter_model.bin, which is not read: save it anew (save_pretrained)."
            if older
            else "give the folder that peft's save_pretrained wrote."
        )
        raise ModelLoadError(
            f"adapter {name!r}: there is no {file} in {str(folder)!r}; {remedy}"
        ) from None
    except OSError as error:
        raise ModelLoadError(
            f"adapter {name!r}: {file} in {str(folder)!r} cannot be read: {error.strerror}."
        ) from error
