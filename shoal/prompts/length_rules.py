"""How long a request's output may be and is expected to be, from arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import InvalidRequestError
from shoal.prompts.refusals import empty_prompt
from shoal.types import RequestParams

UNSTATED_EXPECTED_TOKENS = 256
"""What a choice without a stated limit is expected to generate, if it may generate as much."""


@dataclass(frozen=True, slots=True)
class OutputLength:
    """Tokens of one choice: the hard limit and the expectation, both at least 1.

    A request that generates nothing has 1 as well: it takes no more KV than if it sampled once.
    """

    limit: int
    expected: int


@dataclass(frozen=True, slots=True)
class LengthRules:
    """What bounds prompt and output of a request.

    Attributes:
        max_model_len: most tokens of prompt and output together. Where nothing is generated, the
            prompt's last token is only scored, not read, and does not count.
        capacity_tokens: most tokens of KV the pool holds; the last output token needs none.
    """

    max_model_len: int
    capacity_tokens: int

    def output_length(
        self, prompt_tokens: int, params: RequestParams, param: str = "body"
    ) -> OutputLength:
        """The output length of a request; without a stated limit, all that fits.

        Args:
            params: its `token_limit` is the stated limit.
            param: the field that errors name.

        Raises:
            InvalidRequestError: `context_length_exceeded`, `kv_memory_exceeded`, or no prompt.
        """
        if prompt_tokens == 0:
            raise empty_prompt(param)
        stated = 0 if params.pooled else params.token_limit
        only_scored = stated == 0 and not params.pooled
        asked = prompt_tokens + (1 if stated is None else stated) - only_scored
        if asked > self.max_model_len:
            raise InvalidRequestError(
                f"{param}: {_described(prompt_tokens, stated)}, but prompt and output together "
                f"may have at most {self.max_model_len + only_scored}; shorten the prompt"
                f"{' or lower max_tokens' if stated else ''}.",
                code="context_length_exceeded",
                param=param,
            )
        limit = max(1, self._largest(prompt_tokens)) if stated is None else stated
        if prompt_tokens + limit - 1 > self.capacity_tokens:
            raise InvalidRequestError(
                f"{param}: {_described(prompt_tokens, stated)}, which needs "
                f"{prompt_tokens + limit - 1} tokens of KV, but the pool holds "
                f"{self.capacity_tokens}; raise --kv-memory.",
                code="kv_memory_exceeded",
                param=param,
            )
        expected = min(limit, UNSTATED_EXPECTED_TOKENS) if stated is None else limit
        return OutputLength(max(1, limit), max(1, expected))

    def _largest(self, prompt_tokens: int) -> int:
        by_pool = self.capacity_tokens - prompt_tokens + 1
        return min(self.max_model_len - prompt_tokens, by_pool)


def _described(prompt_tokens: int, stated: int | None) -> str:
    output = f" and may generate {stated}" if stated else ""
    return f"the prompt has {prompt_tokens} tokens{output}"
