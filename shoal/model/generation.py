"""What a model's generation_config.json asks for: honoured, without effect, or refused by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.errors import InvalidRequestError, ModelLoadError, UnsupportedModelError
from shoal.model.model_files import read_object
from shoal.types import RequestParams

GENERATION_CONFIG = "generation_config.json"

_ONLY_SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
_ONLY_SAMPLING |= {"min_p": "min_p"}
_DEFAULTS = _ONLY_SAMPLING | {
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "stop_strings": "stop",
}
"""Fields that become defaults of requests, and their names in `RequestParams`."""

_REFUSED: dict[str, tuple[object, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "max_time": (),
    "min_length": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": (),
}
"""Fields that change what is generated, and are not honoured; and the values that do nothing."""

_WITHOUT_EFFECT = frozenset(
    {
        # What else only beams, an encoder, an assistant or an empty prompt would read.
        *("early_stopping", "length_penalty", "diversity_penalty", "low_memory"),
        *("decoder_start_token_id", "bos_token_id", "pad_token_id"),
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
        *("assistant_ensemble_weight", "target_lookbehind", "speculation_type", "use_mtp"),
        *("prompt_lookup_num_tokens", "max_matching_ngram_size"),
        # How transformers computes, and what it returns beside the tokens.
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len"),
        *("compile_config", "disable_compile", "continuous_batching_config", "prefill_chunk_size"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        "return_dict_in_generate",
        # The same distribution scaled; numbers that are not finite end a request as an error.
        *("renormalize_logits", "remove_invalid_values"),
        # Prompt and output together: requests and max_model_len bound them.
        "max_length",
        *("transformers_version", "_from_model_config", "_commit_hash"),
    }
)

FIELDS = frozenset(_DEFAULTS) | _REFUSED.keys() | _WITHOUT_EFFECT | {"do_sample", "eos_token_id"}
"""Every field we know of."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """What a model's makers ask of whoever generates with it.

    Attributes:
        defaults: of sampling parameters, under the names of `RequestParams`.
        eos_token_ids: tokens that end a sequence; None if not stated.
    """

    defaults: dict[str, Any] = field(default_factory=dict)
    eos_token_ids: tuple[int, ...] | None = None


def read_generation(source: str) -> Generation:
    """Read generation_config.json; without it config.json, as transformers does.

    Raises:
        ModelLoadError: the file is there and cannot be read, or a field has a wrong value.
        UnsupportedModelError: a field asks for something we do not do.
    """
    stated, name = read_object(source, GENERATION_CONFIG), GENERATION_CONFIG
    if stated is None:
        stated, name = read_object(source, "config.json") or {}, "config.json"
    elif unknown := sorted(key for key in stated.keys() - FIELDS if stated[key] is not None):
        _log.warning("%s of %r: unknown, so without effect: %s", name, source, ", ".join(unknown))
    where = f"{name} of {source!r}"
    known = {key: stated[key] for key in FIELDS & stated.keys() if stated[key] is not None}
    _refuse(known, where)
    return Generation(_defaults(known, where), token_ids(known.get("eos_token_id"), where))


def token_ids(value: object, where: str) -> tuple[int, ...] | None:
    """The end of sequence tokens that a file states, which may be one or a list.

    Raises:
        ModelLoadError: it states something else.
    """
    if value is None:
        return None
    ids = value if isinstance(value, list) else [value]
    if any(type(token) is not int for token in ids):
        raise ModelLoadError(
            f"{where}: eos_token_id must be a token id or a list of them, not {str(value)[:80]!r}."
        )
    return tuple(ids)


def _refuse(stated: Mapping[str, Any], where: str) -> None:
    for name, harmless in sorted(_REFUSED.items()):
        if name in stated and stated[name] not in harmless:
            raise UnsupportedModelError(
                name,
                f"{where} sets {name} to {str(stated[name])[:80]}, which Shoal does not honour; "
                f"running without it would give other answers. Remove {name} from the file if "
                "you can do without it.",
            )


def _defaults(stated: Mapping[str, Any], where: str) -> dict[str, Any]:
    sampled = stated.get("do_sample", True)
    if type(sampled) is not bool:
        raise ModelLoadError(f"{where}: do_sample must be true or false, not {sampled!r}.")
    defaults = {} if sampled else {"temperature": 0.0}
    for name, parameter in _DEFAULTS.items():
        value = stated.get(name)
        if value is None:
            continue
        try:
            params = RequestParams.create({parameter: value})
        except InvalidRequestError as error:
            raise ModelLoadError(
                f"{where}: {name} has a wrong value ({error.message.rstrip('.')}). Mend the file."
            ) from error
        if sampled or name not in _ONLY_SAMPLING:
            defaults[parameter] = getattr(params, parameter)
    try:
        RequestParams.create(defaults)
    except InvalidRequestError as error:
        raise ModelLoadError(f"{where}: {error.message} Mend the file.") from error
    return defaults
