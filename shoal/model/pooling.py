"""What a model gives where it does not generate: vectors, classes or scores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from shoal.config import PoolingType
from shoal.errors import ModelLoadError, OptionError, UnsupportedModelError
from shoal.model.model_files import find_file, read_object, reason

YES_OR_NO = ("no", "yes")
"""What a causal model is asked of a pair of texts, as Qwen3-Reranker is: the second says yes."""

_POOLING_MODES = {"lasttoken": PoolingType.last, "mean": PoolingType.mean}
"""Of sentence-transformers; the others are refused."""


class Task(StrEnum):
    """What is asked of a model that does not generate."""

    embed = "embed"
    classify = "classify"
    score = "score"


class PoolingActivation(StrEnum):
    """What is made of the numbers that a head gives."""

    none = "none"
    normalize = "normalize"
    sigmoid = "sigmoid"
    softmax = "softmax"


@dataclass(frozen=True)
class AskedPooling:
    """What is asked of a pooling model; what is None its files say.

    Attributes:
        required: False: a model whose files do not call it one generates.
        tokens: vLLM's `classifier_from_token`: the tokens of no and yes, or one that is scored.
    """

    task: Task | None = None
    type: PoolingType = PoolingType.auto
    use_activation: bool | None = None
    tokens: tuple[str, ...] | None = None
    required: bool = True


@dataclass(frozen=True)
class Pooling:
    """How a prompt's vector is made.

    Attributes:
        task: `embed`, or `classify` where a head gives logits, of classes or of yes and no.
        type: `last` or `mean`: of which rows.
        width: numbers the model gives per prompt.
        activation: what is made of them, unless `use_activation` is False.
        labels: of a classification head.
        tokens: the output head has these tokens alone: no and yes, or one that is scored.
        dimensions: to which vectors may be cut; empty: to any.
        declared: whether the model's files say that it gives embeddings.
        padding: the token that a classification head passes over where a prompt ends with it, as
            transformers' does: a prompt ends before it.
    """

    task: Task
    type: PoolingType
    width: int
    activation: PoolingActivation
    use_activation: bool = True
    labels: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    dimensions: tuple[int, ...] = ()
    declared: bool = False
    padding: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What of it changes results."""
        return {"task": self.task.value, "pooling_type": self.type.value, "tokens": [*self.tokens]}


@dataclass(frozen=True)
class _Modules:
    """What sentence-transformers makes of the model: modules.json, and what it names.

    Attributes:
        type: of its pooling; None: it has none.
        normalizes: whether vectors get length 1.
        tokens: ids of no and yes, or of one that is scored.
    """

    type: PoolingType | None
    normalizes: bool
    tokens: tuple[int, ...]


def pooling_of(
    source: str,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    asked: AskedPooling,
) -> Pooling | None:
    """What a folder or Hub id gives of a prompt; None: it generates, and nothing else is asked.

    Raises:
        ModelLoadError: a file of sentence-transformers cannot be read.
        UnsupportedModelError: the model cannot do what is asked, or its files ask for more.
        OptionError: the pooling asked for is not that of a classification head.
    """
    modules = _read_modules(source)
    named = asked.tokens or getattr(config, "classifier_from_token", None)
    tokens = _token_ids(tuple(named), tokenizer) if named else ()
    if not tokens and modules is not None:
        tokens = modules.tokens
    embeds = modules is not None and modules.type is not None
    has_head = any(
        name.endswith("ForSequenceClassification") for name in config.architectures or ()
    )
    task = asked.task
    if task is None:
        if not (has_head or tokens or embeds or asked.required):
            return None
        task = Task.classify if has_head or tokens else Task.embed
    if task is Task.score:
        task = Task.embed if embeds and not (has_head or tokens) else Task.classify
        if task is Task.classify and not (has_head or tokens):
            tokens = _token_ids(YES_OR_NO, tokenizer)
    if task is Task.embed:
        if has_head:
            raise UnsupportedModelError(
                "embeddings",
                f"{source!r} has a classification head: it gives classes or scores. For "
                "embeddings use a model without one.",
            )
        return _embedding(config, modules, asked)
    return _classification(source, config, asked, has_head, tokens)


def _embedding(config: PreTrainedConfig, modules: _Modules | None, asked: AskedPooling) -> Pooling:
    own = modules.type if modules is not None and modules.type is not None else PoolingType.last
    normalizes = modules is None or modules.type is None or modules.normalizes
    return Pooling(
        task=Task.embed,
        type=own if asked.type is PoolingType.auto else asked.type,
        width=int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size),
        activation=PoolingActivation.normalize,
        use_activation=normalizes if asked.use_activation is None else asked.use_activation,
        dimensions=tuple(getattr(config, "matryoshka_dimensions", None) or ()),
        declared=modules is not None and modules.type is not None,
    )


def _classification(
    source: str,
    config: PreTrainedConfig,
    asked: AskedPooling,
    has_head: bool,
    tokens: tuple[int, ...],
) -> Pooling:
    if asked.type is PoolingType.mean:
        raise OptionError("pooling_type mean: classes and scores are read at the last token.")
    if not has_head and not tokens:
        raise UnsupportedModelError(
            "classification",
            f"{source!r} has no classification head: its config.json names no architecture "
            "...ForSequenceClassification. Use a model that has one.",
        )
    labels = _labels(config) if has_head else ()
    return Pooling(
        task=Task.classify,
        type=PoolingType.last,
        width=len(labels) or len(tokens),
        activation=_activation(config, source, len(labels)),
        use_activation=asked.use_activation is not False,
        labels=labels,
        tokens=() if has_head else tokens,
        padding=getattr(config, "pad_token_id", None) if has_head else None,
    )


def _labels(config: PreTrainedConfig) -> tuple[str, ...]:
    """The names of classes, in the order of the head."""
    names: dict[Any, Any] = config.id2label or {}
    return tuple(str(names[number]) for number in sorted(names))


def _activation(config: PreTrainedConfig, source: str, classes: int) -> PoolingActivation:
    """As vLLM chooses it: by the problem, then by what sentence-transformers says."""
    if not classes:
        return PoolingActivation.sigmoid
    problem = getattr(config, "problem_type", None)
    by_number = PoolingActivation.softmax if classes > 1 else PoolingActivation.sigmoid
    if problem == "regression":
        return PoolingActivation.none
    if problem == "multi_label_classification":
        return PoolingActivation.sigmoid
    if problem == "single_label_classification":
        return by_number
    stated = getattr(config, "sentence_transformers", None) or {}
    function = stated.get("activation_fn") if isinstance(stated, dict) else None
    function = function or getattr(config, "sbert_ce_default_activation_function", None)
    kind = str(function).rpartition(".")[2] if function else "Sigmoid"
    if kind == "Identity":
        return PoolingActivation.none
    if kind not in ("Sigmoid", "Softmax"):
        raise UnsupportedModelError(
            "activation function",
            f"config.json of {source!r} asks for {function}; only Identity, Sigmoid and Softmax "
            "are known. Change it, or use another model.",
        )
    return by_number


def _token_ids(
    names: tuple[str, ...], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[int, ...]:
    """The ids of tokens that stand for no and yes."""
    if tokenizer is None:
        raise UnsupportedModelError(
            "scores of yes and no", "a model without a tokenizer has no tokens of that name."
        )
    ids = []
    for name in names:
        found: Any = tokenizer.convert_tokens_to_ids(name)
        if found is None or (found == tokenizer.unk_token_id and name != tokenizer.unk_token):
            raise UnsupportedModelError(
                "scores of yes and no",
                f"the tokenizer has no token {name!r}, so pairs of texts cannot be scored by it. "
                "Use a reranker, or a model with a classification head.",
            )
        ids.append(int(found))
    return tuple(ids)


def _read_modules(source: str) -> _Modules | None:
    path = find_file(source, "modules.json")
    if path is None:
        return None
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        parts = [(str(part["type"]).rpartition(".")[2], str(part["path"])) for part in listed]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelLoadError(
            f"modules.json in {source!r} cannot be read: {reason(error)}. Copy the file again."
        ) from error
    pooling, normalizes, tokens = None, False, tuple[int, ...]()
    for kind, folder in parts:
        if kind == "Pooling":
            pooling = _pooling_type(source, f"{folder}/config.json")
        elif kind == "Normalize":
            normalizes = True
        elif kind == "LogitScore":
            tokens = _scored_tokens(source, f"{folder}/config.json")
        elif kind != "Transformer":
            raise UnsupportedModelError(
                f"a module {kind}",
                f"modules.json of {source!r} puts a module {kind} behind the model, which Shoal "
                "does not know; vectors without it would be others. Use another model.",
            )
    return _Modules(pooling, normalizes, tokens)


def _pooling_type(source: str, name: str) -> PoolingType:
    stated = read_object(source, name) or {}
    prefix = "pooling_mode_"
    modes = [key.removeprefix(prefix) for key, on in stated.items() if on is True]
    modes = [mode.removesuffix("_tokens") for mode in modes if mode != "include_prompt"]
    if isinstance(stated.get("pooling_mode"), str):
        modes = [stated["pooling_mode"]]
    if len(modes) != 1 or modes[0] not in _POOLING_MODES:
        asked = f"pooling {' and '.join(modes) or 'of no kind'}"
        raise UnsupportedModelError(
            asked,
            f"{name} of {source!r} asks for {asked}; Shoal knows the last token's vector "
            "(lasttoken) and the mean (mean). Use another model.",
        )
    return _POOLING_MODES[modes[0]]


def _scored_tokens(source: str, name: str) -> tuple[int, ...]:
    stated = read_object(source, name) or {}
    ids = [stated.get("false_token_id"), stated.get("true_token_id")]
    if type(ids[1]) is not int:
        raise ModelLoadError(f"{name} of {source!r} names no true_token_id. Copy the file again.")
    return tuple(token for token in ids if token is not None)
