"""Shoal: very large batches through open-weights language models, planned globally."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.llm.request_output import CompletionOutput, Logprob, RequestOutput
from shoal.llm.sampling_params import SamplingParams
from shoal.prompts.token_columns import TokenColumns
from shoal.types import RunSummary

if TYPE_CHECKING:
    from shoal.llm.llm import LLM

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "CompletionOutput",
    "Logprob",
    "RequestOutput",
    "RunSummary",
    "SamplingParams",
    "TokenColumns",
]


def __getattr__(name: str) -> Any:
    # Importing the engine takes seconds (torch, transformers); only who asks for it waits.
    if name == "LLM":
        from shoal.llm.llm import LLM

        return LLM
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")
