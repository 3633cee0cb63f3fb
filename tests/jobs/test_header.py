from __future__ import annotations

from dataclasses import replace

from shoal.config import Quantization
from shoal.disk import ContentDigest
from shoal.jobs.header import JobHeader
from shoal.model.description import ModelDescription

HEADER = JobHeader("ab", 10, {"config.json": "1"}, {"dtype": "float32"}, job_seed=4)


def test_round_trip_and_id() -> None:
    assert JobHeader.from_json(HEADER.to_json()) == HEADER
    assert len(HEADER.job_id) == 32
    assert HEADER.job_id != replace(HEADER, job_seed=5).job_id


def test_says_what_changed() -> None:
    assert HEADER.changes_to(replace(HEADER, job_seed=9)) == []
    changes = HEADER.changes_to(
        JobHeader("cd", 12, {"config.json": "2", "x.json": "3"}, {"dtype": "bfloat16"}, 4)
    )
    assert changes == [
        "the input file changed (10 bytes then, 12 now)",
        "the model's config.json changed",
        "the model's x.json came or went",
        "dtype was 'float32' and is 'bfloat16'",
    ]


def test_of_a_new_job(description: ModelDescription) -> None:
    content = ContentDigest("ab", 10)
    first = JobHeader.new(content, description, ["b", "a", "b"])
    assert first.model == description.fingerprint
    assert first.options == {
        "dtype": "float32",
        "quantization": "none",
        "device": "cpu",
        "max_model_len": 512,
        "trust_remote_code": False,
        "tool_call_parser": "auto",
        "reasoning_parser": "auto",
        "served_model_name": ["a", "b"],
        "schema": None,
    }
    quantized = replace(description, quantization=Quantization.int8)
    now = JobHeader.new(content, quantized, ["a", "b"])
    assert first.changes_to(now) == ["quantization was 'none' and is 'int8'"]
    assert first.job_seed != JobHeader.new(content, description, []).job_seed
