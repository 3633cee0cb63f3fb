"""Shoal: very large batches through open-weights language models, planned globally."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shoal.config import EngineOptions
from shoal.llm.lora_request import LoRARequest
from shoal.llm.pooling_output import (
    ClassificationRequestOutput,
    EmbeddingRequestOutput,
    PoolingRequestOutput,
    ScoringRequestOutput,
)
from shoal.llm.request_output import CompletionOutput, Logprob, RequestOutput, ScoredContext
from shoal.llm.sampling_params import SamplingParams
from shoal.llm.structured_outputs import StructuredOutputsParams
from shoal.prompts.token_columns import TokenColumns
from shoal.types import ChoiceScore, PoolerConfig, PoolingParams, RunSummary

if TYPE_CHECKING:
    from shoal.jobs import JobResult, JobSpec, run_job
    from shoal.llm.llm import LLM

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "ChoiceScore",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "EngineOptions",
    "JobResult",
    "JobSpec",
    "LoRARequest",
    "Logprob",
    "PoolerConfig",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestOutput",
    "RunSummary",
    "SamplingParams",
    "ScoredContext",
    "ScoringRequestOutput",
    "StructuredOutputsParams",
    "TokenColumns",
    "run_job",
]

# Importing the engine takes seconds (torch, transformers); only who asks for it waits.
_LATER = dict.fromkeys(("JobResult", "JobSpec", "run_job"), "shoal.jobs") | {"LLM": "shoal.llm.llm"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")
