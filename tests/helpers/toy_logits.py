"""Small tokenizers made in memory."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = (
    """Stop! The end is near, says the 🐟 shoal 🐠🐠 of fish. Ελληνικά и русский, 漢字かな交じり文。
User: how many tokens? Assistant: a lot 👩‍👩‍👧‍👦 of them… naïve café. ENDOFTEXT stopstop sto stop
"""
    * 4
)


def byte_level(vocab_size=320, **options):
    """A byte-level BPE trained on `TEXT`; ids 0 and 1 are the special <eos> and <pad>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(s, special=True) for s in ("<eos>", "<pad>")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", **options)


def sentencepiece_like():
    """Llama 2's kind: pieces with ▁ for a space, bytes as <0xNN>."""
    pieces = ["<unk>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁Paris", "▁stop", "s", "t", "o", "p", "▁the", "é", ".", "▁."]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<eos>"])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def word_piece(clean_up=True):
    """BERT's kind, whose decoding may remove spaces before punctuation afterwards."""
    pieces = ["[UNK]", "the", "##s", "end", ".", ",", "do", "n", "'", "t", "stop"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", clean_up_tokenization_spaces=clean_up
    )
