"""Strange bodies of requests that generate nothing are refused in words, whatever they hold."""

from __future__ import annotations

import random

import pytest

from shoal.config import PoolingType
from shoal.errors import InvalidRequestError
from shoal.model.pooling import Pooling, PoolingActivation, Task
from shoal.prompts.render import Renderer
from shoal.requests.parsed_request import ParsedRequest
from shoal.requests.pooled_bodies import PooledBodies
from shoal.requests.pooled_fields import POOLED_FIELDS
from shoal.requests.validate import Validator, decode_line
from shoal.types import CLASSIFY_URL, EMBEDDINGS_URL, RERANK_URL, SCORE_URL
from tests.helpers.job_files import byte_tokenizer, pooled
from tests.helpers.strange import encoded, value

GOOD = {
    EMBEDDINGS_URL: {"input": "a"},
    SCORE_URL: {"queries": "a", "documents": ["b"]},
    RERANK_URL: {"query": "a", "documents": ["b", "c"]},
    CLASSIFY_URL: {"input": [5, 6]},
}
POOLINGS = {
    "embeds": Pooling(Task.embed, PoolingType.last, 32, PoolingActivation.normalize, declared=True),
    "yes or no": Pooling(
        Task.classify, PoolingType.last, 2, PoolingActivation.sigmoid, tokens=(5, 6)
    ),
    "head": Pooling(Task.classify, PoolingType.last, 1, PoolingActivation.sigmoid, labels=("a",)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", POOLINGS)
def test_whatever_a_body_holds(name: str) -> None:
    rng = random.Random(5)
    tokenizer = byte_tokenizer()
    bodies = PooledBodies(POOLINGS[name], tokenizer, 256)
    validator = Validator({"toy"}, 256, {}, pooled=bodies)
    renderer = Renderer(tokenizer)
    good = 0
    for _ in range(1500):
        url = rng.choice(list(GOOD))
        line = pooled(url, "a", **GOOD[url])
        for _ in range(rng.randrange(3)):
            line["body"][rng.choice([*POOLED_FIELDS[url], "other"])] = value(rng)
        try:
            request = validator.request(decode_line(encoded(rng, line)))
        except InvalidRequestError:
            continue
        good += 1
        check(request, renderer)
    assert good > 100


def check(request: ParsedRequest, renderer: Renderer) -> None:
    assert len(request.prompts) == len(request.places) > 0
    texts = [prompt for prompt in request.prompts if isinstance(prompt, str)]
    renderer.tokenize(texts, add_special_tokens=request.special_tokens)
