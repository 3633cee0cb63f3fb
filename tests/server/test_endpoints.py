"""Every endpoint that files know, with the official client: results are those of `run_job`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types import Batch

from shoal.config import EngineOptions
from shoal.jobs import JobSpec, run_job
from tests.helpers.job_files import answers, write_lines
from tests.helpers.pooled import save_classifier, save_embedder
from tests.server.server_process import Server, serving

QUERY, TEXTS = "Where is my parcel?", ["It is in the depot.", "Refunds take a week.", "No."]
LINES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Say hello.", "max_output_tokens": 8},
    "/v1/completions": {"prompt": "Once", "max_tokens": 8},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 8},
    "/v1/embeddings": {"input": ["Say hello.", "Say goodbye."]},
    "/v1/score": {"queries": QUERY, "documents": TEXTS},
    "/v1/rerank": {"query": QUERY, "documents": TEXTS, "top_n": 2},
    "/v1/classify": {"input": ["Say hello.", "Say goodbye."]},
}


def line(custom_id: str, url: str, model: str, body: dict[str, Any]) -> dict[str, Any]:
    body = {"model": model} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def served_and_alone(
    server: Server, folder: Path, url: str, model: str = "shoal-tiny"
) -> tuple[Batch, list[Any]]:
    """A batch with a good line twice and a wrong one, whose good records are `run_job`'s."""
    lines = [line(name, url, model, LINES[url]) for name in ("a", "b")]
    lines.append(line("wrong", url, model, LINES[url] | {"colour": "red"}))
    batch = server.ended(server.submit(lines, url).id)
    assert batch.status == "completed", server.log.read_text()[-2000:]
    assert batch.endpoint == url
    (failure,) = server.records(batch.error_file_id)
    assert (failure["custom_id"], failure["response"]["status_code"]) == ("wrong", 400)
    assert failure["response"]["body"]["error"]["param"] == "body.colour"
    output = folder / "served.jsonl"
    output.write_bytes(server.client.files.content(batch.output_file_id or "").content)
    spec = JobSpec(
        input=write_lines(folder / "in.jsonl", lines),
        output=folder / "out.jsonl",
        model=None if model == "shoal-tiny" else model,
        options=EngineOptions.create(kv_memory="128MB"),
        quiet=True,
    )
    served, alone = answers(output), answers(run_job(spec).output)
    assert [record["custom_id"] for record in served] == ["a", "b"]
    assert [_without_ids(each) for each in served] == [_without_ids(each) for each in alone]
    counts = batch.request_counts
    assert counts is not None
    assert (counts.completed, counts.failed) == (2, 1)
    used = [record["response"]["body"]["usage"]["total_tokens"] for record in served]
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(used) > 0
    return batch, served


def _without_ids(value: Any) -> Any:
    """What two jobs have in common: ids and times are their own."""
    if isinstance(value, dict):
        own = {"id", "created", "created_at", "completed_at", "request_id"}
        return {key: _without_ids(each) for key, each in value.items() if key not in own}
    return [_without_ids(each) for each in value] if isinstance(value, list) else value


UNSUPPORTED = ("/v1/score", "/v1/rerank", "/v1/classify")
"""Of the bundled model: it has no classes, and its tokenizer no token for yes."""


@pytest.mark.parametrize("url", [url for url in LINES if url not in UNSUPPORTED])
def test_endpoints_of_a_model_that_answers(server: Server, tmp_path: Path, url: str) -> None:
    served_and_alone(server, tmp_path, url)


@pytest.mark.parametrize("url", UNSUPPORTED)
def test_an_endpoint_that_the_model_cannot_serve(server: Server, url: str) -> None:
    batch = server.ended(server.submit([line("a", url, "shoal-tiny", LINES[url])], url).id)
    assert batch.errors is not None
    (error,) = batch.errors.data or []
    assert (error.code, error.param) == ("unsupported_endpoint", "endpoint")
    assert str(server.folder) not in str(error.message)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server of a model with a head of one class, and the model's name."""
    folder = tmp_path_factory.mktemp("reranker")
    model = str(save_classifier(folder / "model", "qwen3", 1))
    with serving(folder / "served", "--model", model, "--merge-wait", "0.1") as server:
        yield server, model


@pytest.mark.parametrize("url", ["/v1/score", "/v1/rerank", "/v1/classify"])
def test_endpoints_of_a_model_with_classes(
    reranker: tuple[Server, str], tmp_path: Path, url: str
) -> None:
    server, model = reranker
    _, (record, _) = served_and_alone(server, tmp_path, url, model)
    body = record["response"]["body"]
    if url == "/v1/rerank":
        scores = [each["relevance_score"] for each in body["results"]]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 2
    else:
        assert len(body["data"]) == (3 if url == "/v1/score" else 2)


def test_a_model_that_gives_vectors_alone(tmp_path: Path) -> None:
    model = str(save_embedder(tmp_path / "model", "qwen3", "lasttoken"))
    with serving(tmp_path / "served", "--model", model, "--merge-wait", "0.1") as server:
        for url in ("/v1/embeddings", "/v1/score", "/v1/rerank"):
            folder = tmp_path / url.rpartition("/")[2]
            folder.mkdir()
            served_and_alone(server, folder, url, model)
        chat = line("a", "/v1/chat/completions", model, LINES["/v1/chat/completions"])
        batch = server.ended(server.submit([chat]).id)
        assert batch.status == "failed"
        assert batch.errors is not None
        (error,) = batch.errors.data or []
        assert (error.code, error.param) == ("unsupported_endpoint", "endpoint")
        again = server.submit(
            [line("a", "/v1/embeddings", model, LINES["/v1/embeddings"])], "/v1/embeddings"
        )
        assert server.ended(again.id).status == "completed", "the engine is made again"
