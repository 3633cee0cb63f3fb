"""Classes and scores are transformers' heads; pairs are written as rerankers were trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from shoal import LLM, PoolingParams
from shoal.errors import InvalidRequestError, OptionError, UnsupportedModelError
from tests.helpers.models import byte_tokenizer, save_model
from tests.helpers.pooled import class_logits, hidden_states, next_logits, save_classifier
from tests.helpers.pooled import save_embedder as embedder

RAW = PoolingParams(use_activation=False)
OPTIONS: dict[str, Any] = {
    "dtype": "float32", "kv_memory": "2MiB", "max_num_batched_tokens": 32,
}  # fmt: skip
QUERY = "Which fish swim in shoals, and why do they?"
DOCUMENTS = ["Herrings swim in shoals.", "Pikes are alone.", "Herrings swim in the sea."]

YES_NO = OPTIONS | {"hf_overrides": {"classifier_from_token": ["n", "y"], "method": None}}


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
def test_classes_are_those_of_the_head(tmp_path: Path, architecture: str) -> None:
    folder = save_classifier(tmp_path, architecture, 3)
    llm = LLM(str(folder), **OPTIONS)
    texts = [QUERY + text for text in DOCUMENTS] + ["a"]
    outputs = llm.classify(texts, use_tqdm=False)
    raw = llm.classify(texts, pooling_params=RAW, use_tqdm=False)
    for output, logits in zip(outputs, raw, strict=True):
        expected = class_logits(folder, output.prompt_token_ids)
        assert output.outputs.num_classes == 3
        assert np.abs(np.array(logits.outputs.probs) - expected.numpy()).max() < 1e-5
        probs = torch.softmax(expected, 0).numpy()
        assert np.abs(np.array(output.outputs.probs) - probs).max() < 1e-5


def test_a_head_passes_over_padding_as_transformers_does(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, "qwen3", 3, pad_token_id=1)
    prompts = [[5, 6, 1, 7, 1, 1], [5, 6, 1, 7], [1, 1], [5]]
    outputs = LLM(str(folder), **OPTIONS).classify(prompts, pooling_params=RAW, use_tqdm=False)
    for output, prompt in zip(outputs, prompts, strict=True):
        expected = class_logits(folder, prompt).numpy()
        assert np.abs(np.array(output.outputs.probs) - expected).max() < 1e-5


def test_documents_share_their_query_under_a_head(tmp_path: Path) -> None:
    """One label: the score is a probability, and a pair is the query, then the document."""
    folder = save_classifier(tmp_path, "qwen3", 1)
    llm = LLM(str(folder), **OPTIONS)
    outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for output, document in zip(outputs, DOCUMENTS, strict=True):
        ids = tokenizer(QUERY + document)["input_ids"]
        assert output.prompt_token_ids == ids
        expected = torch.sigmoid(class_logits(folder, ids)[0]).item()
        assert abs(output.outputs.score - expected) < 1e-5
    assert llm.last_run is not None
    tokens = llm.last_run.tokens
    assert tokens.prompt - tokens.prompt_computed >= 2 * len(QUERY)
    whole = llm.classify([QUERY + DOCUMENTS[0]], use_tqdm=False)[0]
    assert abs(whole.outputs.probs[0] - outputs[0].outputs.score) < 1e-5


@pytest.mark.parametrize(
    ("stated", "function"),
    [
        ({"problem_type": "multi_label_classification"}, torch.sigmoid),
        ({"problem_type": "regression"}, lambda x: x),
        ({"problem_type": "single_label_classification"}, lambda x: torch.softmax(x, 0)),
        (
            {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
            lambda x: x,
        ),
    ],
)
def test_the_config_says_what_becomes_of_logits(
    tmp_path: Path, stated: dict[str, object], function: Any
) -> None:
    folder = save_classifier(tmp_path, "qwen3", 3, **stated)
    (output,) = LLM(str(folder), **OPTIONS).classify(["a shoal"], use_tqdm=False)
    expected = function(class_logits(folder, output.prompt_token_ids)).numpy()
    assert np.abs(np.array(output.outputs.probs) - expected).max() < 1e-5


def test_a_score_is_one_number(tmp_path: Path) -> None:
    llm = LLM(str(save_classifier(tmp_path, "qwen3", 3)), **OPTIONS)
    with pytest.raises(InvalidRequestError, match="tells 3 classes apart"):
        llm.score("a", "b")
    with pytest.raises(OptionError, match="gives classes or scores"):
        llm.embed("a")
    with pytest.raises(InvalidRequestError, match="dimensions is for embeddings"):
        llm.classify("a", pooling_params=PoolingParams(dimensions=2))


def test_another_activation_function_is_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, "qwen3", 1)
    config = json.loads((folder / "config.json").read_text())
    config["sbert_ce_default_activation_function"] = "torch.nn.modules.activation.Tanh"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="Tanh"):
        LLM(str(folder))


@pytest.mark.parametrize("architecture", ["qwen3", "granite", "gpt2"])
def test_a_reranker_says_yes_or_no(tmp_path: Path, architecture: str) -> None:
    """vLLM's options for Qwen3-Reranker; granite scales its logits."""
    folder = save_model(tmp_path, architecture, max_position_embeddings=1024, n_positions=1024)
    llm = LLM(str(folder), runner="pooling", **YES_NO)
    outputs = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    no, yes = tokenizer.convert_tokens_to_ids(["n", "y"])
    raw = llm.score(QUERY, DOCUMENTS, pooling_params=RAW, use_tqdm=False)
    for output, logit, document in zip(outputs, raw, DOCUMENTS, strict=True):
        text = (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the "
            "Query and the Instruct provided. Note that the answer can only be "
            '"yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web search query, '
            f"retrieve relevant passages that answer the query\n<Query>: {QUERY}\n"
            f"<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert output.prompt_token_ids == ids
        logits = next_logits(folder, ids)
        expected = torch.softmax(logits[[no, yes]], 0)[1].item()
        assert abs(output.outputs.score - expected) < 1e-5
        assert abs(logit.outputs.score - (logits[yes] - logits[no]).item()) < 1e-4
    assert llm.last_run is not None
    tokens = llm.last_run.tokens
    assert tokens.prompt - tokens.prompt_computed >= 2 * (len(QUERY) + 200)


def test_a_folder_may_name_its_tokens_and_its_template(tmp_path: Path) -> None:
    """sentence-transformers' LogitScore, and a chat template with the roles of a pair."""
    folder = save_model(tmp_path, "qwen3")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'query' %}Q{{ m['content'] }}"
        "{% elif m['role'] == 'document' %}D{{ m['content'] }}{% endif %}{% endfor %}?"
    )
    tokenizer.save_pretrained(folder)
    parts = [("Transformer", ""), ("LogitScore", "1_LogitScore")]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.x.{kind}"}
        for i, (kind, path) in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_LogitScore").mkdir()
    stated = {"true_token_id": 7, "false_token_id": None}
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps(stated))
    (one,) = LLM(str(folder), **OPTIONS).score("a", "b", pooling_params=RAW, use_tqdm=False)
    assert tokenizer.decode(one.prompt_token_ids) == "QaDb?"
    assert abs(one.outputs.score - next_logits(folder, one.prompt_token_ids)[7].item()) < 1e-5
    stated["false_token_id"] = 9  # type: ignore[assignment]
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps(stated))
    (two,) = LLM(str(folder), **OPTIONS).score("a", "b", use_tqdm=False)
    logits = next_logits(folder, two.prompt_token_ids)
    assert abs(two.outputs.score - torch.sigmoid(logits[7] - logits[9]).item()) < 1e-5


def test_embeddings_are_compared_by_their_cosine(tmp_path: Path) -> None:
    folder = embedder(tmp_path, "qwen3", "lasttoken")
    llm = LLM(str(folder), **OPTIONS)
    outputs = llm.score([QUERY, "b", "c"], DOCUMENTS, use_tqdm=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for output, query, document in zip(outputs, [QUERY, "b", "c"], DOCUMENTS, strict=True):
        vectors = [
            hidden_states(folder, tokenizer(text)["input_ids"])[-1] for text in (query, document)
        ]
        expected = torch.cosine_similarity(*vectors, dim=0).item()
        assert abs(output.outputs.score - expected) < 1e-5
    with pytest.raises(OptionError, match="2 of data_1, 3 of data_2"):
        llm.score(["a", "b"], DOCUMENTS)
    with pytest.raises(OptionError, match="data_2 must be a text"):
        llm.score("a", [["b"]])  # type: ignore[list-item]


def test_an_error_of_a_text_is_its_pairs(tmp_path: Path) -> None:
    llm = LLM(str(embedder(tmp_path, "qwen3", "lasttoken")), **OPTIONS)
    right, wrong = llm.score("a", ["b", "b" * 300], use_tqdm=False)
    assert right.error is None
    assert wrong.error is not None
    assert wrong.error.code == "context_length_exceeded"
    assert wrong.outputs.score == 0


def test_tokens_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "qwen3")
    with pytest.raises(UnsupportedModelError, match="no token 'no'"):
        LLM(str(folder), task="score")


def test_encoders_are_refused(tmp_path: Path) -> None:
    """Nothing of BERT is causal, and the proof at load finds it out."""
    import transformers

    config = AutoConfig.for_model(
        "bert", vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError):
        LLM(str(tmp_path), runner="pooling", dtype="float32")
