"""What the weight files of a quantised checkpoint hold, read off their headers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16}
"""Of a number; 8 for all others."""

_FLOATS = {"F64", "F32", "F16", "BF16"}

_PARAMETER = re.compile(r"(\._?weight.*|_(blocks|scales))$")
"""The end of a tensor's name, behind its module's."""


@dataclass(frozen=True)
class StoredWeights:
    """What is stored.

    Attributes:
        total_bytes: of all tensors.
        layer_bytes: of those that are no embedding and no output head.
        kinds: last parts of the names of the modules that are stored quantised.
        modules: how many there are of them.
    """

    total_bytes: int
    layer_bytes: int
    kinds: tuple[str, ...]
    modules: int

    def __str__(self) -> str:
        size = f"{self.total_bytes / 2**20:,.1f} MiB as stored"
        return f"{size}, {self.modules:,} modules of it quantised ({', '.join(self.kinds)})"


def stored_weights(source: str, vocab_size: int) -> StoredWeights | None:
    """Read the headers of the safetensors files of a folder, or of a Hub id that was downloaded.

    Args:
        vocab_size: the first size of embeddings and output heads.

    Returns:
        None if the files are not here, or cannot be read.
    """
    total = layers = 0
    modules: set[str] = set()
    try:
        for path in _files(source):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (it has no __iter__)
                    stored = file.get_slice(name)
                    shape, dtype = stored.get_shape(), str(stored.get_dtype())
                    size = math.prod(shape) * _BITS.get(dtype, 8) // 8
                    total += size
                    if not shape or shape[0] != vocab_size:
                        layers += size
                    if len(shape) > 1 and dtype not in _FLOATS:
                        modules.add(_PARAMETER.sub("", name))
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError):
        # What is damaged is refused where weights are read.
        return None
    kinds = tuple(sorted({name.rpartition(".")[2] for name in modules}))
    return StoredWeights(total, layers, kinds, len(modules)) if total else None


def _files(source: str) -> Iterator[Path]:
    whole = _local(source, "model.safetensors")
    if whole is not None:
        yield whole
        return
    index = _local(source, "model.safetensors.index.json")
    names = {} if index is None else json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    for name in sorted(set(names.values())):
        path = _local(source, str(name))
        if path is None:
            raise FileNotFoundError(name)
        yield path


def _local(source: str, name: str) -> Path | None:
    """A file that needs no download."""
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    found = try_to_load_from_cache(source, name)
    return Path(found) if isinstance(found, str) else None
