from __future__ import annotations

import pytest
from transformers import AutoTokenizer, ByT5Tokenizer

from shoal.errors import InvalidRequestError
from shoal.model.description import bundled_model_path
from shoal.prompts.cuts import Cuts
from shoal.prompts.prompts import ChatPrompt
from shoal.prompts.render import Renderer
from shoal.prompts.text_pieces import PieceTokenizer
from tests.helpers.job_files import byte_tokenizer

MESSAGES = [{"role": "user", "content": "hé"}]


def test_chat_template_with_and_without_arguments() -> None:
    renderer = Renderer(byte_tokenizer())
    assert renderer.text(ChatPrompt(MESSAGES, {})) == "<user>hé\n<assistant>"
    assert renderer.text(ChatPrompt(MESSAGES, {"suffix": "!"})) == "<user>hé\n<assistant>!"
    assert renderer.text(ChatPrompt(MESSAGES, {"add_generation_prompt": False})) == "<user>hé\n"
    assert renderer.text("as it is") == "as it is"
    assert renderer.text([1, 2]) == [1, 2]


def test_a_template_that_refuses_is_the_lines_error() -> None:
    messages = [{"role": "villain", "content": "ha"}]
    with pytest.raises(InvalidRequestError, match="no villains") as caught:
        Renderer(byte_tokenizer()).text(ChatPrompt(messages, {}))
    assert caught.value.code == "chat_template_error"


def test_arguments_of_transformers_own_are_refused() -> None:
    for name in ("tokenize", "chat_template", "continue_final_message", "return_tensors"):
        with pytest.raises(InvalidRequestError) as caught:
            Renderer(byte_tokenizer()).text(ChatPrompt(MESSAGES, {name: True}))
        assert caught.value.param == f"body.chat_template_kwargs.{name}"


def test_a_model_without_template_says_what_to_do() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(InvalidRequestError, match="/v1/completions"):
        Renderer(tokenizer).text(ChatPrompt(MESSAGES, {}))


def test_tokenizing_a_batch_equals_one_by_one() -> None:
    tokenizer = byte_tokenizer()
    texts = ["hé", "", "x" * 300, "😀\u0000"]
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = Renderer(tokenizer).tokenize(texts, add_special_tokens=False)
    assert [list(of_text) for of_text in ids] == expected
    assert Renderer(tokenizer).tokenize([], add_special_tokens=False) == []


def test_truncation_and_padding_of_the_tokenizer_file_are_off() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=5)
    (ids,) = Renderer(tokenizer).tokenize(["four"], add_special_tokens=False)
    assert len(ids) == 4


def test_special_tokens_are_added_when_asked() -> None:
    slow = ByT5Tokenizer()  # in Python, without a fast backend; ends a text with </s>
    renderer = Renderer(slow)
    (without,) = renderer.tokenize(["ab"], add_special_tokens=False)
    (with_end,) = renderer.tokenize(["ab"], add_special_tokens=True)
    assert with_end == [*without, slow.eos_token_id]


@pytest.mark.parametrize("in_pieces", [False, True])
def test_one_text_that_the_tokenizer_refuses_is_one_error(in_pieces: bool) -> None:
    tokenizer = byte_tokenizer()

    class Backend:
        no_truncation = no_padding = staticmethod(lambda: None)

        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> list:
            if "bad" in texts:
                raise ValueError("bad text")
            backend = tokenizer.backend_tokenizer
            return backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    renderer = Renderer(tokenizer)
    backend = Backend()  # byte-level tokenizers refuse nothing, others do
    renderer._backend = backend
    renderer._pieces = PieceTokenizer(backend, Cuts((), True, (), ())) if in_pieces else None
    first, error, last = renderer.tokenize(["a", "bad", "b"], add_special_tokens=False)
    assert [len(first), len(last)] == [1, 1]
    assert isinstance(error, InvalidRequestError)
    assert error.code == "tokenizer_error"


def test_shared_text_in_pieces_and_marks_of_the_template() -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
    renderer = Renderer(tokenizer)
    assert renderer._pieces is not None
    assert {"<|im_start|>", "<|im_end|>"} <= set(renderer._pieces._cuts.marks)
    shared = {"role": "system", "content": "Sort this ticket into one of five queues. " * 40}
    messages = [[shared, {"role": "user", "content": f"Ticket {i}"}] for i in range(9)]
    texts = [str(renderer.text(ChatPrompt(of_one, {}))) for of_one in messages]
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = renderer.tokenize(texts, add_special_tokens=False)
    assert [list(of_text) for of_text in ids] == expected
