"""A folder without a tokenizer: prompts are token ids, texts are empty, none may be asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from shoal import LLM, SamplingParams, StructuredOutputsParams
from shoal.cli import app
from shoal.errors import InvalidRequestError, ModelLoadError, OptionError
from shoal.jobs import JobSpec, run_job
from tests.helpers.job_files import completion, write_lines
from tests.helpers.models import greedy, save_model

PROMPTS = [[1, 2, 3], [1, 2, 4, 5], [9]]
GREEDY = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
OPTIONS = {"dtype": "float32", "device": "cpu", "max_num_batched_tokens": 64, "kv_memory": "8MiB"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("whole") / "model", "llama")


@pytest.fixture(scope="module")
def bare(whole: Path) -> Path:
    folder = whole.parent / "bare"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*token*", "vocab*"))
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors")
    }
    return folder


@pytest.fixture(scope="module")
def llm(bare: Path) -> LLM:
    return LLM(str(bare), **OPTIONS)


def test_token_ids_are_answered_with_token_ids(llm: LLM, bare: Path) -> None:
    for prompt, found in zip(PROMPTS, llm.generate(PROMPTS, GREEDY, use_tqdm=False), strict=True):
        assert found.error is None
        assert found.outputs[0].token_ids == greedy(bare, prompt, 5)
        assert found.outputs[0].text == ""
        assert found.outputs[0].finish_reason == "length"


def test_logprobs_have_no_texts(llm: LLM) -> None:
    params = SamplingParams(max_tokens=2, temperature=0, logprobs=2, prompt_logprobs=1)
    (found,) = llm.generate([1, 2, 3], params, use_tqdm=False)
    assert found.outputs[0].logprobs is not None
    assert found.prompt_logprobs is not None
    for entry in [*found.outputs[0].logprobs, *found.prompt_logprobs[1:]]:
        assert entry
        assert {each.decoded_token for each in entry.values()} == {None}


def test_a_text_among_them_is_refused_alone(llm: LLM) -> None:
    good, bad = llm.generate([[1, 2, 3], "hello"], GREEDY, use_tqdm=False)
    assert good.error is None
    assert bad.error is not None
    assert "prompts[1]: a text needs a tokenizer" in str(bad.error)
    assert "give token ids" in str(bad.error)


def test_what_else_needs_texts_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match=r"\[0\]\.stop needs .* give stop_token_ids"):
        llm.generate([[1]], SamplingParams(stop="x"), use_tqdm=False)
    with pytest.raises(OptionError, match="without a tokenizer"):
        llm.chat([{"role": "user", "content": "hello"}], GREEDY, use_tqdm=False)
    with pytest.raises(OptionError, match="without a tokenizer"):
        llm.get_tokenizer()


def test_a_form_of_answer_is_refused(llm: LLM) -> None:
    params = SamplingParams(structured_outputs=StructuredOutputsParams(choice=["a", "b"]))
    with pytest.raises(InvalidRequestError, match=r"structured_outputs: .*no tokenizer"):
        llm.generate(PROMPTS, params, use_tqdm=False)


def test_stop_tokens_stop(llm: LLM) -> None:
    (free,) = llm.generate([1, 2, 3], GREEDY, use_tqdm=False)
    second = free.outputs[0].token_ids[1]
    params = SamplingParams(max_tokens=5, temperature=0, stop_token_ids=[second])
    (found,) = llm.generate([1, 2, 3], params, use_tqdm=False)
    assert found.outputs[0].stop_reason == second


def test_one_that_is_there_may_be_left_out(whole: Path, llm: LLM) -> None:
    without = LLM(str(whole), skip_tokenizer_init=True, **OPTIONS)
    assert without.generate(PROMPTS, GREEDY, use_tqdm=False) == llm.generate(
        PROMPTS, GREEDY, use_tqdm=False
    )


def test_another_folder_may_have_it(bare: Path, whole: Path) -> None:
    llm = LLM(str(bare), tokenizer=str(whole), **OPTIONS)
    (found,) = llm.generate(["hello"], GREEDY, use_tqdm=False)
    assert found.outputs[0].text
    with pytest.raises(ModelLoadError, match="tokenizer"):
        LLM(str(whole), tokenizer=str(bare), **OPTIONS)


def test_a_job_is_refused_before_it_runs(bare: Path, tmp_path: Path) -> None:
    """Its records hold texts, and nothing else that was generated."""
    path = write_lines(tmp_path / "in.jsonl", [completion("a", prompt=[1, 2, 3])])
    with pytest.raises(ModelLoadError, match="no tokenizer: copy"):
        run_job(JobSpec(input=path, output=tmp_path / "out.jsonl", model=str(bare)))
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_of_token_ids_is_planned(bare: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.npy"
    np.save(path, np.tile(np.arange(40, 100, dtype=np.int32), (6, 1)))
    command = ["plan", str(path), "--model", str(bare), "--max-tokens", "4", "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "<40><41>" in result.output
