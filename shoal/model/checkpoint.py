"""Whether a checkpoint's tensors are those of the model that is made from them."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from shoal.errors import ModelLoadError, UnsupportedModelError
from shoal.model.model_files import find_file, read_object, reason

SHOWN = 3
"""Names of tensors in a message."""

_NUMBERS = {"F64", "F32", "F16", "BF16"}
"""Formats that weights are stored in unless they are quantised."""

_log = logging.getLogger(__name__)


class LoadReport(logging.Filter):
    """Keeps transformers' table of what did not fit, which would go to the terminal."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let through everything else."""
        message = record.getMessage()
        if "LOAD REPORT" not in message:
            return True
        self.text = message
        return False

    @property
    def unconverted(self) -> list[str]:
        """Tensors that could not be made from those of the checkpoint, as experts are."""
        rows = (line.split("|") for line in self.text.splitlines() if "CONVERSION" in line)
        return [row[0].strip() for row in rows if len(row) > 1]


@contextmanager
def kept_report() -> Iterator[LoadReport]:
    """Keep the table in this block."""
    logger, report = logging.getLogger("transformers.modeling_utils"), LoadReport()
    logger.addFilter(report)
    try:
        yield report
    finally:
        logger.removeFilter(report)


def check_files(source: str, *, quantized: bool = False) -> None:
    """Read the headers of the safetensors files of a folder or Hub id.

    Args:
        quantized: its config says in which format its weights are quantised.

    Raises:
        ModelLoadError: a file is missing, cut short or no safetensors file.
        UnsupportedModelError: its weights are quantised, and no config says how.
    """
    unsaid: dict[str, str] = {}
    for path in _weight_files(source):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (it has no __iter__)
                    stored = str(file.get_slice(name).get_dtype())
                    if not quantized and name.endswith(".weight") and stored not in _NUMBERS:
                        unsaid[name] = stored
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelLoadError(
                f"{path.name} of {source!r} is damaged or cut short: {reason(error)}. Copy the "
                "file again."
            ) from error
    if unsaid:
        formats = ", ".join(sorted(set(unsaid.values())))
        raise UnsupportedModelError(
            "quantised checkpoint",
            f"weights of {source!r} are stored as {formats} ({_some(sorted(unsaid))}), so they "
            "are quantised, and config.json has no quantization_config that says how. Copy it "
            "again.",
        )


def _weight_files(source: str) -> list[Path]:
    """The safetensors files that transformers reads; none where it reads others."""
    whole = find_file(source, "model.safetensors")
    if whole is not None:
        return [whole]
    index = "model.safetensors.index.json"
    listed = read_object(source, index)
    if listed is None:
        return []
    files = listed.get("weight_map")
    usable = isinstance(files, dict) and all(isinstance(file, str) for file in files.values())
    if not files or not usable or not isinstance(listed.get("metadata"), dict):
        raise ModelLoadError(
            f"{index} of {source!r} lacks metadata, or a weight_map of names to files. Copy the "
            "file again."
        )
    paths = {name: find_file(source, name) for name in sorted(set(files.values()))}
    absent = [name for name, path in paths.items() if path is None]
    if absent:
        raise ModelLoadError(
            f"{source!r} lacks {len(absent)} of its {len(paths)} weight files: {_some(absent)}. "
            "Copy them too."
        )
    return [path for path in paths.values() if path is not None]


def check_loaded(
    module: torch.nn.Module, info: dict[str, Any], source: str, without_towers: bool = False
) -> None:
    """Refuse a model that is not made of its checkpoint alone; name what was not used.

    Args:
        info: transformers' loading info. Tied weights and buffers made anew are not in it.
        without_towers: the model was to be its language model alone.

    Raises:
        ModelLoadError: tensors are missing or misshaped, or there are some that belong to modules
            of the model but have no place there.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    wrong = []
    if missing:
        wrong.append(f"{_count(missing)} missing ({_some(missing)})")
    if info["mismatched_keys"]:
        shapes = [
            f"{name} {tuple(found)} for {tuple(wanted)}"
            for name, found, wanted in sorted(info["mismatched_keys"])
        ]
        wrong.append(f"{_count(shapes)} of a wrong shape ({_some(shapes)})")
    if wrong and unexpected:
        wrong.append(f"{_count(unexpected)} unknown ({_some(unexpected)})")
    homeless = [name for name in unexpected if _belongs(module, name)]
    if not wrong and homeless:
        wrong.append(f"{_count(homeless)} without a place ({_some(homeless)})")
    if wrong:
        raise misfit(source, "; ".join(wrong))
    if unexpected and without_towers:
        _log.info(
            "only text is read; tensors that do not belong to its language model: %s",
            _parts(module, unexpected),
        )
    elif unexpected:
        _log.warning(
            "tensors of the checkpoint that the model does not use: %s", _parts(module, unexpected)
        )


def misfit(source: str, what: str) -> ModelLoadError:
    """The error of a checkpoint that does not fit its config."""
    return ModelLoadError(
        f"the weights of {source!r} do not fit its config.json: {what}. Copy config.json and all "
        "weight files again, from one revision."
    )


def _belongs(module: torch.nn.Module, name: str) -> bool:
    """Whether a tensor would lie beside parameters of the model, as a bias or a scale does."""
    parent = _submodule(module, name.rpartition(".")[0])
    return parent is not None and any(True for _ in parent.parameters(recurse=False))


def _submodule(module: torch.nn.Module, name: str) -> torch.nn.Module | None:
    """A part of the model, under its name or that in a checkpoint of the model without its head."""
    for path in (name, f"{getattr(module, 'base_model_prefix', '')}.{name}"):
        try:
            return module.get_submodule(path)
        except AttributeError:
            continue
    return None


def _parts(module: torch.nn.Module, names: Iterable[str]) -> str:
    """Tensors by the part of a model they belong to, with how many there are."""
    counts: Counter[str] = Counter()
    for name in names:
        steps = name.split(".")
        depths = range(1, len(steps))
        known = (_submodule(module, ".".join(steps[:depth])) is not None for depth in depths)
        depth = next((d for d, there in zip(depths, known, strict=True) if not there), len(steps))
        counts[re.sub(r"(?<=\.)\d+(?=\.)", "*", ".".join(steps[:depth]))] += 1
    return _some([f"{part} ({count})" for part, count in counts.items()])


def _count(names: Sequence[str]) -> str:
    return f"{len(names):,} tensor{'s are' if len(names) > 1 else ' is'}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
