"""Vectors, scores and classes of prompts: what is asked, which prompts it takes, what is answered.

Files and the Python API ask for the same things here, under vLLM's names.
"""

from shoal.pooling.pair_scores import Scoring
from shoal.pooling.pairs import PairTexts, pairs_of
from shoal.pooling.params import check_params
from shoal.pooling.vectors import finished, label_of

__all__ = [
    "PairTexts",
    "Scoring",
    "check_params",
    "finished",
    "label_of",
    "pairs_of",
]
