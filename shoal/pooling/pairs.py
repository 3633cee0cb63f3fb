"""The text of a query and a document, as a model reads the two together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from shoal.model.pooling import Pooling
from shoal.prompts.chat_template import ChatTemplate
from shoal.prompts.prompts import ChatPrompt

QWEN3_RERANKER = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
    "<Instruct>: {{ instruction | default('Given a web search query, retrieve relevant passages "
    "that answer the query', true) }}\n"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') "
    "| first }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') "
    "| first }}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>{{ '\\n\\n' }}"
)
"""What Qwen3-Reranker was trained with (its model card). The query comes first, so the documents of
a query share it. Jinja drops the newline that a template ends with: so it is written as a value."""


class PairTexts:
    """Writes pairs for one model.

    A template says how; where there is none the document follows the query, as in vLLM. The
    template is the one given; or the model's own, if it has the roles `query` and `document`; or
    Qwen3-Reranker's, of a model that answers yes or no.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        pooling: Pooling,
        template: str | None = None,
    ) -> None:
        self._template: ChatTemplate | None = None
        if template is None and tokenizer is not None:
            template = _own_template(tokenizer)
        if template is None and pooling.tokens:
            template = QWEN3_RERANKER
        if template is not None and tokenizer is not None:
            self._template = ChatTemplate(tokenizer, template, {"add_generation_prompt": True})

    @property
    def templated(self) -> bool:
        """Whether a template writes the pair, and with it all special tokens."""
        return self._template is not None

    def text(self, query: str, document: str, kwargs: Mapping[str, Any], where: str) -> str:
        """The two as the model reads them.

        Args:
            kwargs: given to the template, such as `instruction`.
            where: what errors call the pair.

        Raises:
            InvalidRequestError: see `ChatTemplate.text`.
        """
        if self._template is None:
            return query + document
        messages = [
            {"role": "query", "content": query},
            {"role": "document", "content": document},
        ]
        return self._template.text(ChatPrompt(messages, dict(kwargs)), where)


def pairs_of(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Each of `second` with its own of `first`, or with the only one there is.

    Raises:
        ValueError: there are neither as many nor one.
    """
    if not second or len(first) not in (1, len(second)):
        raise ValueError("there must be one query for all documents, or one for each")
    return list(zip(list(first) * (len(second) // len(first)), second, strict=True))


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The tokenizer's chat template, if it is one for pairs."""
    own = tokenizer.chat_template
    is_for_pairs = isinstance(own, str) and all(
        f"'{role}'" in own or f'"{role}"' in own for role in ("query", "document")
    )
    return own if is_for_pairs else None
