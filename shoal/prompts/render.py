"""Prompts to token ids: the model's chat template, then its tokenizer, many prompts at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from shoal.errors import InvalidRequestError
from shoal.prompts.chat_template import ChatTemplate
from shoal.prompts.prompts import ChatPrompt, Prompt
from shoal.prompts.refusals import no_tokenizer
from shoal.prompts.text_pieces import PieceTokenizer

TokenIds = Sequence[int]


class Renderer:
    """Renders and tokenises prompts for one model.

    `text` runs Python code and holds the GIL; `tokenize` of a fast tokenizer mostly releases it
    and uses all cores, so the two overlap when they run in two threads. Text that prompts share is
    tokenised once where the tokenizer allows it (`pieces.py`); `tokenize` is for one thread at a
    time.

    Args:
        tokenizer: the model's; None if it has none, and all texts are refused.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
        self._pieces = (
            None
            if tokenizer is None or self._backend is None
            else PieceTokenizer.create(self._backend, _special_tokens_of_prompts(tokenizer))
        )
        self.chat = None if tokenizer is None else ChatTemplate(tokenizer)

    def text(self, prompt: Prompt, where: str = "body.messages") -> str | list[int]:
        """The prompt as the model reads it; token ids pass through.

        Args:
            where: what errors call the messages of a chat.

        Raises:
            InvalidRequestError: see `ChatTemplate.text`; or there is no tokenizer.
        """
        if not isinstance(prompt, ChatPrompt):
            return prompt
        if self.chat is None:
            raise no_tokenizer(where)
        return self.chat.text(prompt, where)

    def tokenize(
        self, texts: Sequence[str], *, add_special_tokens: bool
    ) -> list[TokenIds | InvalidRequestError]:
        """Token ids of each text, or the error of a text that the tokenizer refuses.

        A chat template writes the special tokens itself, so its text takes none from here.
        """
        if self._tokenizer is None:
            return [no_tokenizer("a text") for _ in texts]
        try:
            return [*self._encode(texts, add_special_tokens)]
        except Exception as error:  # the tokenizer's exceptions do not say which text was at fault
            if len(texts) == 1:
                return [
                    InvalidRequestError(
                        f"the model's tokenizer refuses the prompt: {error}.",
                        code="tokenizer_error",
                        param="body",
                    )
                ]
            one_by_one = (self.tokenize([t], add_special_tokens=add_special_tokens) for t in texts)
            return [result for results in one_by_one for result in results]

    def _encode(self, texts: Sequence[str], special: bool) -> list[TokenIds]:
        if not texts:
            return []
        if self._backend is None:
            assert self._tokenizer is not None
            encoded = self._tokenizer(list(texts), add_special_tokens=special)
            return cast("list[TokenIds]", encoded["input_ids"])
        if self._pieces is not None:
            return list(self._pieces.encode(texts, add_special_tokens=special))
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=special)
        return [encoding.ids for encoding in encodings]


def _special_tokens_of_prompts(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The added tokens that the chat template writes, or that have a role such as BOS."""
    templates = tokenizer.chat_template or ""
    written = "".join(templates.values()) if isinstance(templates, dict) else templates
    with_role = set(tokenizer.special_tokens_map.values())
    contents = (token.content for token in tokenizer.added_tokens_decoder.values())
    return {content for content in contents if content in with_role or content in written}
