"""Small tokenizers of every make, trained in memory in a moment."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer

from shoal.model.description import bundled_model_path

TEXT = (
    "The quick brown fish swims over the lazy reef; it's 12345 metres deep, don't you see?\n\n"
    "Shoals of fish share a prefix: été, Größe, мир мира, 漢字他 かな.\n"
    "    def swim(self):\n\treturn [self.x, 3.14]  # THE END <|im 한국어 السلام\n"
) * 3
MARKS = ["<|start|>", "<|end|>"]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
]


def splits(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """Splits by each pattern in turn, then bytes."""
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def byte_level(
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    normalizer: normalizers.Normalizer | None = None,
    marks: tuple[str | AddedToken, ...] = tuple(MARKS),
) -> Tokenizer:
    """A byte-level BPE whose merges join what may stand on both sides of any cut."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens(list(marks))
    return tokenizer


def sentencepiece_bpe(scheme: str) -> Tokenizer:
    """Metaspace, byte fallback, and a BOS from the post-processor, as in Llama 2."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", *bytes_], show_progress=False, limit_alphabet=60
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens(["<s>", *MARKS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def sentencepiece_normalizer() -> Tokenizer:
    """The other way to write it: spaces replaced while normalising, and no pre-tokenizer."""
    tokenizer = sentencepiece_bpe("always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return tokenizer


def unigram() -> Tokenizer:
    """Unigram over Metaspace, white space collapsed and an end token, as in T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=250, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens(["</s>", *MARKS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer


def word_piece() -> Tokenizer:
    """Lower case, no accents, [CLS] and [SEP], as in BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens(MARKS)
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ids)
    return tokenizer


def odd_added_tokens() -> Tokenizer:
    """Added tokens that touch their surroundings, that hide each other, or that hold a joint."""
    marks = (
        AddedToken("<|start|>", rstrip=True),
        AddedToken("<|end|>"),
        AddedToken("<mask>", lstrip=True),
        AddedToken("<word>", single_word=True),
        AddedToken("fish", single_word=True, normalized=True),
        AddedToken("the lazy", normalized=True),
        AddedToken("<|end|>!", normalized=False),
        AddedToken("\n", normalized=False),
    )
    return byte_level(splits(LLAMA3), marks=marks)


def bundled() -> Tokenizer:
    """The tokenizer of the model that ships with Shoal."""
    return AutoTokenizer.from_pretrained(bundled_model_path()).backend_tokenizer


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "gpt2-prefix-space": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "gpt2-as-split": lambda: byte_level(splits(GPT2)),
    "digits": lambda: byte_level(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    ),
    "llama3": lambda: byte_level(splits(LLAMA3)),
    "qwen": lambda: byte_level(splits(LLAMA3.replace("{1,3}", "")), normalizers.NFC()),
    "o200k": lambda: byte_level(splits(O200K)),
    "deepseek": lambda: byte_level(splits(*DEEPSEEK)),
    "odd-added-tokens": odd_added_tokens,
    "metaspace-first": lambda: sentencepiece_bpe("first"),
    "metaspace-always": lambda: sentencepiece_bpe("always"),
    "sentencepiece-normalizer": sentencepiece_normalizer,
    "unigram": unigram,
    "word-piece": word_piece,
    "bundled": bundled,
}


@cache
def toy(name: str) -> Tokenizer:
    """One of `MAKERS`, made once."""
    tokenizer = MAKERS[name]()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def marks_of(tokenizer: Tokenizer) -> list[str]:
    """All its added tokens, but those for bytes."""
    contents = (token.content for token in tokenizer.get_added_tokens_decoder().values())
    return [content for content in contents if not content.startswith("<0x")]
