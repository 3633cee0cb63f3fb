import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.answers.detokenize import Detokenizer
from tests.helpers.toy_logits import TEXT, byte_level, sentencepiece_like, word_piece

BYTES = byte_level()
PIECES = sentencepiece_like()
WORDS = word_piece()
TOKENIZERS = {"byte-level": BYTES, "sentencepiece": PIECES, "wordpiece": WORDS}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_text_is_the_tokenizers_own(name, data, skip):
    tokenizer = TOKENIZERS[name]
    ids = st.lists(st.integers(0, len(tokenizer) - 1), max_size=30)
    batch = data.draw(st.lists(ids, min_size=1, max_size=3))
    expected = [tokenizer.decode(ids, skip_special_tokens=skip) for ids in batch]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.texts(batch, skip) == expected
    assert detokenizer.text(batch[0], skip) == expected[0]


def test_clean_up_is_honoured():
    ids = WORDS.convert_tokens_to_ids(["the", "end", "."])
    assert Detokenizer(WORDS).text(ids, True) == "the end."


@pytest.mark.parametrize("tokenizer", [BYTES, byte_level(clean_up_tokenization_spaces=True)])
def test_bytes_of_tokens_join_to_the_text(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer(TEXT).input_ids
    assert b"".join(map(detokenizer.token_bytes, ids)).decode() == TEXT
    assert detokenizer.text(ids, True) == TEXT


def test_part_of_a_character():
    detokenizer = Detokenizer(byte_level(vocab_size=258))
    parts = byte_level(vocab_size=258)("é").input_ids
    assert [detokenizer.token_bytes(part) for part in parts] == [b"\xc3", b"\xa9"]
    assert detokenizer.token_text(parts[0]) == "\ufffd"


def test_sentencepiece_bytes_and_spaces():
    detokenizer = Detokenizer(PIECES)
    ids = PIECES.convert_tokens_to_ids(["▁Paris", "<0xE2>", "é", "<eos>"])
    assert [detokenizer.token_bytes(i) for i in ids] == [
        b" Paris",
        b"\xe2",
        "é".encode(),
        b"<eos>",
    ]
    assert detokenizer.token_text(ids[0]) == " Paris"


def test_special_tokens_and_ids_beyond_the_vocabulary():
    detokenizer = Detokenizer(BYTES)
    assert detokenizer.token_text(0) == "<eos>"
    assert detokenizer.token_bytes(len(BYTES) + 7) == b""
    assert detokenizer.text([0, len(BYTES) + 7], False) == "<eos>"


def test_other_vocabularies_use_the_tokens_text():
    token = WORDS.convert_tokens_to_ids("end")
    assert Detokenizer(WORDS).token_bytes(token) == b"end"
