"""Batch files of requests that generate nothing, run for real on tiny models."""

from __future__ import annotations

import base64
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openai.types import CreateEmbeddingResponse
from transformers import AutoTokenizer

from shoal import EngineOptions, JobSpec, run_job
from shoal.errors import JobChangedError, OptionError
from shoal.jobs.job_result import JobResult
from shoal.types import CLASSIFY_URL, EMBEDDINGS_URL, RERANK_URL, SCORE_URL
from tests.helpers.job_files import chat, completion, pooled, read_records, write_lines
from tests.helpers.models import save_model
from tests.helpers.pooled import (
    class_logits,
    hidden_states,
    next_logits,
    save_classifier,
    save_embedder,
)

embed, score = partial(pooled, EMBEDDINGS_URL), partial(pooled, SCORE_URL)
rerank, classify = partial(pooled, RERANK_URL), partial(pooled, CLASSIFY_URL)
QUERY = "which fish swim in shoals, and why do they?"
DOCUMENTS = ["pikes are alone.", "herrings swim in shoals.", "herrings swim in the sea."]


def run(folder: Path, model: Path, lines: list[Any], **options: object) -> JobResult:
    options = {"dtype": "float32", "kv_memory": "2MiB", "token_budget": 32} | options
    spec = JobSpec(
        input=write_lines(folder / "in.jsonl", lines),
        output=folder / "out.jsonl",
        model=str(model),
        options=EngineOptions.create(**options),
        served_names=["toy"],
        quiet=True,
    )
    return run_job(spec)


def bodies(path: Path | None) -> dict[str, dict[str, Any]]:
    assert path is not None
    return {r["custom_id"]: r["response"]["body"] for r in read_records(path)}


def ids(model: Path, text: str, *, special: bool = True) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    found: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    return found


def normalized(x: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(x, dim=0).numpy()


def test_embeddings(tmp_path: Path) -> None:
    """A text, several, token ids, lists of them; a record has one vector for each, in order."""
    model = save_embedder(tmp_path, "qwen3", "lasttoken")
    texts = [QUERY + text for text in DOCUMENTS]
    lines = [
        embed("one", input=texts[0]),
        embed("several", input=texts, encoding_format="base64", dimensions=8),
        embed("ids", input=[5, 6, 7], use_activation=False),
        embed("lists", input=[[5, 6, 7], [8]], user="me"),
    ]
    result = run(tmp_path, model, lines)
    assert result.exit_code == 0
    found = bodies(result.output)
    several = found.pop("several")
    answers = {name: CreateEmbeddingResponse.model_validate(body) for name, body in found.items()}
    assert {answer.object for answer in answers.values()} == {"list"}
    assert [data["index"] for data in several["data"]] == [0, 1, 2]
    tokens = [ids(model, text) for text in texts]
    one = np.array(answers["one"].data[0].embedding)
    assert np.abs(one - normalized(hidden_states(model, tokens[0])[-1])).max() < 1e-5
    for data, prompt in zip(several["data"], tokens, strict=True):
        vector = np.frombuffer(base64.b64decode(data["embedding"]), dtype="<f4")
        assert np.abs(vector - normalized(hidden_states(model, prompt)[-1][:8])).max() < 1e-5
    raw = np.array(answers["ids"].data[0].embedding)
    assert np.abs(raw - hidden_states(model, [5, 6, 7])[-1].numpy()).max() < 1e-5
    total = sum(map(len, tokens))
    assert several["usage"] == {"prompt_tokens": total, "total_tokens": total}
    assert [data.index for data in answers["lists"].data] == [0, 1]
    assert found["one"]["model"] == "embedder"
    assert result.summary.tokens.generated == 0


def test_a_mean_may_be_asked_for(tmp_path: Path) -> None:
    model = save_embedder(tmp_path, "llama", "lasttoken")
    result = run(tmp_path, model, [embed("a", input=QUERY)], pooling_type="mean")
    (data,) = bodies(result.output)["a"]["data"]
    expected = normalized(hidden_states(model, ids(model, QUERY)).mean(0))
    assert np.abs(np.array(data["embedding"]) - expected).max() < 1e-5


def test_scores_of_a_reranker(tmp_path: Path) -> None:
    """A file that begins with a score asks a causal model for yes or no."""
    model = save_model(tmp_path / "m", "qwen3", max_position_embeddings=1024)
    config = json.loads((model / "config.json").read_text())
    config["classifier_from_token"] = ["n", "y"]
    (model / "config.json").write_text(json.dumps(config))
    lines = [
        score("pairs", text_1=[QUERY, "b", "c"], text_2=DOCUMENTS, instruction="be kind"),
        rerank("top", query=QUERY, documents=DOCUMENTS, top_n=2),
        rerank("all", query=QUERY, documents=[*DOCUMENTS, DOCUMENTS[0]]),
        embed("other", input="a"),
    ]
    result = run(tmp_path, model, lines)
    found, errors = bodies(result.output), bodies(result.errors)
    assert "scores or classes" in errors["other"]["error"]["message"]

    def expected(query: str, document: str, instruction: str) -> float:
        text = (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the "
            "Query and the Instruct provided. Note that the answer can only be "
            '"yes" or "no".<|im_end|>\n<|im_start|>user\n'
            f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
        no, yes = ids(model, "n", special=False)[0], ids(model, "y", special=False)[0]
        logits = next_logits(model, ids(model, text, special=False))
        return torch.sigmoid(logits[yes] - logits[no]).item()

    pairs = zip(found["pairs"]["data"], [QUERY, "b", "c"], DOCUMENTS, strict=True)
    for data, query, document in pairs:
        assert data["object"] == "score"
        assert abs(data["score"] - expected(query, document, "be kind")) < 1e-5
    usual = "Given a web search query, retrieve relevant passages that answer the query"
    by_document = [expected(QUERY, document, usual) for document in DOCUMENTS]
    order = sorted(range(3), key=lambda i: -by_document[i])
    top = found["top"]["results"]
    assert [each["index"] for each in top] == order[:2]
    for each in top:
        assert each["document"] == {"text": DOCUMENTS[each["index"]], "multi_modal": None}
        assert abs(each["relevance_score"] - by_document[each["index"]]) < 1e-5
    whole = [each["index"] for each in found["all"]["results"]]
    assert len(whole) == 4
    assert whole.index(3) == whole.index(0) + 1, "documents alike stay in their order"
    assert set(found["top"]["usage"]) == {"prompt_tokens", "total_tokens"}
    tokens = result.summary.tokens
    assert tokens.prompt_saved > 5 * len(QUERY + usual), "documents share their query"


def test_classes(tmp_path: Path) -> None:
    model = save_classifier(tmp_path / "m", "llama", 3)
    lines = [
        classify("one", input=QUERY),
        classify("raw", input=[QUERY, "a"], use_activation=False),
        score("score", queries="a", documents="b"),
        embed("embed", input="a"),
        completion("text"),
    ]
    result = run(tmp_path, model, lines)
    found, errors = bodies(result.output), bodies(result.errors)
    logits = class_logits(model, ids(model, QUERY))
    (data,) = found["one"]["data"]
    assert np.abs(np.array(data["probs"]) - torch.softmax(logits, 0).numpy()).max() < 1e-5
    assert (data["label"], data["num_classes"]) == (f"class {int(logits.argmax())}", 3)
    assert np.abs(np.array(found["raw"]["data"][0]["probs"]) - logits.numpy()).max() < 1e-5
    assert "tells 3 classes apart" in errors["score"]["error"]["message"]
    assert "this job gives scores or classes" in errors["embed"]["error"]["message"]
    assert "as its first line asks" in errors["text"]["error"]["message"]


def test_a_file_of_both_kinds_does_what_its_first_line_asks(tmp_path: Path) -> None:
    model = save_embedder(tmp_path, "qwen3", "lasttoken")
    both = [b"{not json", embed("a", input="a"), chat("b"), {"custom_id": "c", "url": "/no"}]
    result = run(tmp_path, model, both)
    assert list(bodies(result.output)) == ["a"]
    assert bodies(result.errors)["b"]["error"]["code"] == "invalid_url"
    generates = save_model(tmp_path / "toy", "qwen3")
    (tmp_path / "second").mkdir()
    result = run(tmp_path / "second", generates, [completion("b"), *both[1:2]])
    assert list(bodies(result.output)) == ["b"]
    assert "this job generates" in bodies(result.errors)["a"]["error"]["message"]


@pytest.mark.parametrize(
    ("line", "param", "message"),
    [
        (embed("a"), "body.input", "is missing"),
        (embed("a", input=""), "body.input", "is empty"),
        (embed("a", input=["a", 3]), "body.input[1]", "must be a string"),
        (embed("a", input=["a", "b" * 300]), "body.input[1]", "may have at most 256"),
        (embed("a", input=[[5], [256]]), "body.input[1][0]", "from 0 to 255"),
        (embed("a", input="a", encoding_format="hex"), "body.encoding_format", '"base64"'),
        (embed("a", input="a", dimensions=33), "body.dimensions", "from 1 to 32"),
        (embed("a", input="a", dimensions="8"), "body.dimensions", "from 1 to 32"),
        (embed("a", input="a", model="other"), "body.model", "not the model"),
        (score("a", queries="a"), "body.documents", "is missing"),
        (score("a", documents="a"), "body.queries", "is missing"),
        (score("a", queries=["a", "b"], items="a"), "body.items", "one query for all"),
        (score("a", queries="a", text_1="b", documents="a"), "body.text_1", "another name of"),
        (score("a", queries="a", documents=[]), "body.documents", "at least one text"),
        (score("a", queries="a", documents=["b", {}]), "body.documents[1]", "a text, not an obj"),
        (rerank("a", documents=["a"]), "body.query", "is missing"),
        (rerank("a", query=["a"], documents=["a"]), "body.query", "a text, not an array"),
        (rerank("a", query="a", documents=["a"], top_n=-1), "body.top_n", "at least 0"),
        (rerank("a", query="a", documents=["a", "b" * 300]), "body.documents[1]", "at most 256"),
        (rerank("a", query="b" * 300, documents=["a"]), "body.query[0]", "at most 256"),
    ],
)
def test_a_wrong_field_is_named(
    tmp_path_factory: pytest.TempPathFactory, line: dict[str, Any], param: str, message: str
) -> None:
    error = _wrong_fields(tmp_path_factory)[json.dumps(line)]
    assert error["param"] == param
    assert message in error["message"]


_ERRORS: dict[str, dict[str, Any]] = {}


def _wrong_fields(factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The error of each line of the test above, of one run."""
    if not _ERRORS:
        folder = factory.mktemp("wrong")
        mark = next(
            mark for mark in test_a_wrong_field_is_named.pytestmark if mark.name == "parametrize"
        )
        lines = [case[0] for case in mark.args[1]]
        named = [line | {"custom_id": str(i)} for i, line in enumerate(lines)]
        model = save_embedder(folder, "qwen3", "lasttoken")
        found = bodies(run(folder, model, named).errors)
        _ERRORS.update({json.dumps(line): found[str(i)]["error"] for i, line in enumerate(lines)})
    return _ERRORS


def test_scores_of_embeddings_that_are_not_meant_to_be_compared_are_refused(
    tmp_path: Path,
) -> None:
    model = save_model(tmp_path / "m", "qwen3")
    result = run(tmp_path, model, [embed("a", input="a"), score("b", queries="a", documents="b")])
    assert list(bodies(result.output)) == ["a"]
    assert "to be compared" in bodies(result.errors)["b"]["error"]["message"]


def test_what_changes_results_may_not_change(tmp_path: Path) -> None:
    model, lines = save_embedder(tmp_path, "qwen3", "lasttoken"), [embed("a", input="a")]
    run(tmp_path, model, lines)
    assert run(tmp_path, model, lines).already_finished
    with pytest.raises(JobChangedError, match="pooling_type was 'last' and is 'mean'"):
        run(tmp_path, model, lines, pooling_type="mean")
    with pytest.raises(OptionError, match="--pooling-type is for jobs of embeddings"):
        run(tmp_path, model, [chat("a")], pooling_type="mean")
    schema = JobSpec(
        input=tmp_path / "in.jsonl",
        output=tmp_path / "x.jsonl",
        model=str(model),
        schema=tmp_path / "in.jsonl",
    )
    write_lines(tmp_path / "in.jsonl", lines)
    with pytest.raises(OptionError, match="--schema is for answers"):
        run_job(schema)
