from __future__ import annotations

import logging
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from shoal.prompts import cuts
from shoal.prompts import text_pieces as pieces
from shoal.prompts.cuts import CHUNK_CHARACTERS, Cuts, find_cuts
from shoal.prompts.text_pieces import PieceTokenizer
from tests.helpers.toy_tokenizers import (
    LLAMA3,
    MAKERS,
    MARKS,
    TEXT,
    byte_level,
    marks_of,
    splits,
    toy,
)

AT_JOINTS = {
    "gpt2", "gpt2-as-split", "digits", "llama3", "qwen", "o200k", "deepseek", "bundled",
}  # fmt: skip
FRAGMENTS = [
    *MARKS, "<s>", "</s>", "<mask>", "<word>", "<|end|>!", "a<|", "<|im_start|>", "<|im_end|>",
    "[CLS]", "<|", "|>", "fish", "the lazy", " ", "  ", "\n", "\n\n", " \n", "\r\n", "\t", "\u00a0",
    "\u3000", "'s", "'S", "'", "a", "B", "Ab", "it's 12", "1", "2345", "/", "!", "...", "(x", "_",
    "é", "e\u0301", "\u0301",
    "\u0308 ", "ß", "мир", "漢字", "かな", "ー", "한", "\u1112\u1161\u11ab",
    "\u11a8", "ال", "\u064b", "\u0e01\u0e33", "नमस्ते", "🐟", "\U0001f468\u200d\U0001f469",
    "\ufe0f", "▁", "\u0000", "\ufb01", "²", "İ", "\u2028", "\x85", "\x1c",
]  # fmt: skip
TEXTS = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.sampled_from(TEXT.split()), st.text(max_size=4)),
    max_size=40,
).map("".join)


def whole(tokenizer: Tokenizer, texts: list[str], special: bool) -> list[list[int]]:
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=special)
    return [encoding.ids for encoding in encodings]


def in_pieces(made: PieceTokenizer, texts: list[str], special: bool) -> list[list[int]]:
    return [list(ids) for ids in made.encode(texts, add_special_tokens=special)]


@pytest.mark.long
@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=120, deadline=None)
@given(shared=TEXTS, own=st.lists(TEXTS, min_size=1, max_size=4), chunk=st.integers(0, 20))
def test_ids_are_those_of_the_whole(name: str, shared: str, own: list[str], chunk: int) -> None:
    tokenizer = toy(name)
    texts = [shared + text for text in own] + own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "CHUNK_CHARACTERS", chunk)
        found = find_cuts(tokenizer, marks_of(tokenizer))
        assert found is not None
        made = PieceTokenizer(tokenizer, found)
        for special in (False, True, False):
            assert in_pieces(made, texts, special) == whole(tokenizer, texts, special)


@pytest.mark.parametrize("name", MAKERS)
def test_cuts_by_structure(name: str) -> None:
    tokenizer = toy(name)
    found = find_cuts(tokenizer, marks_of(tokenizer))
    assert found is not None
    assert found.joints == (name in AT_JOINTS)
    assert PieceTokenizer.create(tokenizer, marks_of(tokenizer)) is not None


def with_added(*added: AddedToken) -> Tokenizer:
    return byte_level(splits(LLAMA3), marks=added)


def test_only_marks_that_nothing_hides() -> None:
    def marks(*others: AddedToken) -> tuple[str, ...]:
        tokenizer = with_added(AddedToken("<|end|>"), *others)
        found = find_cuts(tokenizer, ["<|end|>"])
        return () if found is None else found.marks

    assert marks() == ("<|end|>",)
    assert marks(AddedToken("<|"), AddedToken("|>a"), AddedToken("a", single_word=True)) != ()
    for other in ("a<|", "<|end|>!", "x<|end|>", "x<"):
        assert marks(AddedToken(other, normalized=False)) == (), other
        assert marks(AddedToken(other, normalized=True)) == (), other


@pytest.mark.parametrize(
    "mark",
    [
        AddedToken("<a>", lstrip=True),
        AddedToken("<a>", single_word=True),
        AddedToken("<a>", normalized=True),
        AddedToken("a>"),
        AddedToken(" <a>"),
        AddedToken("_a>"),
        AddedToken("<a<"),
    ],
)
def test_tokens_that_are_no_marks(mark: AddedToken) -> None:
    found = find_cuts(with_added(mark), [mark.content])
    assert found is None or found.marks == ()
    assert find_cuts(toy("llama3"), ["not a token"]) == Cuts((), True, (), ())


@pytest.mark.parametrize(
    "added",
    [
        AddedToken("fish swims", normalized=True),
        AddedToken("e\u0301 x", normalized=True),
        AddedToken("\u6f22\n", normalized=False),
        AddedToken("fish", rstrip=True),
        AddedToken("fish", lstrip=True),
        AddedToken(" fish", single_word=True),
    ],
)
def test_added_tokens_across_joints(added: AddedToken) -> None:
    assert find_cuts(with_added(added), []) is None


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        splits(LLAMA3 + r"|\p{L}+ \p{L}+"),
        splits(LLAMA3.replace(r"\s+(?!\S)", r"\s+(?=\S)")),
        splits(r"\p{N}|\s+"),
        splits(LLAMA3.replace(r"\p{L}+", r"\p{Ll}+", 1)),
        pre_tokenizers.Split(Regex(LLAMA3), "merged_with_next"),
        pre_tokenizers.Split(Regex(LLAMA3), "removed", invert=True),
        pre_tokenizers.Split("a", "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.ByteLevel(False, use_regex=False),
                pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            ]
        ),
        pre_tokenizers.Sequence([splits(LLAMA3), pre_tokenizers.FixedLength(3)]),
        pre_tokenizers.Sequence([pre_tokenizers.FixedLength(3), pre_tokenizers.ByteLevel(False)]),
    ],
)
def test_unknown_pre_tokenizers_are_not_cut_at_joints(
    pre_tokenizer: pre_tokenizers.PreTokenizer,
) -> None:
    assert find_cuts(byte_level(pre_tokenizer, marks=()), []) is None


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Prepend("_"),
        normalizers.Strip(),
        normalizers.Replace(Regex("h s"), "hs"),
        normalizers.NFD(),
        normalizers.Sequence([normalizers.NFC(), normalizers.Strip()]),
    ],
)
def test_only_nfc_leaves_joints(normalizer: normalizers.Normalizer) -> None:
    assert find_cuts(byte_level(splits(LLAMA3), normalizer), []) is None
    nfc = normalizers.Sequence([normalizers.NFC()])
    assert find_cuts(byte_level(splits(LLAMA3), nfc), []) == Cuts((), True, (), ())


def test_what_is_refused_altogether() -> None:
    def cut(**parts: object) -> Cuts | None:
        tokenizer = byte_level(splits(LLAMA3))
        for name, part in parts.items():
            setattr(tokenizer, name, part)
        return find_cuts(tokenizer, MARKS)

    class Custom:
        def pre_tokenize(self, text: object) -> None:
            raise NotImplementedError

    template = processors.TemplateProcessing(single="$A $A", special_tokens=[])
    start = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert cut() is not None
    assert cut(post_processor=processors.Sequence([processors.ByteLevel(), start])) == Cuts(
        tuple(sorted(MARKS)), True, (1,), ()
    )
    assert cut(post_processor=template) is None
    assert cut(post_processor=processors.Sequence([start, start])) is None
    assert cut(encode_special_tokens=True) is None
    assert cut(model=models.BPE(dropout=0.5)) is None
    assert cut(pre_tokenizer=pre_tokenizers.PreTokenizer.custom(Custom())) is None


def test_shared_text_is_tokenised_once() -> None:
    tokenizer = toy("llama3")
    seen: list[str] = []

    class Backend:
        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> list:
            seen.extend(texts)
            return tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    found = find_cuts(tokenizer, MARKS)
    assert found is not None
    made = PieceTokenizer(Backend(), found)
    shared = "<|start|>system\n" + TEXT * 5 + "<|end|>\n<|start|>user\n"
    texts = [f"{shared}question {i}<|end|>" for i in range(50)]
    in_pieces(made, texts[:10], False)
    in_pieces(made, texts, False)
    assert len(seen) == len(set(seen))
    assert sum(map(len, seen)) < len(shared) + 50 * len("<|start|>user\nquestion 10<|end|>") + 50
    seen.clear()
    question = [TEXT * 5 + f" question {i}?" for i in range(50)]  # shared, but up to no mark
    in_pieces(made, question, False)
    assert sum(map(len, seen)) < len(TEXT) * 5 + 50 * (CHUNK_CHARACTERS + 40)


def test_the_cache_is_bounded_and_keeps_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "CACHE_BYTES", 20_000)
    cache = pieces._Cache()
    ids = array("i", range(10))
    cache.put("used", ids)
    for i in range(2_000):
        cache.put(f"own {i}", ids)
        assert cache.get("used") is ids
        assert len(cache._young) + len(cache._old) <= 2 * 20_000 // 300
    assert cache.get("own 0") is None


def test_a_failed_trial_means_whole_prompts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pieces, "find_cuts", lambda *_: Cuts((), True, (), ()))
    assert PieceTokenizer.create(toy("metaspace-always"), []) is None
    assert "tokenised whole" in caplog.text


def test_whole_prompts_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shoal")
    assert PieceTokenizer.create(toy("metaspace-always"), []) is None
    assert "tokenised whole" in caplog.text


def test_parts_join_to_the_text_and_equal_beginnings_are_cut_alike() -> None:
    found = Cuts(("<a>", "<b>"), True, (), ())
    text = "<a><b>" + "word " * 200 + "<a>\n" + "x" * 600 + " y<b>"
    parts = found.parts(text)
    assert "".join(parts) == text
    assert parts[:2] == ["<a>", found.parts("<b>" + "word " * 200)[0]]
    assert found.parts(text[:900])[:3] == parts[:3]
    assert all(len(part) <= CHUNK_CHARACTERS + 4 for part in parts[:5])
    assert found.parts("") == []
