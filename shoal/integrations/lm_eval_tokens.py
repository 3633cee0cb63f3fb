"""Texts of lm-evaluation-harness as token ids, as its own `hf` model makes them, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Pair = tuple[list[int], list[int]]
"""The tokens of a context and of its continuation."""


class HarnessTokenizer:
    """Tokenises as the harness's `hf` model does, each text once.

    Args:
        tokenizer: of transformers.
        add_bos_token: whether texts get the special tokens that begin them; None: as the
            tokenizer is configured.
        prefix_token_id: what stands before a continuation without a context; None: the beginning
            of sequence, or the end where there is none.
    """

    def __init__(
        self, tokenizer: Any, add_bos_token: bool | None = None, prefix_token_id: int | None = None
    ) -> None:
        self._tokenizer, self._add_bos_token = _configured(tokenizer, add_bos_token), add_bos_token
        bos = self._tokenizer.bos_token_id
        default = self._tokenizer.eos_token_id if bos is None else bos
        self.prefix_token_id: int = default if prefix_token_id is None else prefix_token_id

    @property
    def tokenizer(self) -> Any:
        """That of transformers, which begins texts as asked for."""
        return self._tokenizer

    def encode(
        self, texts: Sequence[str], add_special_tokens: bool | None = None
    ) -> list[list[int]]:
        """The tokens of each text. One that begins with the prefix's text gets no other before it.

        Args:
            add_special_tokens: None: as configured.
        """
        prefix = self._tokenizer.decode(self.prefix_token_id)
        flags = [
            not (prefix and text.startswith(prefix)) and self._add_bos_token is not False
            if add_special_tokens is None
            else add_special_tokens
            for text in texts
        ]
        found: list[list[int]] = [[] for _ in texts]
        for flag in set(flags):
            chosen = [i for i, each in enumerate(flags) if each == flag]
            ids = self._tokenizer(
                [texts[i] for i in chosen],
                add_special_tokens=flag,
                return_attention_mask=False,
                verbose=False,
            ).input_ids
            for i, tokens in zip(chosen, ids, strict=True):
                found[i] = tokens
        return found

    def pairs(self, texts: Sequence[tuple[str, str]]) -> list[Pair]:
        """The tokens of contexts and continuations.

        A continuation's tokens are what is left of both together, without the context's. Spaces
        at the end of a context belong to its continuation.
        """
        moved = [_moved(context, continuation) for context, continuation in texts]
        whole = self._by_text(context + rest for context, rest in moved if context)
        contexts = self._by_text(context for context, _ in moved if context)
        alone = self._by_text((rest for context, rest in moved if not context), False)
        return [
            (contexts[context], whole[context + rest][len(contexts[context]) :])
            if context
            else self._behind_prefix(alone[rest])
            for context, rest in moved
        ]

    def _behind_prefix(self, tokens: list[int]) -> Pair:
        if tokens[:1] == [self.prefix_token_id]:
            return tokens[:1], tokens[1:]
        return [self.prefix_token_id], tokens

    def _by_text(
        self, texts: Iterable[str], add_special_tokens: bool | None = None
    ) -> dict[str, list[int]]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self.encode(distinct, add_special_tokens), strict=True))


def _moved(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _configured(tokenizer: Any, add_bos_token: bool | None) -> Any:
    if add_bos_token is None:
        return tokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer.name_or_path, add_bos_token=add_bos_token)
