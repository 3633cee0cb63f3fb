"""What the options of `LLM` say about a model that does not generate: vLLM's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from shoal.config import PoolingType
from shoal.errors import OptionError
from shoal.model.pooling import AskedPooling, Task
from shoal.types import PoolerConfig

_TASKS: dict[str, Task | None] = {
    "auto": None,
    "none": None,
    "embed": Task.embed,
    "embedding": Task.embed,
    "classify": Task.classify,
    "score": Task.score,
}
_TYPES = {"LAST": PoolingType.last, "MEAN": PoolingType.mean}
_OVERRIDES = ("classifier_from_token", "method", "is_original_qwen3_reranker", "is_matryoshka")
_RUNNERS = ("auto", "generate", "pooling")


def asked_pooling(options: Mapping[str, Any]) -> tuple[AskedPooling | None, PoolerConfig]:
    """What `runner`, `task`, `convert`, `pooler_config` and `hf_overrides` ask for.

    Returns:
        None for a model that is to generate; and the pooler's configuration.

    Raises:
        OptionError: a value that is not known, or two that do not go together.
    """
    runner, task = options.get("runner") or "auto", options.get("task") or "auto"
    if runner not in _RUNNERS:
        raise OptionError(f"runner must be one of {', '.join(_RUNNERS)}; not {runner!r}.")
    generates = "generate" in (runner, task)
    task = _task("task", "auto" if task == "generate" else task)
    convert = _task("convert", options.get("convert") or "auto")
    pooler = _pooler(options.get("pooler_config") or options.get("override_pooler_config"))
    tokens = _overridden(options.get("hf_overrides") or {})
    wanted = task or convert
    asked = wanted is not None or tokens is not None or pooler != PoolerConfig()
    if generates and (asked or runner == "pooling"):
        raise OptionError(
            "a model generates or gives vectors, not both: leave runner, task, convert and "
            "pooler_config to one of them."
        )
    if generates:
        return None, pooler
    return AskedPooling(
        task=wanted,
        type=_type_of(pooler),
        use_activation=pooler.use_activation,
        tokens=tokens,
        required=asked or runner == "pooling",
    ), pooler


def _task(name: str, value: Any) -> Task | None:
    if value not in _TASKS:
        raise OptionError(f"{name}={value!r} is not supported. Give embed, classify or score.")
    return _TASKS[value]


def _pooler(given: Any) -> PoolerConfig:
    """A `PoolerConfig`, a mapping, or an object with the same attributes, such as vLLM's own."""
    if given is None or isinstance(given, PoolerConfig):
        return given or PoolerConfig()
    values = dict(given) if isinstance(given, Mapping) else dict(vars(given))
    known = {each.name for each in fields(PoolerConfig)}
    harmless = (None, False) if isinstance(given, Mapping) else (None, False, True)
    for name, value in values.items():
        if name not in known and value not in harmless:
            raise OptionError(
                f"pooler_config: {name} is not supported; it may have {', '.join(sorted(known))}."
            )
    return PoolerConfig(**{name: value for name, value in values.items() if name in known})


def _type_of(pooler: PoolerConfig) -> PoolingType:
    name = pooler.pooling_type or pooler.seq_pooling_type
    if name is None:
        return PoolingType.auto
    if str(name).upper() not in _TYPES:
        raise OptionError(f"pooler_config: pooling_type must be LAST or MEAN, not {name!r}.")
    return _TYPES[str(name).upper()]


def _overridden(given: Any) -> tuple[str, ...] | None:
    """The tokens that vLLM makes a classifier from, of an original reranker."""
    for name in given:
        if name not in (*_OVERRIDES, "architectures"):
            raise OptionError(
                f"hf_overrides: {name} is not supported. Change the files in the model's folder."
            )
    tokens = given.get("classifier_from_token")
    if tokens is None:
        if given.get("architectures") or given.get("method"):
            raise OptionError("hf_overrides: architectures and method need classifier_from_token.")
        return None
    if isinstance(tokens, str) or len(tokens) not in (1, 2):
        raise OptionError("hf_overrides: classifier_from_token must be one token, or no and yes.")
    return tuple(map(str, tokens))
