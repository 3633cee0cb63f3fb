"""Scores and answers of the model `shoal` against those of the harness's own model `hf`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal import LLM
from shoal.errors import GenerationInterrupted, InvalidRequestError, OptionError
from shoal.integrations.lm_eval import ShoalLM
from tests.helpers.models import greedy, save_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

ROOT = Path(__file__).parents[2]
TINY = ROOT / "shoal" / "models" / "shoal-tiny"
TASKS = Path(__file__).parent / "tasks"
CLOSE = 1e-4
PAIRS = [
    ("The sea is", " deep"),
    ("The sea is", " wide and deep"),
    ("The sea is ", "deep"),
    ("The sea", " is deep"),
    ("", "The sea is deep"),
    ("", " deep"),
    ("The sea is\n", "deep"),
    ("   ", "deep"),
    ("The sea is", " deep"),
]

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 256 positions, one token per byte."""
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    model = LLM(str(folder), dtype="float32", device="cpu")
    yield model
    model.close()


@pytest.fixture(scope="module")
def tiny() -> Iterator[LLM]:
    model = LLM(str(TINY), dtype="float32", device="cpu")
    yield model
    model.close()


def hf(path: Path, **options: Any) -> HFLM:
    """The oracle. Its `logits_cache` takes the wrong rows for one text that is split twice."""
    options = {"logits_cache": False} | options
    return HFLM(pretrained=str(path), dtype="float32", device="cpu", batch_size=4, **options)


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


def check_scores(
    ours: ShoalLM, theirs: HFLM, pairs: list[tuple[str, str]], close: float = CLOSE
) -> list[Any]:
    asked = instances("loglikelihood", pairs)
    found = ours.loglikelihood(asked, disable_tqdm=True)
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    assert [each for each, _ in found] == pytest.approx([each for each, _ in expected], abs=close)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    return found


@pytest.mark.parametrize("bos", [None, False, True])
def test_scores(folder: Path, llm: LLM, bos: bool | None) -> None:
    pairs = [pair for pair in PAIRS if pair[0].strip() or not pair[0]]  # of those hf can do
    scores = check_scores(ShoalLM(llm, add_bos_token=bos), hf(folder, add_bos_token=bos), pairs)
    assert len({round(score, 3) for score, _ in scores}) > 4


def test_a_context_of_spaces_is_none(llm: LLM) -> None:
    model = ShoalLM(llm)
    spaces, none = model.loglikelihood(
        instances("loglikelihood", [("   ", "deep"), ("", "   deep")]), disable_tqdm=True
    )
    assert spaces == none


def test_greedy_continuations_are_known(folder: Path, llm: LLM) -> None:
    ours, theirs = ShoalLM(llm), hf(folder)
    prompt = ours.tok_encode("The sea is")
    likely = greedy(folder, prompt, 4)
    other = likely[3] ^ 1
    asked = [(None, prompt, rest) for rest in (likely[:1], likely, [*likely[:3], other], [other])]
    found = ours._loglikelihood_tokens(asked, disable_tqdm=True)
    expected = theirs._loglikelihood_tokens(asked, disable_tqdm=True)
    assert [each for _, each in found] == [each for _, each in expected]
    assert [each for _, each in found] == [True, True, False, False]


def test_long_contexts_lose_their_beginning(folder: Path, llm: LLM) -> None:
    ours, theirs = ShoalLM(llm, max_length=40), hf(folder, max_length=40)
    pairs = [("x" * n + " many fish swim in", " the sea") for n in (0, 10, 20, 100, 400)]
    scores = check_scores(ours, theirs, pairs)
    assert scores[3] == pytest.approx(scores[4])
    assert scores[0] != pytest.approx(scores[4])
    check_scores(ours, theirs, [("a", "b" * 40)])


def test_a_text_one_token_longer_than_the_model(folder: Path, llm: LLM) -> None:
    """Its last token is only scored, so its first one is read."""
    ours, theirs = ShoalLM(llm), hf(folder)
    assert ours.max_length == theirs.max_length == llm.max_model_len
    assert len(ours.tok_encode("x" * 252 + " sea")) == llm.max_model_len
    pairs = [("", "x" * 252 + " sea"), ("ab" * 126 + "x", " sea"), ("x", "y" * 256)]
    check_scores(ours, theirs, pairs, 10 * CLOSE)  # sums of 256 float32
    texts = [("many fish " * n + "x" * 6,) for n in (25, 60)] + [("x" * 257,)]
    asked = instances("loglikelihood_rolling", texts)
    found = ours.loglikelihood_rolling(asked, disable_tqdm=True)
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert found == pytest.approx(expected, abs=10 * CLOSE)


def test_continuations_that_cannot_be_scored_are_refused(llm: LLM) -> None:
    model = ShoalLM(llm, max_length=40)
    for pair in [("a", "b" * 41), ("a", "")]:
        with pytest.raises(ValueError, match="continuation"):
            model.loglikelihood(instances("loglikelihood", [pair]), disable_tqdm=True)


def test_rolling_scores(folder: Path, llm: LLM) -> None:
    ours, theirs = ShoalLM(llm, max_length=40), hf(folder, max_length=40)
    texts = [("many fish swim " * n,) for n in (1, 2, 3, 9)] + [("",), ("a",)]
    asked = instances("loglikelihood_rolling", texts)
    found = ours.loglikelihood_rolling(asked, disable_tqdm=True)
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert found == pytest.approx(expected, abs=10 * CLOSE)
    assert found[4] == 0


GENERATIONS = [
    {"until": ["\n"], "max_gen_toks": 12},
    {"until": "e", "max_gen_toks": 20, "do_sample": False},
    {"until": ["zz", "</s>"], "max_new_tokens": 5, "temperature": 0.0},
    {"max_gen_toks": 9, "num_beams": 1},
]


def test_answers(folder: Path, llm: LLM) -> None:
    ours, theirs = ShoalLM(llm), hf(folder)
    contexts = ["The sea is", "A fish", "x" * 300]
    asked = instances("generate_until", [(c, g) for c in contexts for g in GENERATIONS])
    found = ours.generate_until(asked, disable_tqdm=True)
    assert found == theirs.generate_until(asked, disable_tqdm=True)
    assert len(set(found)) > 3


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({"num_beams": 4}, OptionError, "num_beams"),
        ({"penalty_alpha": 0.6}, OptionError, "penalty_alpha"),
        ({"top_p": 7.0}, InvalidRequestError, "top_p"),
        ({"max_gen_toks": 256}, OptionError, "max_length"),
    ],
)
def test_wrong_generation_arguments_are_named(
    llm: LLM, arguments: dict[str, Any], error: type[Exception], names: str
) -> None:
    with pytest.raises(error, match=names):
        ShoalLM(llm).generate_until(instances("generate_until", [("a", arguments)]))


def test_samples_differ_and_repeat(folder: Path) -> None:
    asked = instances("generate_until", [("A fish", {"temperature": 1.0, "max_gen_toks": 8})] * 4)
    model = LLM(str(folder), dtype="float32", device="cpu")
    found = ShoalLM(model).generate_until(asked, disable_tqdm=True)
    model.close()
    again = LLM(str(folder), dtype="float32", device="cpu")
    assert len(set(found)) > 1
    assert ShoalLM(again).generate_until(asked, disable_tqdm=True) == found
    again.close()


def test_thoughts_are_cut_off(folder: Path, llm: LLM) -> None:
    plain = ShoalLM(llm)
    arguments = {"max_gen_toks": 30}
    asked = instances("generate_until", [("The sea is", arguments)])
    (text,) = plain.generate_until(asked, disable_tqdm=True)
    end = text[12]
    thinks = ShoalLM(llm, think_end_token=end, enable_thinking=True)
    assert thinks.generate_until(asked, disable_tqdm=True) == [text.split(end)[-1].lstrip()]
    within = instances("generate_until", [("The sea is", {**arguments, "until": [text[3]]})])
    answer = text.split(end)[-1].lstrip().split(text[3])[0]
    assert thinks.generate_until(within, disable_tqdm=True) == [answer]
    prompt = plain.tok_encode("The sea is")
    token = greedy(folder, prompt, 30)[12]
    by_token = ShoalLM(llm, think_end_token=str(token))
    theirs = hf(folder, think_end_token=str(token))
    assert by_token.generate_until(asked, disable_tqdm=True) == theirs.generate_until(
        asked, disable_tqdm=True
    )
    with pytest.raises(OptionError, match="think_end_token"):
        ShoalLM(llm, enable_thinking=True)
    with pytest.raises(OptionError, match="generate"):
        thinks.loglikelihood(instances("loglikelihood", [("a", "b")]))


@pytest.mark.parametrize("chat", [False, True])
def test_tasks(tiny: LLM, monkeypatch: pytest.MonkeyPatch, chat: bool) -> None:
    """The three kinds of requests, with and without the model's chat template."""
    monkeypatch.chdir(ROOT)
    names = ["tickets_tag", "tickets_answer", "tickets_text"]
    found, expected = (
        simple_evaluate(
            model=model,
            tasks=names,
            task_manager=TaskManager(include_path=str(TASKS)),
            limit=4,
            apply_chat_template=chat,
            bootstrap_iters=0,
        )
        for model in (ShoalLM(tiny), hf(TINY, logits_cache=True))
    )
    for name in names:
        ours, theirs = found["results"][name], expected["results"][name]
        assert ours.keys() == theirs.keys()
        for metric in set(ours) - {"alias", "name"}:
            wanted = theirs[metric]
            if isinstance(wanted, float):
                wanted = pytest.approx(wanted, rel=CLOSE)
            assert ours[metric] == wanted, metric
        pairs = zip(found["samples"][name], expected["samples"][name], strict=True)
        for our, their in pairs:
            assert our["arguments"] == their["arguments"]
            if name == "tickets_answer":
                assert our["filtered_resps"] == their["filtered_resps"]
            elif name == "tickets_tag":
                check_each(our["filtered_resps"], their["filtered_resps"])
    if chat:
        assert found["results"]["tickets_answer"]["exact_match,none"] > 0.5


def check_each(found: list[Any], expected: list[Any]) -> None:
    for (ours, our_greedy), (theirs, their_greedy) in zip(found, expected, strict=True):
        assert float(ours) == pytest.approx(float(theirs), abs=CLOSE)
        assert str(our_greedy) == str(their_greedy)


def test_all_tasks_are_one_forest(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of the engine for each kind of requests, whatever the tasks and batch sizes."""
    monkeypatch.chdir(ROOT)
    calls = []
    generate = tiny.generate

    def counted(prompts: list[Any], *arguments: Any, **options: Any) -> Any:
        calls.append(len(prompts))
        return generate(prompts, *arguments, **options)

    monkeypatch.setattr(tiny, "generate", counted)
    manager = TaskManager(include_path=str(TASKS))
    again = yaml.safe_load((TASKS / "tickets_tag.yaml").read_text()) | {"task": "again"}
    simple_evaluate(
        model=ShoalLM(tiny, batch_size=1),
        tasks=["tickets_tag", again, "tickets_answer"],
        task_manager=manager,
        limit=2,
        bootstrap_iters=0,
    )
    assert calls == [2 * 2 * 4, 2]


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until"])
def test_what_was_done_is_in_the_cache(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Of a run that is interrupted, when the harness was given `--use_cache`."""
    model = ShoalLM(llm)
    cached = CachingLM(model, str(tmp_path / "cache.db"))
    short = {"max_gen_toks": 5, "until": ["zz"]}
    pairs = PAIRS[:3] if kind == "loglikelihood" else [(c, short) for c in ("a", "b", "c")]
    asked = instances(kind, pairs)
    whole = getattr(model, kind)(asked, disable_tqdm=True)
    generate, calls = llm.generate, []

    def interrupted(prompts: list[Any], *arguments: Any, **options: Any) -> Any:
        calls.append(len(prompts))
        outputs = generate(prompts, *arguments, **options)
        if len(prompts) == 3:
            raise GenerationInterrupted("", [None, *outputs[1:]])
        return outputs

    monkeypatch.setattr(llm, "generate", interrupted)
    with pytest.raises(GenerationInterrupted):
        getattr(cached, kind)(asked)
    assert getattr(cached, kind)(asked) == whole
    assert calls == [3, 1]
