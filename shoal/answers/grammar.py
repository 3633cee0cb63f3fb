"""Grammars compiled for a model's vocabulary, by llguidance: which tokens may come next.

Answers are matched as bytes. A token whose bytes do not depend on its neighbours has a place in
that; special tokens have none, but for the end of sequence where an answer may end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import fill_next_token_bitmask_par
from transformers import PreTrainedTokenizerBase

from shoal.answers.detokenize import Detokenizer
from shoal.errors import InternalError, InvalidRequestError
from shoal.types import Int32Array

T = TypeVar("T")

_LIMITS = LLParserLimits(verbose_errors=False)
_MOST_COMPILED = 256
"""Grammars kept compiled, those used last."""
_STACK = 512 << 20
"""Bytes for the recursion of the longest grammar there may be; taken as they are needed."""
_STACK_SIZE_LOCK = threading.Lock()


class _Vocabulary(TokenizerWrapper):
    """A model's tokens, as llguidance reads them."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, detokenizer: Detokenizer, vocab_size: int, ends: list[int]) -> None:
        self.tokens = [detokenizer.token_bytes(token) for token in range(vocab_size)]
        special = detokenizer.special_tokens.union(ends)
        self.special_token_ids = sorted(token for token in special if token < vocab_size)
        self.eos_token_id = ends[0]

    def __call__(self, s: str) -> list[int]:
        raise InternalError("a grammar forces no tokens, so none is made of a text")


class GrammarCompiler:
    """Compiles grammars for one vocabulary, each once. Threads may share it."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
    ) -> None:
        """Nothing is built before the first grammar comes."""
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self.eos_token_ids = frozenset(token for token in eos_token_ids if token < vocab_size)
        self._compiled = lru_cache(maxsize=_MOST_COMPILED)(self._compile)

    def check(self, grammar: str, param: str) -> None:
        """Refuse a grammar that cannot be had.

        Raises:
            InvalidRequestError: names `param`: it is wrong or not supported, nothing fulfils it, or
                the model's tokens cannot be matched with one.
        """
        try:
            self._compiled(grammar)
        except InvalidRequestError as error:
            message = f"{param}: {error.message}"
            raise InvalidRequestError(message, code=error.code, param=param) from None

    def matcher(self, grammar: str) -> LLMatcher:
        """Something that follows one answer, at its beginning.

        Raises:
            InvalidRequestError: see `check`.
        """
        return self._compiled(grammar).deep_copy()

    def fill(self, matchers: list[tuple[LLMatcher, int]], masks: Int32Array) -> None:
        """Write which tokens may come next, in parallel.

        Args:
            matchers: with the row of `masks` of each.
            masks: int32 [any, words], one bit per token; see `empty_masks`.
        """
        if matchers:
            fill_next_token_bitmask_par(self._executor, matchers, masks)

    def consume(self, tokens: list[tuple[LLMatcher, int]]) -> None:
        """Tell matchers the token that came, in parallel; one it does not fit has an error then."""
        if tokens:
            self._executor.consume_token_par(tokens)

    def empty_masks(self, rows: int) -> Int32Array:
        """Masks int32 [rows, words] that allow every token."""
        return np.full((rows, -(-self._vocab_size // 32)), -1, dtype=np.int32)

    def _compile(self, grammar: str) -> LLMatcher:
        vocabulary = self._vocabulary
        matcher = _with_room(lambda: LLMatcher(vocabulary, grammar, log_level=0, limits=_LIMITS))
        if not matcher.is_error():
            # Nothing fulfils it if there is no first token, which leaves an error.
            self.fill([(probe := matcher.deep_copy(), 0)], self.empty_masks(1))
            if not probe.is_error():
                return matcher
            raise _refused("no token of the model's vocabulary can begin such an answer")
        raise _refused(_reason(matcher.get_error()))

    @cached_property
    def _executor(self) -> LLExecutor:
        return LLExecutor(torch.get_num_threads())

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        if self._tokenizer is None:
            raise _refused("the model has no tokenizer, so the text of its tokens is not known")
        detokenizer = Detokenizer(self._tokenizer)
        if not detokenizer.knows_bytes:
            raise _refused(
                "the model's tokens cannot be matched with it, because their text depends on their "
                "neighbours; byte-level and SentencePiece tokenizers can. Ask for the format in "
                "the prompt"
            )
        if not self.eos_token_ids:
            raise _refused("the model has no end of sequence, so such an answer would never end")
        ends = sorted(self.eos_token_ids)
        wrapped = _Vocabulary(detokenizer, self._vocab_size, ends)
        return LLTokenizer(wrapped, n_vocab=self._vocab_size, eos_token=ends)


@lru_cache(maxsize=4)
def grammar_compiler(
    tokenizer: PreTrainedTokenizerBase | None, vocab_size: int, eos_token_ids: tuple[int, ...]
) -> GrammarCompiler:
    """The compiler of a model, one for all in a process that need it."""
    return GrammarCompiler(tokenizer, vocab_size, eos_token_ids)


def _with_room(work: Callable[[], T]) -> T:
    """Do it on a thread with a large stack: a chain of a thousand rules would overflow ours."""
    done: list[T] = []
    with _STACK_SIZE_LOCK:
        usual = threading.stack_size(_STACK)
        try:
            thread = threading.Thread(target=lambda: done.append(work()), name="compile-grammar")
            thread.start()
        finally:
            threading.stack_size(usual)
    thread.join()
    if not done:
        raise _refused("it could not be compiled")
    return done[0]


def _reason(error: str) -> str:
    """What llguidance's message comes to, without the excerpt of our text that follows it."""
    lines = error.strip().splitlines() or ["it could not be compiled"]
    of_regex = [line for line in lines if line.startswith("error: ")]
    *_, said = (of_regex or lines)[0].split("failed to compile JSON schema: ")
    return said.removeprefix("error: ")[:300]


def _refused(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{why.rstrip('.')}.", code="invalid_value")
