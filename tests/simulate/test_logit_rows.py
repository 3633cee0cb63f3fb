"""Rows that take logits, as predictions count them and as a run has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.config import Sharing
from shoal.planner import make_plan
from shoal.planner.tree import Tree
from shoal.planner.work_counts import request_work, segment_work
from shoal.scheduler import BlockPool, Scheduler
from shoal.types import RequestParams, RequestTable
from tests.helpers.planner_jobs import Job, jobs

BLOCK = 4
FORMS = (
    RequestParams(),
    RequestParams(prompt_logprobs=1),
    RequestParams(prompt_logprobs=2, prompt_logprob_start=5),
    RequestParams(prompt_logprobs=0, prompt_logprob_start=3, max_tokens=0),
    RequestParams(prompt_logprobs=1, max_tokens=0),
    RequestParams(max_tokens=0),
    RequestParams(prompt_logprobs=1, n=3),
)
"""Unscored, scored from somewhere on, with and without an answer, with several."""


def table_of(job: Job, forms: list[int]) -> RequestTable:
    params = [FORMS[form] for form in forms]
    outputs = np.where([p.generates for p in params], job.expected, 1).astype(np.int32)
    index = np.array(forms, dtype=np.int32)
    return replace(job.table, params=list(FORMS), params_index=index, expected_new_tokens=outputs)


def measured(table: RequestTable, sharing: Sharing, budget: int) -> tuple[int, int]:
    """Tokens and rows of logits of a run, and what is predicted of it."""
    plan = make_plan(table, sharing=sharing)
    scheduler = Scheduler(table, plan, BlockPool(2000, BLOCK), budget)
    rows = tokens = 0
    while (batch := scheduler.step()) is not None:
        sampled = batch.sample_sequences
        rows += len(np.unique(batch.logit_rows))
        tokens += batch.num_tokens
        ends = table.expected_new_tokens[plan.sequence_request[sampled]]
        finished = batch.sample_positions + 1 >= ends
        scheduler.commit(batch, np.zeros(len(sampled), dtype=np.int32), finished)
    tree = Tree.of_plan(table, plan)
    counts = request_work(tree).counts.sum(axis=1) + segment_work(tree).counts.sum(axis=1)
    assert (tokens, rows) == (counts[0], counts[1])
    return tokens, rows


@pytest.mark.long
@settings(deadline=None, max_examples=150)
@example(Job([[1, 2, 3, 4, 5, 6, 7, 8]]), 0, Sharing.forest, 64)
@given(jobs(max_runs=7), st.integers(0, 10**6), st.sampled_from(Sharing), st.integers(1, 40))
def test_predicted_rows_are_those_of_a_run(
    job: Job, seed: int, sharing: Sharing, budget: int
) -> None:
    drawn = np.random.default_rng(seed).integers(0, len(FORMS), len(job.prompts))
    measured(table_of(job, drawn.tolist()), sharing, budget)


def test_choices_of_one_context_are_scored_in_few_rows() -> None:
    context = list(range(64))
    job = Job([[*context, 100 + i] for i in range(4)] + [[*context, 200, 201, 202]])
    params = RequestParams(prompt_logprobs=1, prompt_logprob_start=64, max_tokens=0)
    table = replace(
        job.table,
        params=[params],
        params_index=np.zeros(5, dtype=np.int32),
        expected_new_tokens=np.ones(5, dtype=np.int32),
    )
    assert measured(table, Sharing.forest, 256) == (66, 3)
