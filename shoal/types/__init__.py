"""What travels through the house: sampling parameters, requests, completions, the run summary."""

from shoal.types.arrays import BoolArray, Int32Array, Int64Array
from shoal.types.completion import Choice, Completion, FinishReason, TokenLogprob
from shoal.types.request_params import (
    CHAT_URL,
    COMPLETIONS_URL,
    MAX_LOGPROBS,
    RESPONSES_URL,
    RequestParams,
)
from shoal.types.request_table import RequestTable
from shoal.types.run_summary import (
    LengthCounts,
    PhaseSeconds,
    PlanFigures,
    RequestCounts,
    RunSummary,
    TokenCounts,
)

__all__ = [
    "CHAT_URL",
    "COMPLETIONS_URL",
    "MAX_LOGPROBS",
    "RESPONSES_URL",
    "BoolArray",
    "Choice",
    "Completion",
    "FinishReason",
    "Int32Array",
    "Int64Array",
    "LengthCounts",
    "PhaseSeconds",
    "PlanFigures",
    "RequestCounts",
    "RequestParams",
    "RequestTable",
    "RunSummary",
    "TokenCounts",
    "TokenLogprob",
]
