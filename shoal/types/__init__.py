"""What travels through the house: sampling parameters, requests, completions, the run summary."""

from shoal.types.adapter import BASE_MODEL, Adapter
from shoal.types.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from shoal.types.choice_score import ChoiceScore, Normalisation, ScoredChoices
from shoal.types.completion import Choice, Completion, FinishReason, ServerAnswer, TokenLogprob
from shoal.types.length_switch import LengthSwitch
from shoal.types.pooled import (
    CLASSIFY_URL,
    EMBEDDINGS_URL,
    POOLED,
    POOLED_URLS,
    RERANK_URL,
    SCORE_URL,
    PoolerConfig,
    PoolingParams,
)
from shoal.types.prompt_logprobs import LogprobColumns, PromptLogprobs
from shoal.types.request_params import (
    CHAT_URL,
    COMPLETIONS_URL,
    MAX_LOGPROB_TOKEN_IDS,
    MAX_LOGPROBS,
    RESPONSES_URL,
    RequestParams,
)
from shoal.types.request_table import RequestTable, joined
from shoal.types.run_summary import (
    LengthCounts,
    PhaseSeconds,
    PlanFigures,
    RequestCounts,
    RunSummary,
    TokenCounts,
)

ENDPOINTS = (CHAT_URL, COMPLETIONS_URL, RESPONSES_URL, *POOLED_URLS)
"""What a batch may be for."""

__all__ = [
    "BASE_MODEL",
    "CHAT_URL",
    "CLASSIFY_URL",
    "COMPLETIONS_URL",
    "EMBEDDINGS_URL",
    "ENDPOINTS",
    "MAX_LOGPROBS",
    "MAX_LOGPROB_TOKEN_IDS",
    "POOLED",
    "POOLED_URLS",
    "RERANK_URL",
    "RESPONSES_URL",
    "SCORE_URL",
    "Adapter",
    "BoolArray",
    "Choice",
    "ChoiceScore",
    "Completion",
    "FinishReason",
    "Float32Array",
    "Int32Array",
    "Int64Array",
    "LengthCounts",
    "LengthSwitch",
    "LogprobColumns",
    "Normalisation",
    "PhaseSeconds",
    "PlanFigures",
    "PoolerConfig",
    "PoolingParams",
    "PromptLogprobs",
    "RequestCounts",
    "RequestParams",
    "RequestTable",
    "RunSummary",
    "ScoredChoices",
    "ServerAnswer",
    "TokenCounts",
    "TokenLogprob",
    "joined",
]
