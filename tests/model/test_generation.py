"""What generation_config.json asks for is honoured, without effect, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from shoal.errors import ModelLoadError, UnsupportedModelError
from shoal.model.generation import FIELDS, Generation, read_generation

CONFIG, GENERATION = "config.json", "generation_config.json"


def read(folder: Path, name: str = GENERATION, **fields: Any) -> Generation:
    (folder / name).write_text(json.dumps(fields))
    return read_generation(str(folder))


def test_every_field_of_the_installed_class_is_known() -> None:
    assert GenerationConfig().to_dict().keys() <= FIELDS


@pytest.mark.parametrize(
    ("fields", "defaults"),
    [
        ({}, {}),
        ({"temperature": 1, "top_k": 20}, {"temperature": 1.0, "top_k": 20}),
        ({"do_sample": True, "top_p": 0.8, "min_p": 0.1}, {"top_p": 0.8, "min_p": 0.1}),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.0}),
        (
            {"do_sample": False, "repetition_penalty": 1.1},
            {"temperature": 0.0, "repetition_penalty": 1.1},
        ),
        ({"max_new_tokens": 64, "min_new_tokens": 2}, {"max_tokens": 64, "min_tokens": 2}),
        ({"stop_strings": "END"}, {"stop": ("END",)}),
        ({"stop_strings": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"temperature": None, "suppress_tokens": None}, {}),
    ],
)
def test_what_is_honoured(tmp_path: Path, fields: dict[str, Any], defaults: Any) -> None:
    assert read(tmp_path, **fields).defaults == defaults


def test_what_real_models_carry_is_harmless(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        _from_model_config=True,
        transformers_version="4.31.0",
        bos_token_id=1,
        pad_token_id=-1,
        eos_token_id=[2, 7],
        max_length=4096,
        cache_implementation="hybrid",
        num_beams=1,
        length_penalty=1.0,
        typical_p=1.0,
        no_repeat_ngram_size=0,
        num_return_sequences=1,
        repetition_penalty=1.0,
        trust_remote_code=True,
        chat_format="chatml",
    )
    assert found == Generation({"repetition_penalty": 1.0}, (2, 7))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 4),
        ("no_repeat_ngram_size", 3),
        ("suppress_tokens", [5]),
        ("begin_suppress_tokens", [5]),
        ("bad_words_ids", [[5]]),
        ("forced_bos_token_id", 0),
        ("guidance_scale", 1.5),
        ("penalty_alpha", 0.6),
        ("typical_p", 0.9),
        ("sequence_bias", [[[5], -1.0]]),
        ("watermarking_config", {"bias": 2.0}),
    ],
)
@pytest.mark.parametrize("file", [GENERATION, CONFIG])
def test_what_would_change_answers_is_refused(
    tmp_path: Path, file: str, name: str, value: object
) -> None:
    with pytest.raises(UnsupportedModelError, match=name) as caught:
        read(tmp_path, file, **{name: value})
    assert file in str(caught.value)
    assert caught.value.feature == name


def test_without_the_file_config_json_counts(tmp_path: Path) -> None:
    found = read(tmp_path, CONFIG, repetition_penalty=1.2, vocab_size=9, eos_token_id=3)
    assert found == Generation({"repetition_penalty": 1.2}, (3,))


def test_limits_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="min_tokens"):
        read(tmp_path, max_new_tokens=2, min_new_tokens=3)
